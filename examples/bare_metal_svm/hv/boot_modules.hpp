// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "memory_map.hpp"

namespace hv {

/// A file that the loader put in memory. `string` is its name, then a space and its arguments, if any.
struct BootModule {
  const std::uint8_t* data = nullptr;
  std::uint64_t size = 0;
  const char* string = "";
  [[nodiscard]] const char* arguments() const noexcept {
    const char* s = string;
    while (*s != '\0' && *s != ' ') ++s;
    return *s == ' ' ? s + 1 : s;
  }
};

/// All that the loader told us, out of its own structures.
struct BootInfo {
  const char* command_line = "";
  MemoryMap memory{};
  BootModule modules[2]{};
  unsigned module_count = 0;
  std::uint64_t end = 0;  ///< first byte behind everything that the loader put behind us

  /// Returns: the number behind `name=` in the command line, or `otherwise`.
  [[nodiscard]] std::uint64_t option(const char* name, std::uint64_t otherwise) const noexcept;
};

/// Requires: `info` is the multiboot information structure.
[[nodiscard]] BootInfo read_boot_info(std::uint64_t info) noexcept;

}  // namespace hv
