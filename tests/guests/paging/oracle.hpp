// SPDX-License-Identifier: BSL-1.0
// What the manual says about one access: a walk of the tables in memory, without side effects.
#pragma once

#include "machine.hpp"
#include "tables.hpp"

namespace paging {

enum class Op : u8 { kRead, kWrite, kFetch };

struct Access {
  Op op = Op::kRead;
  bool user = false;
  bool ac = false;
  bool wide = false;  // from 64-bit code
};

struct Walk {
  enum class Result : u8 { kOk, kFault, kUnknown } result = Result::kUnknown;  // kUnknown: tables outside known RAM
  u32 error = 0;
  u64 gpa = 0;
  u32 used = 0;  // entries looked at, from the top
  bool leaf_reached = false;
  struct Step {
    u64 address, value;
    u32 level;
    bool pointer;  // a PAE PDPTE, which has no A bit
  } step[4] = {};
};

// `strict` decides whether a reserved-bit fault carries P. Requires: CR3 and `now` as the CPU has them.
Walk walk(const Access& access, u64 gva);

// Bits that fault when set in a present entry of `level`; `large` for a page of 2 MiB and up.
u64 reserved_bits(const Controls& c, u32 level, bool large);

}  // namespace paging
