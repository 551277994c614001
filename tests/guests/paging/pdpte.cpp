// SPDX-License-Identifier: BSL-1.0
// The four PDPTEs of PAE paging are registers: loaded and judged by certain writes, not by walks (SDM vol. 3A, 4.4.1).
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

extern "C" {
void probe_run32();
extern char op_write_cr0[], op_write_cr3[], op_write_cr4[];
}

namespace paging {
namespace {

constexpr u32 kIndex = 2;  // the PDPTE that the tests change
constexpr u64 kGva = 0x80000000;

u32 vector_of(const char* op, u32 value) {
  probe.value = value;
  probe.op = address_of(op);
  probe_run32();
  asm volatile("" : : : "memory");
  return probe.vector;
}

void expect_refused(const char* op, u32 value, const char* what) {
  const u32 vector = vector_of(op, value);
  if (!strict && vector == kNoTrap) {
    note("reserved bits of PDPTEs are not checked when loaded (TCG)");
    return;
  }
  expect(vector == kGeneralProtection && probe.error == 0, what, kGeneralProtection, vector);
}

void reserved_pdptes(const Scene& s) {
  const u64 old = read_entry(s.mode, s.root + 8 * kIndex);
  const u32 cr0 = read_cr0(), cr4 = read_cr4();
  for (u32 n = 1; n < 64; ++n) {
    if (n >= 9 && n < features.physical_bits && n != 11) continue;
    const bool reserved = (reserved_bits(now, 3, false) & bit(n)) != 0;
    for (u32 index = strict ? 0 : 1; index < 4; ++index) {  // TCG would act at once on the kernel's own
      const u64 slot = s.root + 8 * index;
      const u64 good = at<u64>(slot);
      at<u64>(slot) = good | bit(n);
      if (!reserved) {
        const u32 vector = vector_of(op_write_cr3, low32(s.root));
        expect(vector == kNoTrap, "PDPTE bit that is not reserved", n, vector);
      } else {
        expect_refused(op_write_cr3, low32(s.root), "MOV CR3 with a reserved PDPTE bit");
        if (strict) {
          if (features.pge) expect_refused(op_write_cr4, cr4 ^ kCr4Pge, "MOV CR4 with a reserved PDPTE bit");
          expect_refused(op_write_cr0, cr0 ^ kCr0Cd, "MOV CR0 with a reserved PDPTE bit");
          expect(read_cr4() == cr4 && read_cr0() == cr0, "registers after #GP", cr4, read_cr4());
          check(kRead, kGva);  // what was loaded before still holds
        }
      }
      if (index == 3) {  // not present: the rest does not matter
        at<u64>(slot) = (good & ~kP) | bit(n);
        const u32 vector = vector_of(op_write_cr3, low32(s.root));
        expect(vector == kNoTrap, "absent PDPTE with any bits", n, vector);
      }
      at<u64>(slot) = good;
      write_cr3(low32(s.root));
    }
  }
  write_entry(s.mode, s.root + 8 * kIndex, old & ~kA);
  write_cr3(low32(s.root));
  // Setting PG loads them too.
  if (strict) {
    const u64 slot = s.root + 8 * kIndex;
    write_cr0(cr0 & ~kCr0Pg);
    at<u64>(slot) = at<u64>(slot) | bit(5);
    expect_refused(op_write_cr0, cr0, "setting CR0.PG with a reserved PDPTE bit");
    at<u64>(slot) = at<u64>(slot) & ~bit(5);
    write_cr0(cr0);
    check(kRead, kGva);
  }
}

// Reads the cell at kGva and says which directory was used; kNone for a fault.
constexpr u32 kNone = 2;
u32 directory_in_use(const u64 (&frames)[2]) {
  const Outcome o = perform(kRead, cell_address(kRead, kGva), 0);
  if (o.vector != kNoTrap) return kNone;
  return o.value == cell_word(frames[1]) ? 1 : 0;
}

void changed_pdptes(const Scene& s) {
  const u64 frames[2] = {data_frame(), data_frame()};
  const u64 slot = s.root + 8 * kIndex;
  s.map(kGva, frames[0] | kAll);
  const u64 first = at<u64>(slot) & ~kA;
  const u64 directory = frame(), table = frame();
  at<u64>(directory) = table | kAll;
  at<u64>(table) = frames[1] | kAll;
  const u64 values[3] = {first, directory | kP, 0};
  flush_by_cr3();
  u32 loaded = 0;
  Random rng(options.seed);
  for (u32 i = 0; i < 200; ++i) {
    const u32 wanted = rng.below(3);
    at<u64>(slot) = values[wanted];
    flush_by_invlpg(kGva);  // does not load PDPTEs
    u32 used = directory_in_use(frames);
    if (!strict && used == wanted && used != loaded) {
      note("PDPTEs are read at each walk (TCG)");
      case_ok();
    } else {
      expect(used == loaded, "PDPTE before a load", loaded, used);
    }
    const u32 cr0 = read_cr0(), cr4 = read_cr4();
    const u32 how = rng.below(features.pge ? 5 : 4);
    switch (how) {
      case 0:
        flush_by_cr3();
        break;
      case 1:
        write_cr0(cr0 ^ kCr0Cd);
        break;
      case 2:
        write_cr0(cr0 & ~kCr0Pg), write_cr0(cr0);
        break;
      case 3:
        write_cr4(cr4 ^ kCr4Pse);
        break;
      default:
        write_cr4(cr4 ^ kCr4Pge);
        break;
    }
    now.pge = (read_cr4() & kCr4Pge) != 0;
    now.pse = (read_cr4() & kCr4Pse) != 0;
    used = directory_in_use(frames);
    // Toggling CD or PSE loads them without dropping what is cached: only a flush makes it certain.
    if (how == 1 || how == 3) {
      flush_by_invlpg(kGva);
      used = directory_in_use(frames);
    }
    expect(used == wanted, "PDPTE after a load", wanted, used);
    loaded = wanted;
  }
  write_cr0(read_cr0() & ~kCr0Cd);
  at<u64>(slot) = first;
  flush_by_cr3();
}

// CR3 holds the table's address by 32 bytes; two tables in one page are two roots.
void tables_in_one_page(const Scene& s) {
  const u64 frames[2] = {data_frame(), data_frame()};
  const u64 page = frame();
  for (u32 i = 0; i < 128; ++i) {
    const u64 root = page + i * 32;
    for (u32 j = 0; j < 4; ++j) at<u64>(root + 8 * j) = at<u64>(s.root + 8 * j) & ~kA;
    const u64 directory = frame(), table = frame();
    at<u64>(root + 8 * kIndex) = directory | kP;
    at<u64>(directory) = table | kAll;
    at<u64>(table) = frames[i & 1] | kP | (i & 2 ? kW : 0) | (i & 4 ? kU : 0);
  }
  Random rng(options.seed);
  for (u32 i = 0; i < 400; ++i) {
    const u32 root = low32(page) + rng.below(128) * 32;
    write_cr3(root | (i & 1 ? 0x18 : 0));
    expect((read_cr3() & ~0x18u) == root, "cr3", root, read_cr3());
    check({static_cast<Op>(rng.below(3)), rng.one_in(2)}, kGva);
    check(kRead, kGva);
  }
  write_cr3(low32(s.root));
}

}  // namespace

void pdpte_tests() {
  const Controls c = usual_controls(Mode::kPae);
  Scene s = make_scene(Mode::kPae, false, c);
  s.map(kGva, data_frame() | kAll);
  reserved_pdptes(s);
  changed_pdptes(make_scene(Mode::kPae, false, c));
  tables_in_one_page(make_scene(Mode::kPae, false, usual_controls(Mode::kPae)));
  paging_off();
}

}  // namespace paging
