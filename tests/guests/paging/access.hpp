// SPDX-License-Identifier: BSL-1.0
// Makes accesses and compares what happened with the oracle.
#pragma once

#include "oracle.hpp"

namespace paging {

struct Outcome {
  u32 vector = kNoTrap, error = 0;
  u64 cr2 = 0;
  u32 value = 0;
};

// One access to the cell of the page at gva (see tables.hpp), or to the very address given.
u64 cell_address(const Access& a, u64 page);
Outcome perform(const Access& a, u64 address, u32 write_value);

// Performs and compares fault, error code, CR2, value moved, and every used entry afterwards. Counts one case.
// Requires: no stale translation that the manual would permit to be used. Returns whether all was as expected.
bool check(const Access& a, u64 page);
bool check_at(const Access& a, u64 address, u32 write_value);

// One access, retried while it faults spuriously (at most `tries` faults), then compared like check().
bool check_after_faults(const Access& a, u64 page, u32 tries);

// check() plus what the test itself knows: ok, or this fault (its error code as the manual gives it).
constexpr u32 kExpectOk = 0x10000;
bool check_is(const Access& a, u64 page, u32 expected_error);

constexpr Access kRead{Op::kRead}, kWrite{Op::kWrite}, kFetch{Op::kFetch};
constexpr Access kUserRead{Op::kRead, true}, kUserWrite{Op::kWrite, true}, kUserFetch{Op::kFetch, true};

}  // namespace paging
