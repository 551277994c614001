// SPDX-License-Identifier: BSL-1.0
// Accesses that span two pages: which of them faults, and with what address.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

extern "C" {
void probe_run32();
void probe_run64();
extern char op_read_wide32[], op_write_wide32[], op_read_wide64[], op_write_wide64[];
extern paging::u64 probe_wide;
}

namespace paging {
namespace {

constexpr u64 kPattern = 0x1122334455667788;

Outcome wide_access(const Scene& s, bool write, u64 gva, u64 value) {
  probe_wide = value;
  probe.gva = gva;
  if (s.wide) {
    probe.op = address_of(write ? op_write_wide64 : op_read_wide64);
    probe_run64();
  } else {
    probe.op = address_of(write ? op_write_wide32 : op_read_wide32);
    probe_run32();
  }
  asm volatile("" : : : "memory");
  return {probe.vector, probe.error, probe.cr2, 0};
}

void expect_fault(const Outcome& o, u32 error, u64 cr2) {
  expect(o.vector == kPageFault, "page fault", kPageFault, o.vector);
  expect(o.error == error, "error code", error, o.error);
  expect(o.cr2 == cr2, "cr2", cr2, o.cr2);
}

u32 reserved_error(u32 rest) { return rest | 8 | (strict ? 1 : 0); }

void data_across(const Scene& s) {
  const u64 first = s.region + 0x1ff000, second = first + kPageSize;  // in two tables, where entries are 8 bytes
  const u64 a = frame(), gap = frame(), b = frame();
  zero_frame(gap);
  const u64 slot_a = s.map(first, a | kAll), slot_b = s.map(second, b | kAll);
  for (u32 offset = 0xff9; offset < 0x1000; ++offset) {
    const u64 gva = first + offset;
    const auto set = [&](u64 ea, u64 eb) {
      s.store(slot_a, ea);
      s.store(slot_b, eb);
      flush_by_invlpg(first);
      flush_by_invlpg(second);
    };
    set(a | kAll, b | kAll);
    Outcome o = wide_access(s, true, gva, kPattern + offset);
    expect(o.vector == kNoTrap, "write across", kNoTrap, o.vector);
    expect((s.load(slot_a) & (kA | kD)) == (kA | kD), "A and D of the first", kA | kD, s.load(slot_a));
    expect((s.load(slot_b) & (kA | kD)) == (kA | kD), "A and D of the second", kA | kD, s.load(slot_b));
    u64 seen = 0;
    for (u32 i = 0; i < 8; ++i)
      seen |= static_cast<u64>(at<u8>(offset + i < kPageSize ? a + offset + i : b + offset + i - kPageSize)) << (8 * i);
    expect(seen == kPattern + offset, "bytes across", kPattern + offset, seen);
    set(a | kP, b | kP);
    o = wide_access(s, false, gva, 0);
    expect(o.vector == kNoTrap && probe_wide == kPattern + offset, "read across", kPattern + offset, probe_wide);
    expect((s.load(slot_b) & (kA | kD)) == kA, "A of the second", kA, s.load(slot_b));

    set(a | kAll, 0);
    expect_fault(wide_access(s, false, gva, 0), 0, second);
    expect_fault(wide_access(s, true, gva, 0), 2, second);
    set(a | kAll, b | kP);
    expect_fault(wide_access(s, true, gva, 0), 3, second);
    expect((s.load(slot_b) & kD) == 0, "D after a fault", 0, s.load(slot_b));
    const u64 byte = (kPattern + offset) & 0xff;
    expect(at<u8>(a + offset) == byte, "first byte kept", byte, at<u8>(a + offset));
    if (s.mode != Mode::kLegacy && features.physical_bits < 52) {
      set(a | kAll, b | kAll | bit(51));
      expect_fault(wide_access(s, false, gva, 0), reserved_error(0), second);
    }
    set(0, b | kAll);
    expect_fault(wide_access(s, false, gva, 0), 0, gva);
    set(0, 0);
    expect_fault(wide_access(s, true, gva, 0), 2, gva);
    set(a | kP, b | kP);
    expect_fault(wide_access(s, true, gva, 0), 3, gva);
  }
}

u64 mend_slot, mend_entry;
Mode mend_mode;
u32 mend_count, mend_error;
u64 mend_address;

bool mend(const Trap& t) {
  if (t.vector != kPageFault || mend_slot == 0) return false;
  write_entry(mend_mode, mend_slot, mend_entry);
  mend_slot = 0;
  ++mend_count;
  mend_error = t.error;
  mend_address = t.cr2;
  return true;
}

// `mov $imm, %eax; ret` (or int 0x80) with its bytes on both pages.
void code_across(const Scene& s) {
  const u64 first = s.region + 0x1ff000, second = first + kPageSize;
  const u64 a = frame(), b = frame();
  const u64 slot_a = s.map(first, a | kAll), slot_b = s.map(second, b | kAll);
  const u32 fetch = now.nxe || now.smep ? 0x10 : 0;
  for (u32 split = 1; split < 7; ++split) {
    for (u32 user = 0; user < 2; ++user) {
      const u32 word = 0x600d0000 + split * 2 + user;
      const u8 code[7] = {0xb8,
                          static_cast<u8>(word),
                          static_cast<u8>(word >> 8),
                          static_cast<u8>(word >> 16),
                          static_cast<u8>(word >> 24),
                          static_cast<u8>(user ? 0xcd : 0xc3),
                          0x80};
      const u32 offset = kPageSize - split;
      // Stored anew before each use: Bochs 2.7 keeps decoded instructions that span pages past any flush.
      const auto put_code = [&] {
        for (u32 i = 0; i < 7; ++i) at<u8>(i < split ? a + offset + i : b + i - split) = code[i];
      };
      const Access access = s.as(user ? kUserFetch : kFetch);
      const u32 needed = user ? 7 : 6;
      const u32 who = user ? 4 : 0;
      const u64 bad[3] = {0, b | kP | (user ? 0 : kU) | (user ? 0 : s.nx()), b | kAll | s.nx()};
      const u32 errors[3] = {who | fetch, who | fetch | 1, who | fetch | 1};
      s.store(slot_a, a | kAll);
      for (u32 k = 0; k < 3; ++k) {
        if (k > 0 && s.nx() == 0 && !(k == 1 && user)) continue;
        s.store(slot_b, bad[k]);
        flush_by_cr3();
        put_code();
        Outcome o = perform(access, first + offset, 0);
        if (split >= needed) {
          expect(o.value == word, "code before the border", word, o.value);
          continue;
        }
        expect_fault(o, errors[k], second);
        // And again with the fault mended: the instruction is taken up where it began.
        mend_mode = s.mode;
        mend_entry = b | kAll;
        mend_slot = slot_b;
        mend_count = 0;
        trap_hook = mend;
        o = perform(access, first + offset, 0);
        trap_hook = nullptr;
        expect(o.vector == kNoTrap && o.value == word && mend_count == 1, "code across, mended", word, o.value);
        expect(mend_error == errors[k], "mended error", errors[k], mend_error);
        expect(mend_address == second, "mended cr2", second, mend_address);
      }
      s.store(slot_b, b | kAll);
      flush_by_cr3();
      put_code();
      const Outcome o = perform(access, first + offset, 0);
      expect(o.vector == kNoTrap && o.value == word, "code across", word, o.value);
    }
  }
}

}  // namespace

void cross_tests() {
  for_each_scene(data_across);
  for_each_scene(code_across);
}

}  // namespace paging
