// SPDX-License-Identifier: BSL-1.0
// Tables reached by several ways at once: aliases, self-maps, shared tables, frames that change their use.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

namespace paging {
namespace {

// Stores the low half of an entry through a linear address of the scene, then checks where `page` leads.
void store_through(const Scene& s, u64 address, u64 entry, u64 page) {
  check_at(s.as(kWrite), address, low32(entry));
  flush_by_invlpg(page);
  check(s.as(kRead), page);
  check(s.as(kUserWrite), page);
}

void aliases(const Scene& s) {
  const u64 page = s.region + 0x3000, alias = s.region + 0x10000000;
  const u64 big_alias = s.region + 0x18000000;  // 4 MiB aligned
  const u64 frames[2] = {data_frame(), data_frame()};
  const u64 slot = s.map(page, frames[0] | kAll);
  s.map(alias, (slot & kFrameMask) | kP | kW);
  s.map(big_alias, kFramePool | kPs | kP | kW, 2);
  for (u32 i = 0; i < 32; ++i) {
    const u64 entry = frames[i & 1] | kP | (i & 2 ? kU : 0) | (i & 4 ? kW : 0);
    store_through(s, alias + (slot & 0xfff), entry, page);
    store_through(s, big_alias + (slot - kFramePool), entry ^ kU, page);
  }
}

// A table that maps itself: the store changes the very entry that translated it.
void own_entry(const Scene& s) {
  const u64 page = s.region + 0x7000;
  const u64 other = data_frame();
  const u64 slot = s.map(page, 0);
  const u64 table = slot & kFrameMask;
  for (u32 i = 0; i < 16; ++i) {
    s.store(slot, table | kAll | (i & 1 ? kA | kD : 0));
    flush_by_invlpg(page);
    const u64 own = page + (slot & 0xfff);
    if (i & 2) check_at(s.as(kRead), own, 0);
    check_at(s.as(i & 4 ? kUserWrite : kWrite), own, low32(other | kAll | kA));
    flush_by_invlpg(page);
    check(s.as(kRead), page);
    check(s.as(kWrite), page);
  }
}

struct SelfMap {
  u64 window;  // linear address of the first entry
  u64 base;    // first linear address that the window's tables serve
  u64 slot;    // the self entry's physical address
  u64 table;
};

// Legacy and long: the root in its own slot. PAE: the directory of the region's gigabyte in its own slot.
SelfMap make_self_map(const Scene& s) {
  SelfMap m{};
  if (s.mode == Mode::kLong) {
    constexpr u64 kSlot = 300;
    m = {0xffff000000000000 | (kSlot << 39), 0, s.root + 8 * kSlot, s.root};
  } else if (s.mode == Mode::kPae) {
    constexpr u64 kSlot = 500;
    const u64 directory = s.slot(s.region, 2) & kFrameMask;
    m = {(s.region & ~(bit(30) - 1)) | (kSlot << 21), s.region & ~(bit(30) - 1), directory + 8 * kSlot, directory};
  } else {
    constexpr u64 kSlot = 900;
    m = {kSlot << 22, 0, s.root + 4 * kSlot, s.root};
  }
  s.store(m.slot, m.table | kP | kW);
  return m;
}

u64 window_address(const Scene& s, const SelfMap& m, u64 gva) {
  const u64 span = s.mode == Mode::kLong ? bit(48) - 1 : s.mode == Mode::kPae ? bit(30) - 1 : bit(32) - 1;
  return m.window + (((gva & span) >> 12) * entry_bytes(s.mode));
}

void self_maps(const Scene& scene) {
  Scene s = scene;
  s.wide = s.mode == Mode::kLong;  // the window lies high
  const u64 page = s.region + 0x6000;
  const u64 frames[2] = {data_frame(), data_frame()};
  const u64 slot = s.map(page, frames[0] | kAll);
  const SelfMap m = make_self_map(s);
  flush_by_cr3();
  const u64 entry_gva = window_address(s, m, page);
  for (u32 i = 0; i < 32; ++i)
    store_through(s, entry_gva, frames[i & 1] | kP | (i & 2 ? kU : 0) | (i & 4 ? kW : 0), page);
  s.store(slot, frames[0] | kAll);
  flush_by_cr3();
  // The next levels up, each through one more turn of the window.
  const u64 table2 = frame();
  s.store(entry_address(s.mode, table2, page, 1), frames[1] | kAll);
  const u64 directory_gva = window_address(s, m, entry_gva);
  const u64 old = s.load(s.slot(page, 2));
  for (u32 i = 0; i < 16; ++i) {
    check_at(s.as(kWrite), directory_gva, low32(i & 1 ? old : table2 | kAll));
    flush_by_invlpg(page);
    flush_by_invlpg(entry_gva);
    check(s.as(kRead), page);
    check_at(s.as(kRead), entry_gva, 0);
  }
  // The fixed point: the self entry seen through itself, at every level. Replace it by a copy of its table.
  u64 self_gva = m.window;
  for (u32 l = 0; l < top_level(s.mode); ++l) self_gva = window_address(s, m, self_gva);
  expect(s.load(m.slot) != 0, "self entry");
  check_at(s.as(kRead), self_gva, 0);
  const u64 copy = frame();
  for (u32 i = 0; i < kPageSize; i += 4) at<u32>(copy + i) = at<u32>(m.table + i);
  const u64 copy_slot = copy + (m.slot & 0xfff);
  for (u32 i = 0; i < 8; ++i) {
    check_at(s.as(kWrite), self_gva, low32(copy | kP | kW));
    flush_by_cr3();
    check_at(s.as(kRead), entry_gva, 0);
    s.store(copy_slot, m.table | kP | kW);
    s.store(m.slot, m.table | kP | kW);
    flush_by_cr3();
    check_at(s.as(kRead), self_gva, 0);
  }
}

// One frame as directory and as table of its own entries.
void one_frame_two_levels(const Scene& s) {
  const u64 page = s.region;
  const u64 table = s.mode == Mode::kLegacy ? s.root : (s.map(page, 0, 2) & kFrameMask);
  const u32 shift = page_shift(s.mode, 2);
  const u64 i = entry_address(s.mode, 0, page, 2) / entry_bytes(s.mode), j = i + 3;
  const u64 frames[2] = {data_frame(), data_frame()};
  const u64 base = page & ~(bit(shift + index_bits(s.mode)) - 1);
  const u64 upper = s.mode == Mode::kLegacy ? 0 : base;
  s.store(table + i * entry_bytes(s.mode), table | kAll);
  for (u32 n = 0; n < 16; ++n) {
    s.store(table + j * entry_bytes(s.mode), frames[n & 1] | kAll);
    flush_by_cr3();
    check(s.as(n & 2 ? kRead : kWrite), upper | (i << shift) | (j << 12));
    check_at(s.as(kRead), (upper | (i << shift) | (i << 12)) + j * entry_bytes(s.mode), 0);
  }
  s.store(table + i * entry_bytes(s.mode), 0);
  flush_by_cr3();
}

void shared_tables(const Scene& s) {
  const u64 page = s.region + 0x4000;
  const u64 frames[2] = {data_frame(), data_frame()};
  const u64 slot = s.map(page, frames[0] | kAll);
  const u64 twin = frame();
  for (u32 i = 0; i < kPageSize; i += 4) at<u32>(twin + i) = at<u32>(s.root + i);
  for (u32 i = 0; i < 32; ++i) {
    write_cr3(low32(i & 1 ? twin : s.root));
    check(s.as(kRead), page);
    s.store(slot, frames[i / 2 & 1] | kP | (i & 4 ? kW : 0) | (i & 8 ? kU : 0));
    write_cr3(low32(i & 2 ? twin : s.root));
    check(s.as(kRead), page);
    check(s.as(kWrite), page);
    check(s.as(kUserRead), page);
  }
  write_cr3(low32(s.root));
}

void many_roots(const Scene& s) {
  constexpr u32 kRoots = 8, kPages = 4;
  Random rng(options.seed);
  u64 roots[kRoots], slots[kRoots][kPages];
  const u64 pages[kPages] = {s.region, s.region + 0x1000, s.region + 0x800000, s.region + 0x8000000};
  for (u32 r = 0; r < kRoots; ++r) {
    roots[r] = new_root(s.mode);
    for (u32 p = 0; p < kPages; ++p) slots[r][p] = map(s.mode, roots[r], pages[p], data_frame() | kAll);
  }
  u32 current = 0;
  write_cr3(low32(roots[0]));
  for (u32 i = 0; i < 1200; ++i) {
    if (rng.one_in(2)) {
      current = rng.below(kRoots);
      write_cr3(low32(roots[current]));
    }
    // A change to a root that is not in use needs no flush: its next CR3 load is one.
    const u32 other = rng.below(kRoots), p = rng.below(kPages);
    if (other != current && rng.one_in(3)) {
      const u64 flip = rng.one_in(2) ? kW : rng.one_in(2) ? kU : kP;
      s.store(slots[other][p], s.load(slots[other][p]) ^ flip);
    }
    check(s.as({static_cast<Op>(rng.below(3)), rng.one_in(2)}), pages[rng.below(kPages)]);
  }
  write_cr3(low32(s.root));
}

void frames_change_use(const Scene& s) {
  const u64 page = s.region + 0x5000, window = s.region + 0x8000000;
  const u64 frames[2] = {data_frame(), data_frame()};
  s.map(page, frames[0] | kAll);
  const u64 directory = s.slot(page, 2);
  const u64 old = s.load(directory);
  const u64 table = old & kFrameMask;
  const u64 window_slot = s.map(window, 0);
  for (u32 i = 0; i < 16; ++i) {
    check(s.as(kRead), page);
    // The table becomes a data page ...
    s.store(directory, 0);
    flush_by_invlpg(page);
    check_is(s.as(kRead), page, 0);
    init_cell(table);
    s.store(window_slot, table | kAll);
    flush_by_invlpg(window);
    check(s.as(kRead), window);
    check(s.as(kWrite), window);
    check(s.as(kUserFetch), window);
    // ... is filled as one with entries, and is a table again while still mapped.
    const u64 entry = frames[i & 1] | kAll;
    check_at(s.as(kUserWrite), window + (entry_address(s.mode, 0, page, 1)), low32(entry));
    s.store(directory, old & ~kA);
    check_after_faults(s.as(kRead), page, 1);
    check_at(s.as(kWrite), window + (entry_address(s.mode, 0, page, 1)), low32(entry ^ kU));
    flush_by_invlpg(page);
    check(s.as(kUserRead), page);
    s.store(window_slot, 0);
    flush_by_invlpg(window);
  }
}

}  // namespace

void alias_tests() {
  for_each_scene(aliases);
  for_each_scene(own_entry);
  for_each_low_scene(self_maps);
  for_each_scene(one_frame_two_levels);
  for_each_scene(shared_tables);
  for_each_scene(many_roots);
  for_each_scene(frames_change_use);
}

}  // namespace paging
