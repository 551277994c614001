// SPDX-License-Identifier: BSL-1.0
// Counts cases by group and prints the first failures of each.
#pragma once

#include "types.hpp"

namespace paging {

void group_begin(const char* name);
void group_end();
// Counts one case; true when its failure is to be printed (the caller then prints one line's details).
bool case_failed_printing();
void case_ok();
// Counts one case and prints `what` and two values when it failed.
bool expect(bool ok, const char* what, u64 expected = 0, u64 actual = 0);
// A permitted departure of the machine from the manual: told once per text, never a failure.
void note(const char* text);

u32 total_cases();
u32 total_failures();

}  // namespace paging
