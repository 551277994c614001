// SPDX-License-Identifier: BSL-1.0
// Rights as the controls change around them: WP, SMEP, SMAP and AC, NXE; and every order of accesses under each.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

extern "C" {
void probe_run32();
extern char op_stac_read32[], op_clac_read32[];
}

namespace paging {
namespace {

// Controls toggled at random between accesses to pages of all rights. Only NXE is followed by a flush: the others
// either act on each access or flush by themselves.
void toggles(const Scene& s) {
  Random rng(options.seed);
  Controls c = now;
  for (u32 i = 0; i < 16; ++i) {
    u64 e = data_frame() | kP;
    if (i & 1) e |= kW;
    if (i & 2) e |= kU;
    if (i & 4) e |= s.nx();
    s.map(s.region + i * kPageSize, e);
  }
  for (u32 i = 0; i < 6000; ++i) {
    switch (rng.below(12)) {
      case 0:
        c.wp = !c.wp;
        break;
      case 1:
        c.smep = features.smep && !c.smep;
        break;
      case 2:
        c.smap = features.smap && !c.smap;
        break;
      case 3:
        c.nxe = features.nx && s.mode != Mode::kLegacy && !c.nxe;
        break;
      default:
        break;
    }
    const bool nxe_changed = c.nxe != now.nxe;
    set_controls(c);
    if (nxe_changed) flush_by_cr3();
    const u64 page = s.region + rng.below(16) * kPageSize;
    if (rng.one_in(16)) {
      s.change(s.slot(page), kA | kD, 0);
      flush_by_invlpg(page);
    }
    check(s.as({static_cast<Op>(rng.below(3)), rng.one_in(2), rng.one_in(2)}), page);
  }
}

// Every order of three accesses to one page that starts clean, under every control: what the first leaves behind must
// not widen or narrow what the next may do.
void orders(const Scene& s) {
  constexpr Access kAll6[] = {kRead, kWrite, kFetch, kUserRead, kUserWrite, kUserFetch};
  Random rng(options.seed);
  const u64 page = s.region + 0x3000;
  const u64 data = data_frame();
  const u64 slot = s.map(page, 0);
  Controls c = now;
  for (u32 mix = 0; mix < 8; ++mix) {
    c.wp = mix & 1;
    c.smep = (mix & 2) && features.smep;
    c.smap = (mix & 4) && features.smap;
    set_controls(c);
    for (u32 rights = 0; rights < 8; ++rights) {
      if ((rights & 4) && s.nx() == 0) continue;
      for (u32 order = 0; order < 216; ++order) {
        if (options.sample > 1 && !rng.one_in(options.sample)) continue;
        s.store(slot, data | kP | (rights & 1 ? kW : 0) | (rights & 2 ? kU : 0) | (rights & 4 ? s.nx() : 0));
        flush_by_invlpg(page);
        for (u32 n = 0, rest = order; n < 3; ++n, rest /= 6) {
          Access a = s.as(kAll6[rest % 6]);
          a.ac = rng.one_in(3);
          check(a, page);
        }
      }
    }
  }
}

// AC by STAC and CLAC themselves.
void stac_and_clac(const Scene& s) {
  if (!features.smap) return;
  Controls c = now;
  const u64 page = s.region + 0x3000;
  s.map(page, data_frame() | kAll);
  char* const ops[] = {op_stac_read32, op_clac_read32};
  for (u32 i = 0; i < 8; ++i) {
    c.smap = i & 1;
    set_controls(c);
    for (char* const op : ops) {
      probe.gva = page;
      probe.op = address_of(op);
      probe_run32();
      asm volatile("" : : : "memory");
      const bool fault = c.smap && op == op_clac_read32;
      expect(probe.vector == (fault ? kPageFault : kNoTrap), "stac, clac", fault, probe.vector);
      if (fault) expect(probe.error == 1 && probe.cr2 == page, "fault after clac", 1, probe.error);
    }
  }
}

}  // namespace

void control_tests() {
  for_each_scene(toggles);
  for_each_scene(orders);
  for_each_low_scene(stac_and_clac);
}

}  // namespace paging
