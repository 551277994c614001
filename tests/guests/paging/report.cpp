// SPDX-License-Identifier: BSL-1.0
#include "report.hpp"

#include "machine.hpp"
#include "print.hpp"

namespace paging {
namespace {

constexpr u32 kMaxPrinted = 10;
constexpr u32 kMaxNotes = 16;

const char* group_name = "";
u32 group_cases, group_failures, all_cases, all_failures;
const char* notes[kMaxNotes];
u32 note_count;

}  // namespace

void group_begin(const char* name) {
  group_name = name;
  group_cases = group_failures = 0;
}

void group_end() {
  put("paging: ");
  put(group_name);
  put(": ");
  if (group_failures == 0) {
    put_dec(group_cases);
    put(" cases ok\n");
  } else {
    put_dec(group_failures);
    put(" of ");
    put_dec(group_cases);
    put(" cases FAILED\n");
  }
}

void case_ok() {
  ++group_cases;
  ++all_cases;
}

bool case_failed_printing() {
  case_ok();
  ++all_failures;
  if (++group_failures > kMaxPrinted) return false;
  put("paging: FAIL ");
  put(group_name);
  put(": ");
  put(mode_name(now.mode));
  put_field("cr0", read_cr0());
  put_field("cr4", read_cr4());
  put_field("efer", read_msr(kMsrEfer));
  return true;
}

bool expect(bool ok, const char* what, u64 expected, u64 actual) {
  if (ok) {
    case_ok();
    return true;
  }
  if (case_failed_printing()) {
    put(" ");
    put(what);
    put_field("expected", expected);
    put_field("actual", actual);
    put("\n");
  }
  return false;
}

void note(const char* text) {
  for (u32 i = 0; i < note_count; ++i)
    if (notes[i] == text) return;
  if (note_count < kMaxNotes) notes[note_count++] = text;
  put("paging: note: ");
  put(text);
  put("\n");
}

u32 total_cases() { return all_cases; }
u32 total_failures() { return all_failures; }

}  // namespace paging
