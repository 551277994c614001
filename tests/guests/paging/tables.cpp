// SPDX-License-Identifier: BSL-1.0
#include "tables.hpp"

#include "print.hpp"

extern "C" char user_page[], user_page_end[];

namespace paging {
namespace {

constexpr u32 kLegacyTables = static_cast<u32>(kIdentityLimit >> 22);
constexpr u32 kWideTables = static_cast<u32>(kIdentityLimit >> 21);

alignas(kPageSize) u32 legacy_tables[kLegacyTables][1024];
alignas(kPageSize) u32 legacy_root[1024];
alignas(kPageSize) u64 wide_tables[kWideTables][512];
alignas(kPageSize) u64 wide_directory[512];
alignas(kPageSize) u64 pae_root[512];
alignas(kPageSize) u64 long_pointers[512];
alignas(kPageSize) u64 long_root[512];

u64 next_frame = kFramePool;

u32 kernel_rights(u32 page) {
  const u32 pa = page * kPageSize;
  if (page == 0) return 0;
  if (pa >= address_of(user_page) && pa < address_of(user_page_end)) return low32(kP | kU);
  return low32(kP | kW);
}

}  // namespace

void zero_frame(u64 pa) {
  u32 dst = low32(pa), count = kPageSize / 4;
  asm volatile("rep stosl" : "+D"(dst), "+c"(count) : "a"(0) : "memory");
}

u64 frame() {
  const u64 pa = next_frame;
  next_frame += kPageSize;
  if (next_frame > kFramePoolEnd) {
    put("paging: out of frames\nGUEST-FAILED\n");
    leave_machine(1);
  }
  zero_frame(pa);
  return pa;
}

void frames_reset() { next_frame = kFramePool; }

u64 read_entry(Mode m, u64 pa) { return m == Mode::kLegacy ? at<u32>(pa) : at<u64>(pa); }

void write_entry(Mode m, u64 pa, u64 v) {
  if (m == Mode::kLegacy)
    at<u32>(pa) = low32(v);
  else
    at<u64>(pa) = v;
}

void kernel_tables_init() {
  for (u32 page = 0; page < kIdentityLimit / kPageSize; ++page) {
    const u32 rights = kernel_rights(page);
    const u32 entry = rights == 0 ? 0 : page * kPageSize | rights;
    legacy_tables[page / 1024][page % 1024] = entry;
    wide_tables[page / 512][page % 512] = entry;
  }
  for (u32 i = 0; i < kLegacyTables; ++i) legacy_root[i] = address_of(legacy_tables[i]) | low32(kAll);
  for (u32 i = 0; i < kWideTables; ++i) wide_directory[i] = address_of(wide_tables[i]) | kAll;
  pae_root[0] = address_of(wide_directory) | kP;
  long_pointers[0] = address_of(wide_directory) | kAll;
  long_root[0] = address_of(long_pointers) | kAll;
}

u64 kernel_root(Mode m) {
  switch (m) {
    case Mode::kLegacy:
      return address_of(legacy_root);
    case Mode::kPae:
      return address_of(pae_root);
    case Mode::kLong:
      return address_of(long_root);
    default:
      return 0;
  }
}

u64 new_root(Mode m) {
  const u64 root = frame();
  if (m == Mode::kLegacy) {
    for (u32 i = 0; i < kLegacyTables; ++i) at<u32>(root + 4 * i) = legacy_root[i];
  } else if (m == Mode::kPae) {
    at<u64>(root) = pae_root[0];
    for (u32 i = 1; i < 4; ++i) at<u64>(root + 8 * i) = frame() | kP;
  } else {
    const u64 pointers = frame();
    at<u64>(pointers) = long_pointers[0];
    at<u64>(root) = pointers | kAll;
  }
  return root;
}

u64 find(Mode m, u64 root, u64 gva, u32 level) {
  u64 table = root;
  for (u32 l = top_level(m);; --l) {
    const u64 slot = entry_address(m, table, gva, l);
    if (l == level) return slot;
    const u64 entry = read_entry(m, slot);
    if ((entry & kP) == 0) return 0;
    table = entry & kFrameMask;
  }
}

u64 map(Mode m, u64 root, u64 gva, u64 entry, u32 level, u64 upper) {
  u64 table = root;
  for (u32 l = top_level(m);; --l) {
    const u64 slot = entry_address(m, table, gva, l);
    if (l == level) {
      write_entry(m, slot, entry);
      return slot;
    }
    u64 next = read_entry(m, slot);
    if ((next & kP) == 0) {
      next = frame() | upper;
      write_entry(m, slot, next);
    }
    table = next & kFrameMask;
  }
}

void init_cell(u64 page) {
  const u64 cell = page + kCellOffset;
  const u32 word = cell_word(page);
  at<u32>(cell + kCellRead) = word;
  at<u32>(cell + kCellWrite) = 0;
  at<u8>(cell + kCellCode) = 0xb8;  // mov $word, %eax; ret
  at<u32>(cell + kCellCode + 1) = word;
  at<u8>(cell + kCellCode + 5) = 0xc3;
  at<u8>(cell + kCellUserCode) = 0xb8;  // mov $word, %eax; int $0x80
  at<u32>(cell + kCellUserCode + 1) = word;
  at<u16>(cell + kCellUserCode + 5) = 0x80cd;
}

void init_cells(u64 from, u64 to) {
  for (u64 page = from; page < to; page += kPageSize) init_cell(page);
}

u64 data_frame() {
  const u64 pa = frame();
  init_cell(pa);
  return pa;
}

}  // namespace paging
