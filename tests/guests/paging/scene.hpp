// SPDX-License-Identifier: BSL-1.0
// A scene: one mode, a fresh root in CR3, an unused linear region. Sequence tests run once in each.
#pragma once

#include "access.hpp"

namespace paging {

struct Scene {
  Mode mode;
  u64 root;
  u64 region;  // 4 MiB aligned, nothing mapped within 1 GiB - 256 MiB of it
  bool wide;   // reached from 64-bit code

  Access as(Access a) const {
    a.wide = wide;
    return a;
  }
  u64 map(u64 gva, u64 entry, u32 level = 1) const { return paging::map(mode, root, gva, entry, level); }
  u64 slot(u64 gva, u32 level = 1) const { return find(mode, root, gva, level); }
  // The highest level whose entry for `region` is the test's own to change.
  u32 last_level() const { return mode == Mode::kLong ? (wide ? 4 : 3) : 2; }
  u64 nx() const { return now.nxe && mode != Mode::kLegacy ? kNx : 0; }
  u64 load(u64 pa) const { return read_entry(mode, pa); }
  void store(u64 pa, u64 v) const { write_entry(mode, pa, v); }
  void change(u64 pa, u64 clear, u64 set) const { store(pa, (load(pa) & ~clear) | set); }
};

inline Controls usual_controls(Mode m) {
  Controls c{m};
  c.nxe = features.nx && m != Mode::kLegacy;
  return c;
}

constexpr u64 kLowRegion = 0x50000000, kHighRegion = 0xffff912350000000;

// A fresh scene; the frames of the one before are taken back.
inline Scene make_scene(Mode m, bool wide, const Controls& c) {
  enter(c, kernel_root(m));
  frames_reset();
  const Scene s{m, new_root(m), wide ? kHighRegion : kLowRegion, wide};
  enter(c, s.root);
  return s;
}

template <class Body>
void for_each_scene(Body body) {
  for (const Mode m : kPagingModes) body(make_scene(m, false, usual_controls(m)));
  body(make_scene(Mode::kLong, true, usual_controls(Mode::kLong)));
  paging_off();
}

// Scenes that 32-bit code can reach: descriptor tables and stacks must lie below 4 GiB.
template <class Body>
void for_each_low_scene(Body body) {
  for (const Mode m : kPagingModes) body(make_scene(m, false, usual_controls(m)));
  paging_off();
}

}  // namespace paging
