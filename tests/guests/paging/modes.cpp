// SPDX-License-Identifier: BSL-1.0
// Mode switches: every mode from every other, real mode between them, and what the control registers keep.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

extern "C" {
void real_mode_excursion();
void probe_run32();
extern char real_blob[], real_blob_end[];
extern const paging::u32 real_handler_offset;
extern char op_write_cr0[], op_write_cr4[], op_write_efer[];
}

namespace paging {
namespace {

constexpr u32 kRealBase = 0x8000, kRealData = 0x9000, kRealVector = 0x60 * 4;
constexpr u32 kCr0Mp = 1u << 1, kCr0Ne = 1u << 5, kCr0Am = 1u << 18;
constexpr u32 kKept[] = {kCr0Cd, kCr0Mp, kCr0Ne, kCr0Am};

u16 real_calls;

// Page 0 is not in the kernel's map, so the real-mode data is only touched with paging off.
void real_mode() {
  for (u32 i = 0; i < address_of(real_blob_end) - address_of(real_blob); ++i)
    at<u8>(kRealBase + i) = static_cast<u8>(real_blob[i]);
  const u32 old_vector = at<u32>(kRealVector);
  at<u32>(kRealVector) = real_handler_offset;
  at<u32>(kRealData) = static_cast<u32>(real_calls) << 16;
  at<u32>(kRealData + 4) = 0;
  real_mode_excursion();
  load_descriptor_tables();
  ++real_calls;
  expect(at<u16>(kRealData) == 0x1235, "real-mode store", 0x1235, at<u16>(kRealData));
  expect(at<u16>(kRealData + 2) == real_calls, "real-mode interrupt", real_calls, at<u16>(kRealData + 2));
  expect(at<u16>(kRealData + 4) == 0x4321, "real-mode stack", 0x4321, at<u16>(kRealData + 4));
  at<u32>(kRealVector) = old_vector;
}

struct Place {
  Mode mode;
  u64 root, gva;
  bool wide;
  u64 frame;
};

void expect_registers(u32 kept, u64 root, u32 cr3_low) {
  const u32 cr0 = read_cr0();
  u32 mask = 0;
  for (const u32 b : kKept) mask |= b;
  expect((cr0 & mask) == kept && (cr0 & kCr0Nw) == 0, "cr0 bits kept", kept, cr0);
  expect(((cr0 & kCr0Wp) != 0) == now.wp, "cr0.wp", now.wp, cr0);
  expect(((cr0 & kCr0Pg) != 0) == (now.mode != Mode::kOff), "cr0.pg", now.mode != Mode::kOff, cr0);
  const u64 efer = read_msr(kMsrEfer);
  expect(((efer & kEferLma) != 0) == (now.mode == Mode::kLong), "efer.lma", now.mode == Mode::kLong, efer);
  expect(((efer & kEferNxe) != 0) == now.nxe, "efer.nxe", now.nxe, efer);
  if (now.mode != Mode::kOff) expect(read_cr3() == (low32(root) | cr3_low), "cr3", root | cr3_low, read_cr3());
  const u32 cr4 = read_cr4();
  expect(((cr4 & kCr4Smep) != 0) == now.smep, "cr4.smep", now.smep, cr4);
  expect(((cr4 & kCr4Smap) != 0) == now.smap, "cr4.smap", now.smap, cr4);
  expect(((cr4 & kCr4Pge) != 0) == now.pge, "cr4.pge", now.pge, cr4);
  expect(((cr4 & kCr4Osfxsr) != 0) == features.sse2, "cr4.osfxsr", features.sse2, cr4);
}

void switches() {
  constexpr u32 kPlaces = 6;
  Place place[kPlaces] = {
      {Mode::kLegacy, 0, kLowRegion, false, 0}, {Mode::kPae, 0, kLowRegion, false, 0},
      {Mode::kLong, 0, kLowRegion, false, 0},   {Mode::kLong, 0, kHighRegion, true, 0},
      {Mode::kLegacy, 0, 0x80000000, false, 0}, {Mode::kPae, 0, 0xc0000000, false, 0},
  };
  for (Place& p : place) {
    p.root = new_root(p.mode);
    p.frame = data_frame();
    map(p.mode, p.root, p.gva, p.frame | kAll | kG);
    map(p.mode, p.root, p.gva + 0x400000, kBigData | kPs | kP | kU, 2);
  }
  Random rng(options.seed);
  u32 kept = 0;
  for (const u32 b : kKept) kept |= read_cr0() & b;
  for (u32 i = 0; i < 500; ++i) {
    if (rng.one_in(3)) {
      const u32 b = kKept[rng.below(4)];
      kept ^= b;
      write_cr0(read_cr0() ^ b);
    }
    const u32 target = rng.below(kPlaces + 2);
    if (target >= kPlaces) {
      if (now.mode != Mode::kOff) paging_off();
      if (target == kPlaces) real_mode();
      expect_registers(kept, 0, 0);
      const Place& p = place[rng.below(kPlaces)];  // linear is physical now
      at<u32>(p.frame + kCellOffset) = cell_word(p.frame);
      expect(at<u32>(p.frame + kCellOffset) == cell_word(p.frame), "paging off");
      continue;
    }
    const Place& p = place[target];
    Controls c{p.mode};
    c.wp = rng.one_in(2);
    c.smep = features.smep && rng.one_in(3);
    c.smap = features.smap && rng.one_in(3);
    c.nxe = features.nx && rng.one_in(2);
    c.pge = features.pge && rng.one_in(2);
    const u32 low = rng.one_in(2) ? 0x18 : 0;  // PCD and PWT
    // Global translations may outlive a change of root, so PGE goes off first.
    if (now.mode == p.mode && now.pge) write_cr4(read_cr4() & ~kCr4Pge);
    if (now.mode == p.mode) now.pge = false;
    enter(c, p.root | low);
    expect_registers(kept, p.root, low);
    for (u32 n = 0; n < 4; ++n) {
      const u64 page = rng.one_in(3) ? p.gva + 0x400000 + rng.below(512) * kPageSize : p.gva;
      const Access a{static_cast<Op>(rng.below(3)), rng.one_in(2), rng.one_in(2), p.wide};
      check(a, page);
    }
  }
  if (now.mode != Mode::kOff) paging_off();
  write_cr0(read_cr0() & ~(kCr0Cd | kCr0Am | kCr0Mp));
}

// Writes that must raise #GP(0). Plain TCG lets some pass; those that would derail the guest are only tried when
// strict.
void forbidden(const char* op, u32 value, const char* what, bool harmless) {
  if (!strict && !harmless) return;
  const u32 cr0 = read_cr0(), cr4 = read_cr4();
  const u64 efer = read_msr(kMsrEfer);
  probe.value = value;
  probe.op = address_of(op);
  probe_run32();
  asm volatile("" : : : "memory");
  if (!strict && probe.vector == kNoTrap) {
    note(what);
    if (read_cr0() != cr0) write_cr0(cr0);
    if (read_cr4() != cr4) write_cr4(cr4);
    if (read_msr(kMsrEfer) != efer) write_msr(kMsrEfer, efer);
    return;
  }
  expect(probe.vector == kGeneralProtection && probe.error == 0, what, kGeneralProtection, probe.vector);
  expect(read_cr0() == cr0, "cr0 after #GP", cr0, read_cr0());
  expect(read_cr4() == cr4, "cr4 after #GP", cr4, read_cr4());
  expect(read_msr(kMsrEfer) == efer, "efer after #GP", efer, read_msr(kMsrEfer));
}

void forbidden_writes(const Scene& s) {
  const u32 cr0 = read_cr0(), cr4 = read_cr4();
  const u32 efer = low32(read_msr(kMsrEfer));
  forbidden(op_write_cr0, (cr0 | kCr0Nw) & ~kCr0Cd, "CR0.NW without CD is taken (TCG)", true);
  forbidden(op_write_cr0, cr0 & ~kCr0Pe, "CR0.PG without PE is taken", false);
  forbidden(op_write_cr4, cr4 | 1u << 31, "a reserved bit of CR4 is taken", false);
  forbidden(op_write_efer, efer ^ kEferLme, "EFER.LME changes under paging (TCG)", s.mode == Mode::kPae);
  if (s.mode == Mode::kLong) forbidden(op_write_cr4, cr4 & ~kCr4Pae, "CR4.PAE is cleared in long mode", false);
}

// LME set, PAE clear: paging must not come on.
void long_without_pae() {
  if (!strict) return;
  write_cr4(read_cr4() & ~kCr4Pae);
  write_msr(kMsrEfer, read_msr(kMsrEfer) | kEferLme);
  write_cr3(low32(kernel_root(Mode::kLong)));
  forbidden(op_write_cr0, read_cr0() | kCr0Pg, "paging with LME and without PAE", true);
  write_msr(kMsrEfer, read_msr(kMsrEfer) & ~static_cast<u64>(kEferLme));
}

}  // namespace

void mode_tests() {
  switches();
  for_each_low_scene(forbidden_writes);
  long_without_pae();
}

}  // namespace paging
