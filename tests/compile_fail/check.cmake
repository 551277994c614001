# SPDX-License-Identifier: BSL-1.0
# cmake -D COMPILER= -D SOURCE= -D INCLUDE= [-D BOOST=] -P check.cmake
file(STRINGS ${SOURCE} expect REGEX "^// expect: ")
list(LENGTH expect lines)
if(NOT lines EQUAL 1)
  message(FATAL_ERROR "${SOURCE}: needs exactly one line '// expect: shadowmmu: ...'")
endif()
string(REGEX REPLACE "^// expect: " "" expect "${expect}")
string(REPLACE "\\;" ";" expect "${expect}")  # file(STRINGS) escapes them as list separators
# Policies are diagnosed in our words; a broken contract of types (flushes, batches, tokens) in the compiler's.

set(ENV{LC_ALL} C)
set(command ${COMPILER} -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Werror -I${INCLUDE})
if(BOOST)
  list(APPEND command -idirafter ${BOOST})
endif()

execute_process(COMMAND ${command} ${SOURCE} RESULT_VARIABLE status ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "the legal twin does not compile:\n${output}")
endif()

execute_process(COMMAND ${command} -DCASE_BAD ${SOURCE} RESULT_VARIABLE status ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "the illegal case compiles; expected: ${expect}")
endif()
# Semicolons and brackets would be list syntax to CMake.
string(REGEX REPLACE "[][;]" " " lines_text "${output}")
string(REGEX REPLACE "[][;]" " " expect_text "${expect}")
string(REGEX MATCHALL "[^\n]*error: [^\n]*" errors "${lines_text}")
list(LENGTH errors count)
if(NOT count EQUAL 1)
  message(FATAL_ERROR "expected one error, got ${count}:\n${output}")
endif()
string(FIND "${errors}" "${expect_text}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "expected: ${expect}\ngot:\n${output}")
endif()
message(STATUS "refused as it should be: ${expect}")
