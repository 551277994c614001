// SPDX-License-Identifier: BSL-1.0
// Page tables of the tests: frames, the kernel's own identity map, entries by mode and level.
#pragma once

#include "machine.hpp"
#include "types.hpp"

namespace paging {

// Zeroed frames from the pool; frames_reset() takes all of them back.
u64 frame();
void frames_reset();
void zero_frame(u64 pa);

// Levels count up from 1, the table of 4 KiB pages.
constexpr u32 top_level(Mode m) { return m == Mode::kLong ? 4 : m == Mode::kPae ? 3 : 2; }
constexpr u32 entry_bytes(Mode m) { return m == Mode::kLegacy ? 4 : 8; }
constexpr u32 index_bits(Mode m) { return m == Mode::kLegacy ? 10 : 9; }
constexpr u32 page_shift(Mode m, u32 level) { return 12 + (level - 1) * index_bits(m); }
constexpr u64 entry_address(Mode m, u64 table, u64 gva, u32 level) {
  const u32 bits = m == Mode::kPae && level == 3 ? 2 : index_bits(m);
  const u64 index = (gva >> page_shift(m, level)) & (bit(bits) - 1);
  return table + index * entry_bytes(m);
}
constexpr u64 kFrameMask = 0x000ffffffffff000ull;

u64 read_entry(Mode m, u64 pa);
void write_entry(Mode m, u64 pa, u64 v);

void kernel_tables_init();
u64 kernel_root(Mode m);
// A root that maps the kernel and nothing else; a PAE one has an empty directory in each other PDPTE.
u64 new_root(Mode m);

// Address of gva's entry at `level`, or 0 where the path to it is not there.
u64 find(Mode m, u64 root, u64 gva, u32 level);
// Puts `entry` into gva's slot at `level`, with tables made on the way as `upper` says. Returns the slot's address.
u64 map(Mode m, u64 root, u64 gva, u64 entry, u32 level = 1, u64 upper = kAll);

// A cell is what an access finds at kCellOffset of every data page: a word, a place to write, code for both rings.
constexpr u32 kCellOffset = 0x800;
constexpr u32 kCellRead = 0, kCellWrite = 8, kCellCode = 16, kCellUserCode = 32;
constexpr u32 cell_word(u64 pa) { return 0x5a000000u ^ static_cast<u32>(pa >> 8); }
void init_cell(u64 page);
void init_cells(u64 from, u64 to);
u64 data_frame();

}  // namespace paging
