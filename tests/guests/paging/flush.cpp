// SPDX-License-Identifier: BSL-1.0
// What must be seen after each kind of flush, and what must be seen with none.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

namespace paging {
namespace {

enum class Flush : u8 { kInvlpg, kCr3, kPge, kPg };
constexpr Flush kFlushes[] = {Flush::kInvlpg, Flush::kCr3, Flush::kPge, Flush::kPg};

void toggle_pge() {
  const u32 cr4 = read_cr4();
  write_cr4(cr4 ^ kCr4Pge);
  write_cr4(cr4);
}

void flush(Flush kind, u64 gva) {
  switch (kind) {
    case Flush::kInvlpg:
      flush_by_invlpg(gva);
      break;
    case Flush::kCr3:
      flush_by_cr3();
      break;
    case Flush::kPge:
      toggle_pge();
      break;
    case Flush::kPg: {  // in long mode LME stays, so this leaves and enters it
      const u32 cr0 = read_cr0();
      write_cr0(cr0 & ~kCr0Pg);
      write_cr0(cr0);
      break;
    }
  }
}

struct Change {
  u64 clear, set;
  Access access;
  u32 error;
};
constexpr Change kChanges[] = {
    {kW, 0, kWrite, 3}, {kW, 0, kUserWrite, 7}, {kU, 0, kUserRead, 5},  {kU, 0, kUserWrite, 7},
    {kP, 0, kRead, 0},  {kP, 0, kUserWrite, 6}, {0, kNx, kFetch, 0x11}, {0, kNx, kUserFetch, 0x15},
};

void downgrades_and_upgrades(const Scene& s) {
  const u64 page = s.region + 0x5000;
  s.map(page, data_frame() | kAll);
  for (u32 level = 1; level <= s.last_level(); ++level) {
    const u64 slot = s.slot(page, level);
    for (const Change& c : kChanges) {
      if ((c.set & kNx) && s.nx() == 0) continue;
      for (const Flush kind : kFlushes) {
        if (kind == Flush::kPge && !features.pge) continue;
        check_is(s.as(c.access), page, kExpectOk);
        s.change(slot, c.clear, c.set);
        flush(kind, page);
        check_is(s.as(c.access), page, c.error);
        s.change(slot, c.set, c.clear);
        check_after_faults(s.as(c.access), page, 2);
        check_is(s.as(c.access), page, kExpectOk);
      }
    }
    // Not present, never present before: no flush is owed at all.
    const u64 value = s.load(slot);
    s.store(slot, 0);
    flush(Flush::kInvlpg, page);
    check_is(s.as(kRead), page, 0);
    s.store(slot, value);
    check_after_faults(s.as(kRead), page, 1);
  }
}

void remaps(const Scene& s) {
  const u64 page = s.region + 0x8000;
  const u64 frames[2] = {data_frame(), data_frame()};
  s.map(page, frames[0] | kAll);
  for (u32 i = 0; i < 16; ++i) {
    for (const Flush kind : kFlushes) {
      check(s.as(i & 1 ? kRead : kUserRead), page);
      check(s.as(i & 2 ? kWrite : kFetch), page);
      s.change(s.slot(page), kFrameMask, frames[i & 1]);
      flush(kind, page);
      check(s.as(kRead), page);
      check(s.as(kUserFetch), page);
    }
  }
  // A whole table exchanged under an upper entry.
  const u64 table = frame();
  s.store(entry_address(s.mode, table, page, 1), frames[0] | kAll);
  s.store(s.slot(page), frames[1] | kAll);
  flush(Flush::kCr3, page);
  const u64 upper = s.slot(page, 2);
  const u64 other = s.load(upper);
  for (u32 i = 0; i < 16; ++i) {
    check(s.as(kRead), page);
    s.store(upper, i & 1 ? other : table | kAll);
    flush(kFlushes[i / 2 % 4], page);
    check(s.as(kRead), page);
  }
}

void globals(Scene s) {
  if (!features.pge) return;
  Controls c = usual_controls(s.mode);
  c.pge = true;
  s = make_scene(s.mode, s.wide, c);
  const u64 page = s.region + 0x9000;
  const u64 a = data_frame(), b = data_frame();
  const u64 slot = s.map(page, a | kAll | kG);
  for (u32 i = 0; i < 8; ++i) {
    check(s.as(kRead), page);
    s.change(slot, kFrameMask, i & 1 ? a : b);
    flush_by_cr3();  // a global translation may survive this
    const Outcome o = perform(s.as(kRead), cell_address(kRead, page), 0);
    const bool old_or_new = o.value == cell_word(a) || o.value == cell_word(b);
    expect(o.vector == kNoTrap && old_or_new, "global page", cell_word(a), o.value);
    flush(i & 2 ? Flush::kPge : Flush::kInvlpg, page);
    check(s.as(kRead), page);
  }
  s.change(slot, kG, 0);
  flush(Flush::kPge, page);
  for (u32 i = 0; i < 8; ++i) {  // without G a CR3 load must do, PGE set or not
    check(s.as(kRead), page);
    s.change(slot, kFrameMask, i & 1 ? a : b);
    flush_by_cr3();
    check(s.as(kRead), page);
  }
  // PGE itself off: G means nothing.
  s.change(slot, 0, kG);
  c.pge = false;
  set_controls(c);
  for (u32 i = 0; i < 8; ++i) {
    check(s.as(kRead), page);
    s.change(slot, kFrameMask, i & 1 ? a : b);
    flush_by_cr3();
    check(s.as(kRead), page);
  }
}

// INVLPG anywhere in a large page drops all of it.
void large_pages(const Scene& s) {
  Random rng(options.seed);
  const u32 levels = s.mode == Mode::kLong && features.gigabyte ? 3 : 2;
  for (u32 level = 2; level <= levels; ++level) {
    const u64 size = bit(page_shift(s.mode, level));
    const u64 gva = level == 3 ? s.region & ~(size - 1) : s.region + 2 * size;
    const u64 old_entry = level == 3 ? s.load(s.slot(gva, 3)) : 0;
    const u64 slot = s.map(gva, 0, level);
    for (u32 i = 0; i < 24; ++i) {
      // One GiB: only its base 0 has RAM, so rights change instead of the frame.
      const u64 base = level == 3 ? 0 : kBigData + (i & 3) * kBigDataStep;
      s.store(slot, base | kPs | kP | (i & 4 ? 0 : kW) | (i & 1 ? kU : 0));
      flush_by_invlpg(gva + (rng.next() & (size - 1)));
      const u64 inner = level == 3 ? kBigData : 0;
      for (u32 j = 0; j < 6; ++j) {
        const u64 page = gva + inner + (rng.next() & (level == 2 ? size - 1 : kBigDataStep - 1) & ~0xfffull);
        check(s.as(kRead), page);
        check(s.as(kWrite), page);
        check(s.as(kUserRead), page);
        if (!strict) flush_by_invlpg(page);  // TCG 7.2 keeps translated code of the page's other addresses
        check(s.as(kUserFetch), page);
      }
    }
    // Large to small and back.
    if (level == 2) {
      const u64 table = frame(), small = data_frame();
      s.store(entry_address(s.mode, table, gva, 1), small | kAll);
      for (u32 i = 0; i < 8; ++i) {
        s.store(slot, i & 1 ? table | kAll : kBigData | kPs | kAll);
        flush_by_invlpg(gva);
        check(s.as(kWrite), gva);
        check(s.as(kUserRead), gva);
      }
    }
    s.store(slot, old_entry);
    flush_by_cr3();
  }
}

}  // namespace

void flush_tests() {
  for_each_scene(downgrades_and_upgrades);
  for_each_scene(remaps);
  for_each_scene(globals);
  for_each_scene(large_pages);
}

}  // namespace paging
