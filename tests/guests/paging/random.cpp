// SPDX-License-Identifier: BSL-1.0
// Tables of random entries that point anywhere among themselves, so every frame serves at several levels at once and
// stores land in live tables. Only the oracle knows what must happen.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

namespace paging {
namespace {

constexpr u32 kTables = 8, kDataFrames = 8;
constexpr u32 kRounds = 6, kAccessesPerRound = 700;

struct World {
  u64 tables[kTables], data[kDataFrames];
};

u64 random_entry(const Scene& s, const World& w, Random& rng) {
  u64 e = rng.one_in(3) ? w.data[rng.below(kDataFrames)] : w.tables[rng.below(kTables)];
  if (rng.one_in(12)) {
    e = kBigData + rng.below(2) * kBigDataStep;
    if (!rng.one_in(4)) e |= kPs;
  }
  if (!rng.one_in(12)) e |= kP;
  if (!rng.one_in(5)) e |= kW;
  if (!rng.one_in(5)) e |= kU;
  if (rng.one_in(3)) e |= kA;
  if (rng.one_in(3)) e |= kD;
  if (rng.one_in(8)) e |= bit(9 + rng.below(3));
  if (s.mode != Mode::kLegacy && features.nx && rng.one_in(now.nxe ? 12 : 32)) e |= kNx;  // reserved without NXE
  if (s.mode != Mode::kLegacy && rng.one_in(48)) e |= bit(51);
  return e;
}

bool is_table(const World& w, u64 gpa) {
  for (const u64 t : w.tables)
    if ((gpa & kFrameMask) == t) return true;
  for (const u64 d : w.data)  // read as a table, a data frame is one
    if ((gpa & kFrameMask) == d) return true;
  return false;
}

bool code_is_whole(u64 gpa) {
  return gpa + 8 <= kIdentityLimit && at<u8>(gpa) == 0xb8 && at<u32>(gpa + 1) == cell_word(gpa & kFrameMask) &&
         (at<u8>(gpa + 5) == 0xc3 || at<u16>(gpa + 5) == 0x80cd);
}

void fill(const Scene& s, const World& w, Random& rng) {
  const u32 n = kPageSize / entry_bytes(s.mode);
  for (const u64 t : w.tables)
    for (u32 i = 0; i < n; ++i) s.store(t + i * entry_bytes(s.mode), random_entry(s, w, rng));
  for (const u64 d : w.data) init_cell(d);
  // Roots of the random part; the kernel's own slots stay.
  if (s.mode == Mode::kPae) {
    for (u32 i = 1; i < 4; ++i) at<u64>(s.root + 8 * i) = w.tables[rng.below(kTables)] | kP;
  } else {
    const u32 first = s.mode == Mode::kLong ? (s.wide ? 1 : 0) : 64;
    const u64 top = s.mode == Mode::kLong && !s.wide ? s.load(s.root) & kFrameMask : s.root;
    const u32 last = s.mode == Mode::kLong && !s.wide ? 4 : n;
    for (u32 i = first == 0 ? 1 : first; i < last; ++i) s.store(top + i * entry_bytes(s.mode), random_entry(s, w, rng));
  }
  flush_by_cr3();
}

u64 random_page(const Scene& s, Random& rng) {
  if (!s.wide) return 0x40000000 + static_cast<u64>(rng.below(0xc0000)) * kPageSize;
  const u64 gva = rng.next() & 0x0000fffffffff000;
  if (gva < bit(39)) return gva | bit(39);
  return gva & bit(47) ? gva | 0xffff000000000000 : gva;
}

void one_access(const Scene& s, const World& w, Random& rng) {
  const Access a = s.as({static_cast<Op>(rng.below(3)), rng.one_in(2), rng.one_in(2)});
  const u64 page = random_page(s, rng);
  const u64 address = cell_address(a, page);
  const Walk walked = walk(a, address);
  if (walked.result == Walk::Result::kUnknown) return;
  const bool ok = walked.result == Walk::Result::kOk;
  if (walked.leaf_reached && (walked.gpa < kFramePool || walked.gpa + 8 > kIdentityLimit)) return;
  if (ok && a.op == Op::kFetch && !code_is_whole(walked.gpa)) return;
  check_at(a, address,
           a.op == Op::kWrite && is_table(w, walked.gpa) ? low32(random_entry(s, w, rng)) : low32(rng.next()));
  // A table may serve linear addresses without number: only a full flush will do.
  if (ok && a.op == Op::kWrite && is_table(w, walked.gpa)) flush_by_cr3();
}

}  // namespace

void random_tests() {
  Random rng(options.seed);
  for (u32 round = 0; round < kRounds; ++round) {
    for_each_scene([&](const Scene& s) {
      World w{};
      for (u64& t : w.tables) t = frame();
      for (u64& d : w.data) d = data_frame();
      Controls c = now;
      for (u32 shake = 0; shake < 4; ++shake) {
        c.wp = rng.one_in(2);
        c.smep = features.smep && rng.one_in(3);
        c.smap = features.smap && rng.one_in(3);
        c.nxe = features.nx && s.mode != Mode::kLegacy && !rng.one_in(4);
        c.pse = s.mode != Mode::kLegacy || rng.one_in(2);
        set_controls(c);
        fill(s, w, rng);
        for (u32 i = 0; i < kAccessesPerRound; ++i) one_access(s, w, rng);
      }
      init_cells(kBigData, kBigData + 2 * kBigDataStep);
    });
  }
}

}  // namespace paging
