// SPDX-License-Identifier: BSL-1.0
// The top table in the first page of memory, whose address is that of no object in C++.
#include "cases.hpp"

namespace machine {

bool page_zero() {
  constexpr u32 kAlias = 0x40000000, kEntry = kAlias >> 22, kLarge = 0x83, kAccessed = 0x20, kDirty = 0x40;
  static volatile u32 cell;
  for (u32 i = 0; i < 1024; ++i) at<u32>(4 * i) = i << 22 | kLarge;
  at<u32>(4 * kEntry) = kLarge;
  paging::write_cr4(paging::read_cr4() | paging::kCr4Pse);
  paging::write_cr3(0);
  paging::write_cr0(paging::read_cr0() | paging::kCr0Pg);

  cell = 0x5eed;
  const u32 alias = kAlias + address_of(&cell), got = at<u32>(alias);
  if (got != 0x5eed) return wrong("word through a table in page 0", 0x5eed, got);
  const u32 read_entry = at<u32>(4 * kEntry);
  if (read_entry != (kLarge | kAccessed)) return wrong("entry in page 0 after a read", kLarge | kAccessed, read_entry);
  at<u32>(alias) = 0xfeed;
  const u32 written = kLarge | kAccessed | kDirty, written_entry = at<u32>(4 * kEntry);
  if (written_entry != written) return wrong("entry in page 0 after a write", written, written_entry);
  return cell == 0xfeed || wrong("word written through it", 0xfeed, cell);
}

}  // namespace machine
