// SPDX-License-Identifier: BSL-1.0
// The exhaustive product: every bit of one entry, at every level, under every control and for every access.
#include "access.hpp"
#include "groups.hpp"
#include "report.hpp"

namespace paging {
namespace {

constexpr u64 kPageOffset = kBigData + 0x123000;  // one offset that suits pages of all sizes
constexpr u64 kLowGva = 0x40000000 + kPageOffset;
constexpr u64 kWideGva = 0x00007f4000000000 + kPageOffset;
constexpr u64 kHighGva = 0xffffa04000000000 + kPageOffset;

const Access kAccesses[] = {
    {Op::kRead, false, false},  {Op::kRead, false, true}, {Op::kWrite, false, false}, {Op::kWrite, false, true},
    {Op::kFetch, false, false}, {Op::kRead, true, false}, {Op::kWrite, true, false},  {Op::kFetch, true, false},
    {Op::kFetch, false, true},  {Op::kWrite, true, true},
};
constexpr u32 kCommonAccesses = 8;  // the rest are taken now and then

struct Chain {
  Mode mode;
  u64 gva;
  u32 leaf;
  bool wide;
  u64 slot[5], base[5];
};

u32 turn;
Random rng(1);

Chain make_chain(Mode m, u64 gva, u32 leaf, bool wide, u64 root) {
  Chain c{m, gva, leaf, wide, {}, {}};
  u64 table = root;
  for (u32 l = top_level(m); l > leaf; --l) {
    c.slot[l] = entry_address(m, table, gva, l);
    const u64 old = read_entry(m, c.slot[l]);
    if (old & kP) {  // a PDPTE, or the path that a low address shares with the kernel
      c.base[l] = old;
      table = old & kFrameMask;
      continue;
    }
    const u64 next = l == 2 ? kBigTable : frame();
    zero_frame(next);
    c.base[l] = next | kAll;
    table = next;
  }
  c.slot[leaf] = entry_address(m, table, gva, leaf);
  c.base[leaf] = kAll | (leaf == 1 ? data_frame() : leaf == 2 ? kBigData | kPs : kPs);
  return c;
}

void set_slot(const Chain& c, u32 level, u64 v) {
  if (read_entry(c.mode, c.slot[level]) != v) write_entry(c.mode, c.slot[level], v);
}

// One case: the whole path is put in place, flushed, and used once.
void run(const Chain& c, const u64 (&entry)[5], Access a) {
  if (options.sample > 1 && !rng.one_in(options.sample)) return;
  for (u32 l = top_level(c.mode); l >= c.leaf; --l)
    if (c.mode != Mode::kPae || l != 3) set_slot(c, l, entry[l]);
  ++turn;
  if (turn & 1)
    flush_by_cr3();
  else
    flush_by_invlpg(c.gva);
  a.wide = c.wide;
  check(a, c.gva);
}

// Bits set on their own beside the product; `large_only` ones are address bits of a small page.
struct Extra {
  u64 bits;
  bool large_only, no_fetch;
};

u32 list_extras(const Chain& c, u32 level, Extra (&x)[12]) {
  u32 n = 0;
  x[n++] = {bit(9) | bit(11), false, false};
  x[n++] = {kPwt | kPcd, false, false};
  if (level == c.leaf) x[n++] = {kG, false, false};
  x[n++] = {kPatLarge, true, false};
  if (c.mode == Mode::kLegacy) {
    x[n++] = {bit(21), true, false};
    // PSE-36 address bits: the lowest names memory beyond 4 GiB or is reserved, the highest mostly the latter. TCG
    // takes all eight, whatever CPUID says.
    const bool beyond = features.pse36 && features.physical_bits > 32;
    if (strict || beyond) x[n++] = {bit(13), true, beyond};
    if (strict && features.physical_bits < 40) x[n++] = {bit(20), true, false};
    return n;
  }
  x[n++] = {bit(13), true, false};
  x[n++] = {bit(page_shift(c.mode, level == 1 ? 2 : level) - 1), true, false};
  if (features.physical_bits < 52) {
    x[n++] = {bit(features.physical_bits), false, false};
    x[n++] = {bit(51), false, false};
  }
  x[n++] = {bit(52), false, false};  // ignored in long mode, reserved in PAE
  x[n++] = {c.mode == Mode::kPae ? bit(62) : bit(58), false, false};
  return n;
}

void vary(const Chain& c, u32 level) {
  Extra extra[12];
  const u32 extras = list_extras(c, level, extra);
  const u64 address = c.base[level] & kFrameMask;
  const bool may_be_large = level > 1;
  const bool keep_ps = level == 3 && c.leaf == 3;  // without PS it would name frame 0 as a table
  for (u32 e = 0; e <= extras; ++e) {
    for (u32 mix = 0; mix < 128; ++mix) {
      u64 v = address;
      if (mix & 1) v |= kP;
      if (mix & 2) v |= kW;
      if (mix & 4) v |= kU;
      if ((mix & 8) || keep_ps) v |= kPs;
      if ((mix & 8) && keep_ps) continue;
      if (mix & 16) v |= kNx;
      if ((mix & 16) && c.mode == Mode::kLegacy) continue;
      if (mix & 32) v |= kA;
      if (mix & 64) v |= kD;
      if (e > 0) {
        const Extra& x = extra[e - 1];
        if ((mix & 96) || (x.large_only && !(may_be_large && (v & kPs)))) continue;
        v |= x.bits;
      }
      for (u32 i = 0; i < sizeof kAccesses / sizeof *kAccesses; ++i) {
        const Access& a = kAccesses[i];
        if (i >= kCommonAccesses && !rng.one_in(8)) continue;
        if (e > 0 && extra[e - 1].no_fetch && a.op == Op::kFetch) continue;
        u64 entry[5];
        for (u32 l = 1; l < 5; ++l) entry[l] = c.base[l] | (rng.one_in(4) ? 0 : kA);
        if (!rng.one_in(4)) entry[c.leaf] &= ~kA;
        entry[level] = v;
        run(c, entry, a);
      }
    }
  }
}

// Every combination of W, U and NX over all levels at once.
void cross_levels(const Chain& c, u32 keep_one_in) {
  const u32 first = c.leaf, last = c.mode == Mode::kPae ? 2 : top_level(c.mode);
  const u32 bits_per_level = c.mode == Mode::kLegacy ? 2 : 3;
  const u32 combinations = 1u << (bits_per_level * (last - first + 1));
  for (u32 mix = 0; mix < combinations; ++mix) {
    u64 entry[5] = {c.base[0], c.base[1], c.base[2], c.base[3], c.base[4]};
    u32 m = mix;
    for (u32 l = first; l <= last; ++l, m >>= bits_per_level) {
      entry[l] &= ~(kW | kU);
      if (m & 1) entry[l] |= kW;
      if (m & 2) entry[l] |= kU;
      if ((m & 4) && bits_per_level == 3) entry[l] |= kNx;
    }
    for (u32 i = 0; i < kCommonAccesses; ++i)
      if (keep_one_in == 1 || rng.one_in(keep_one_in)) run(c, entry, kAccesses[i]);
  }
}

template <class Body>
void for_each_control(Mode m, bool pse, Body body) {
  for (u32 mix = 0; mix < 16; ++mix) {
    Controls c{m};
    c.pse = pse;
    c.wp = mix & 1;
    c.smep = mix & 2;
    c.smap = mix & 4;
    c.nxe = mix & 8;
    if ((c.smep && !features.smep) || (c.smap && !features.smap)) continue;
    if (c.nxe && !features.nx) continue;
    if (c.nxe && m == Mode::kLegacy && c.smap) continue;  // NXE means nothing there: half of it will do
    body(c, mix);
  }
}

void run_mode(Mode m, bool pse, bool wide) {
  rng = Random(options.seed);
  for_each_control(m, pse, [&](const Controls& c, u32 mix) {
    const u64 gva = !wide ? kLowGva : (mix & 1) != 0 ? kWideGva : kHighGva;
    const u32 leaves = m == Mode::kLong && features.gigabyte ? 3 : 2;
    for (u32 leaf = 1; leaf <= leaves; ++leaf) {
      if (leaf == 2 && m == Mode::kLegacy && !pse) continue;
      enter(c, kernel_root(m));  // the old root's frames are about to be taken
      frames_reset();
      const u64 root = new_root(m);
      const Chain chain = make_chain(m, gva, leaf, wide, root);
      enter(c, root);
      const u32 highest = m == Mode::kPae ? 2 : m == Mode::kLong && !wide ? 3 : top_level(m);
      const u32 last = leaf == 1 ? highest : leaf;
      for (u32 level = leaf; level <= last; ++level) vary(chain, level);
    }
  });
  paging_off();
}

}  // namespace

void product_legacy() {
  run_mode(Mode::kLegacy, false, false);
  run_mode(Mode::kLegacy, true, false);
}
void product_pae() { run_mode(Mode::kPae, true, false); }
void product_long() { run_mode(Mode::kLong, true, true); }

// From 32-bit code in long mode, thinned: the walk is the one of product_long.
void product_compatibility() {
  const u32 sample = options.sample;
  options.sample *= 4;
  run_mode(Mode::kLong, true, false);
  options.sample = sample;
}

void product_levels() {
  rng = Random(options.seed);
  for (const Mode m : kPagingModes) {
    for_each_control(m, true, [&](const Controls& c, u32 mix) {
      for (u32 leaf = 1; leaf <= (m == Mode::kLong && features.gigabyte ? 3u : 2u); ++leaf) {
        enter(c, kernel_root(m));
        frames_reset();
        const u64 root = new_root(m);
        const bool wide = m == Mode::kLong;
        const Chain chain = make_chain(m, !wide ? kLowGva : mix & 4 ? kHighGva : kWideGva, leaf, wide, root);
        enter(c, root);
        cross_levels(chain, m == Mode::kLong && leaf == 1 ? 16 : 1);
      }
    });
    paging_off();
  }
}

}  // namespace paging
