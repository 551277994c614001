// SPDX-License-Identifier: BSL-1.0
// SDM vol. 3A: 4.1.3 to 4.5 (entries), 4.6 (rights), 4.7 (error codes).
#include "oracle.hpp"

namespace paging {
namespace {

constexpr u32 kErrorPresent = 1, kErrorWrite = 2, kErrorUser = 4, kErrorReserved = 8, kErrorFetch = 16;

constexpr u64 bits(u32 from, u32 to) {  // inclusive
  return (bit(to) - 1 + bit(to)) & ~(bit(from) - 1);
}

bool is_large(const Controls& c, u32 level, u64 entry) {
  if ((entry & kPs) == 0) return false;
  if (c.mode == Mode::kLegacy) return level == 2 && c.pse;
  if (c.mode == Mode::kPae) return level == 2;
  return level == 2 || (level == 3 && features.gigabyte);
}

u64 large_base(const Controls& c, u32 level, u64 entry) {
  if (c.mode != Mode::kLegacy) return entry & kFrameMask & ~(bit(page_shift(c.mode, level)) - 1);
  const u64 base = entry & 0xffc00000;
  return features.pse36 ? base | ((entry & bits(13, 20)) << 19) : base;
}

u32 fault_code(const Access& a, u32 cause) {
  u32 code = cause;
  if (a.user) code |= kErrorUser;
  if (a.op == Op::kWrite) code |= kErrorWrite;
  if (a.op == Op::kFetch && (now.smep || (now.mode != Mode::kLegacy && now.nxe))) code |= kErrorFetch;
  return code;
}

bool permitted(const Access& a, u64 all, bool no_execute) {
  const bool user_page = (all & kU) != 0;
  if (a.user && !user_page) return false;
  if (a.op == Op::kFetch) return !no_execute && (a.user || !user_page || !now.smep);
  if (!a.user && user_page && now.smap && !a.ac) return false;
  if (a.op == Op::kRead) return true;
  return (all & kW) != 0 || (!a.user && !now.wp);
}

}  // namespace

u64 reserved_bits(const Controls& c, u32 level, bool large) {
  const u32 phys = features.physical_bits;
  if (c.mode == Mode::kLegacy) {
    if (!large) return 0;
    if (!features.pse36) return bits(13, 21);
    return phys >= 40 ? bit(21) : bits(13 + (phys - 32), 21);
  }
  u64 r = phys < 52 ? bits(phys, 51) : 0;
  if (c.mode == Mode::kPae) {
    if (level == 3) return r | bits(52, 63) | bits(5, 8) | bits(1, 2);
    r |= bits(52, 62);
  }
  if (!c.nxe) r |= kNx;
  if (large) r |= bits(13, page_shift(c.mode, level) - 1);
  if (c.mode == Mode::kLong && (level == 4 || (level == 3 && !features.gigabyte))) r |= kPs;
  return r;
}

Walk walk(const Access& a, u64 gva) {
  Walk w;
  const Mode m = now.mode;
  u64 table = m == Mode::kPae ? read_cr3() & ~31u : read_cr3() & ~0xfffu;
  u64 all = kAll;
  bool no_execute = false;
  for (u32 level = top_level(m); level > 0; --level) {
    const u64 slot = entry_address(m, table, gva, level);
    if (slot >= kIdentityLimit) return w;
    const u64 entry = read_entry(m, slot);
    const bool pointer = m == Mode::kPae && level == 3;
    w.step[w.used++] = {slot, entry, level, pointer};
    if ((entry & kP) == 0) {
      w.result = Walk::Result::kFault;
      w.error = fault_code(a, 0);
      return w;
    }
    const bool large = is_large(now, level, entry);
    // A PDPTE is judged when CR3 is loaded, not here.
    if (!pointer && (entry & reserved_bits(now, level, large)) != 0) {
      w.result = Walk::Result::kFault;
      w.error = fault_code(a, kErrorReserved | (strict ? kErrorPresent : 0));
      return w;
    }
    if (!pointer) {
      all &= entry;
      no_execute = no_execute || (m != Mode::kLegacy && (entry & kNx) != 0);
    }
    if (large || level == 1) {
      w.leaf_reached = true;
      w.gpa = large ? large_base(now, level, entry) | (gva & (bit(page_shift(m, level)) - 1))
                    : (entry & kFrameMask) | (gva & (kPageSize - 1));
      break;
    }
    table = entry & kFrameMask;
  }
  if (permitted(a, all, no_execute)) {
    w.result = Walk::Result::kOk;
  } else {
    w.result = Walk::Result::kFault;
    w.error = fault_code(a, kErrorPresent);
  }
  return w;
}

}  // namespace paging
