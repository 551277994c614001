// SPDX-License-Identifier: BSL-1.0
// Tables that no kernel would build: loops, and frames where no RAM is.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

namespace paging {
namespace {

// Every level is the same frame, down to the page itself.
void loops(const Scene& s) {
  if (s.mode == Mode::kPae) return;  // its top level has entries of another kind
  Scene t = s;
  t.wide = s.mode == Mode::kLong;
  const u64 index = s.mode == Mode::kLong ? 301 : 901;
  const u64 slot = s.root + index * entry_bytes(s.mode);
  u64 gva = s.mode == Mode::kLong ? 0xffff000000000000 : 0;
  for (u32 l = 1; l <= top_level(s.mode); ++l) gva |= index << page_shift(s.mode, l);
  for (u32 i = 0; i < 16; ++i) {
    s.store(slot, s.root | kP | (i & 1 ? kW : 0) | (i & 2 ? kU : 0) | (i & 4 ? s.nx() : 0));
    flush_by_invlpg(gva);
    check_at(t.as(kRead), gva + 0x7f0, 0);
    check_at(t.as(kUserRead), gva + 0x7f0, 0);
    check_at(t.as(kWrite), gva + 0x7f0, 0);  // an unused entry
    if ((i & 5) == 1) {                      // the very entry, cleared by way of itself
      check_at(t.as(kWrite), gva + (slot & 0xfff), 0);
      flush_by_invlpg(gva);
      check_at(t.as(kRead), gva + 0x7f0, 0);
    }
  }
  s.store(slot, 0);
  flush_by_cr3();
}

// Anything may be read there, but the machine must stay sane.
void beyond_memory(const Scene& s) {
  const u64 far[4] = {0xc0000000, 0xe0000000, s.mode == Mode::kLegacy ? 0xd0000000 : bit(32) + 0x10000000,
                      s.mode == Mode::kLegacy ? 0xf0000000 : bit(features.physical_bits - 1)};
  const u64 page = s.region + 0x2000, good = s.region + 0x8000000;
  s.map(page, data_frame() | kAll);
  s.map(good, data_frame() | kAll);
  for (const u64 pa : far) {
    for (u32 level = 1; level <= s.last_level(); ++level) {
      const u64 slot = s.slot(page, level);
      const u64 old = s.load(slot);
      s.store(slot, pa | kAll);
      flush_by_invlpg(page);
      for (u32 op = 0; op < (level == 1 ? 2 : 3); ++op) {
        // Where reads give all ones, a fetch could run what it finds: only where a table is missing.
        if (op == 2) continue;
        const Access a = s.as({static_cast<Op>(op), false});
        const Outcome o = perform(a, cell_address(a, page), 0);
        expect(o.vector == kNoTrap || o.vector == kPageFault, "access beyond memory", kPageFault, o.vector);
      }
      s.store(slot, old);
      flush_by_invlpg(page);
      check(s.as(kRead), page);
      check(s.as(kWrite), good);
    }
  }
}

// Page 0xfffff000 and the last and first pages of the canonical halves.
void borders(const Scene& s) {
  const u64 low_edges[2] = {0xfffff000, 0x7ffff000};
  const u64 high_edges[4] = {0x00007ffffffff000, 0xffff800000000000, 0xfffffffffffff000, 0x0000008000000000};
  for (u32 i = 0; i < (s.wide ? 4u : 2u); ++i) {
    const u64 page = s.wide ? high_edges[i] : low_edges[i];
    const u64 slot = s.map(page, data_frame() | kAll);
    flush_by_invlpg(page);
    check_is(s.as(kUserWrite), page, kExpectOk);
    check_is(s.as(kUserFetch), page, kExpectOk);
    s.change(slot, kU | kW, 0);
    flush_by_invlpg(page);
    check_is(s.as(kUserRead), page, 5);
    check_is(s.as(kWrite), page, 3);
    check_is(s.as(kFetch), page, kExpectOk);
  }
  if (!s.wide) return;
  const u64 holes[3] = {0x0000800000000000, 0xffff7ffffffff000, 0x8000000000000000};
  for (const u64 gva : holes) {
    for (u32 op = 0; op < 2; ++op) {
      const Outcome o = perform(s.as({static_cast<Op>(op), op == 1}), gva, 0);
      expect(o.vector == kGeneralProtection && o.error == 0, "non-canonical", kGeneralProtection, o.vector);
    }
  }
}

// PSE-36: a 4 MiB page beyond 4 GiB, filled from PAE paging.
void high_pages() {
  if (!options.high_memory || !features.pse36 || features.physical_bits <= 32) return;
  for (u32 i = 0; i < 4; ++i) {
    const u32 word = 0x36000000 + i;
    const u64 offset = i * 0xff000;  // in both halves of the 4 MiB
    Scene s = make_scene(Mode::kPae, false, usual_controls(Mode::kPae));
    s.map(s.region, bit(32) | kPs | kAll, 2);
    s.map(s.region + 0x200000, bit(32) | 0x200000 | kPs | kAll, 2);
    expect(perform(kWrite, s.region + offset, word).vector == kNoTrap, "store beyond 4 GiB");
    s = make_scene(Mode::kLegacy, false, usual_controls(Mode::kLegacy));
    const u64 slot = s.map(s.region, bit(13) | kPs | kAll, 2);
    const Outcome o = perform(kRead, s.region + offset, 0);
    expect(o.vector == kNoTrap && o.value == word, "load by PSE-36", word, o.value);
    expect((s.load(slot) & (kA | kD)) == kA, "A by PSE-36", kA, s.load(slot));
    perform(kUserWrite, s.region + offset, ~word);
    expect((s.load(slot) & (kA | kD)) == (kA | kD), "D by PSE-36", kA | kD, s.load(slot));
    s = make_scene(Mode::kPae, false, usual_controls(Mode::kPae));
    s.map(s.region, bit(32) | kPs | kAll, 2);
    s.map(s.region + 0x200000, bit(32) | 0x200000 | kPs | kAll, 2);
    const Outcome back = perform(kRead, s.region + offset, 0);
    expect(back.value == ~word, "store by PSE-36", ~word, back.value);
  }
  paging_off();
}

}  // namespace

void odd_tests() {
  high_pages();
  for_each_low_scene(loops);
  for_each_scene(beyond_memory);
  for_each_scene(borders);
}

}  // namespace paging
