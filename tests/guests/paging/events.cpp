// SPDX-License-Identifier: BSL-1.0
// Event delivery and segment loads through freshly mapped, moved and missing pages: IDT, GDT, LDT, TSS, stack.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

extern "C" {
void probe_run32();
extern char op_int3[], op_load_fs32[], op_user32[], user_load_fs[], user_return[], trap_stack_top[];
}

namespace paging {
namespace {

constexpr u64 kAccessedData = 0x00cff3000000ffff, kFreshData = 0x00cff2000000ffff;
constexpr u64 kDescriptorAccessed = bit(40);

void copy_bytes(u64 to, const void* from, u32 bytes) {
  for (u32 i = 0; i < bytes; ++i) at<u8>(to + i) = static_cast<const volatile u8*>(from)[i];
}

Outcome run_op(const char* op, u32 value, u32 flags = kFlagsFixed, const char* user_stub = user_return) {
  probe.gva = 0;
  probe.value = value;
  probe.flags = flags;
  probe.user_stub = address_of(user_stub);
  probe.op = address_of(op);
  probe_run32();
  asm volatile("" : : : "memory");
  return {probe.vector, probe.error, probe.cr2, probe.value};
}

Outcome load_fs(bool user, u32 selector, bool ac = false) {
  const u32 flags = kFlagsFixed | (ac ? kFlagsAc : 0);
  return user ? run_op(op_user32, selector, flags, user_load_fs) : run_op(op_load_fs32, selector, flags);
}

void drop_fs() { asm volatile("mov %0, %%fs" : : "r"(0)); }

void expect_bits(const Scene& s, u64 slot, u64 bits, const char* what) {
  expect((s.load(slot) & (kA | kD)) == bits, what, bits, s.load(slot));
}

void idt_page(const Scene& s) {
  const u64 idt_gva = s.region + 0x20000, page = s.region + 0x1000;
  const u64 frames[2] = {frame(), frame()};
  u32 bytes = 0;
  const void* idt = idt_of_mode(&bytes);
  const u32 gate = bytes / 256;
  for (const u64 f : frames) copy_bytes(f, idt, bytes);
  for (u32 i = 0; i < gate; ++i) at<u8>(frames[1] + 3 * gate + i) = at<u8>(frames[1] + 5 * gate + i);
  const u64 slot = s.map(idt_gva, frames[0] | kP);
  s.map(page, data_frame() | kAll);
  move_idt(low32(idt_gva));
  for (u32 i = 0; i < 16; ++i) {
    const u32 expected = i & 1 ? 5 : 3;
    s.store(slot, frames[i & 1] | kP | (i & 2 ? kW : 0));
    flush_by_invlpg(idt_gva);
    if (i & 4) check(kUserRead, page);
    const Outcome o = run_op(op_int3, 0);
    expect(o.vector == expected, "vector through a moved IDT", expected, o.vector);
    expect_bits(s, slot, kA, "IDT page");
    check(kUserWrite, page);
    check_is(kRead, s.region + 0x100000, 0);
    check_is(kUserRead, s.region + 0x100000, 4);
  }
  load_descriptor_tables();
}

// The gate of int 0x80 starts the second page, which is missing; the page fault's own gate is on the first.
u64 mend_slot, mend_entry, mend_address;
u32 mend_error, mend_count;

bool mend(const Trap& t) {
  if (t.vector != kPageFault || mend_slot == 0) return false;
  write_entry(now.mode, mend_slot, mend_entry);
  mend_slot = 0;
  mend_address = t.cr2;
  mend_error = t.error;
  ++mend_count;
  return true;
}

template <class Body>
Outcome mended(u64 slot, u64 entry, Body body) {
  mend_slot = slot;
  mend_entry = entry;
  mend_count = 0;
  trap_hook = mend;
  const Outcome o = body();
  trap_hook = nullptr;
  return o;
}

void idt_half_missing(const Scene& s) {
  const u64 idt_gva = s.region + 0x24000;
  const u64 frames[2] = {frame(), frame()};
  u32 bytes = 0;
  const void* idt = idt_of_mode(&bytes);
  const u32 before = bytes / 2;  // of vectors 0 to 127
  copy_bytes(frames[0] + kPageSize - before, idt, before);
  copy_bytes(frames[1], static_cast<const u8*>(idt) + before, before);
  s.map(idt_gva, frames[0] | kP);
  const u64 slot = s.map(idt_gva + kPageSize, 0);
  move_idt(low32(idt_gva + kPageSize - before));
  for (u32 i = 0; i < 8; ++i) {
    s.store(slot, 0);
    flush_by_invlpg(idt_gva + kPageSize);
    const Outcome o = mended(slot, frames[1] | kP, [&] { return run_op(op_user32, i); });
    expect(o.vector == kNoTrap && o.value == i, "int 0x80 after mending the IDT", i, o.value);
    expect(mend_count == 1 && mend_error == 0, "fault on the gate", 0, mend_error);
    expect(mend_address == idt_gva + kPageSize, "cr2", idt_gva + kPageSize, mend_address);
  }
  load_descriptor_tables();
}

void stack_page(const Scene& s) {
  const u64 stack = s.region + 0x30000, page = s.region + 0x1000;
  const u64 frames[2] = {frame(), frame()};
  s.map(page, data_frame() | kAll);
  s.map(stack, frame() | kP | kW);
  const u64 slot = s.map(stack + kPageSize, frames[0] | kP | kW);
  s.map(stack + 2 * kPageSize, frame() | kP | kW);
  for (u32 i = 0; i < 32; ++i) {
    // Sometimes the frame that the CPU pushes lies across two pages.
    const u32 top = low32(stack) + 2 * kPageSize + (i & 4 ? 16 : 0);
    set_trap_stack(top);
    zero_frame(frames[0]);
    zero_frame(frames[1]);
    s.store(slot, frames[i & 1] | kP | kW);
    flush_by_invlpg(stack + kPageSize);
    if (i & 2)
      check(kUserRead, page);
    else
      check_is(kUserWrite, s.region + 0x100000, 6);
    u32 used = 0, unused = 0;
    for (u32 j = kPageSize - 64; j < kPageSize; j += 4) {
      used |= at<u32>(frames[i & 1] + j);
      unused |= at<u32>(frames[~i & 1] + j);
    }
    expect(used != 0 && unused == 0, "trap stack page", 0, unused);
    expect_bits(s, slot, kA | kD, "stack page");
  }
  set_trap_stack(address_of(trap_stack_top));
}

// Whether a ring change stored SS at the top of this stack.
bool pushed(u64 stack) { return at<u64>(stack + kPageSize - 8) != 0; }

void task_page(const Scene& s) {
  const u64 gva = s.region + 0x40000, page = s.region + 0x1000;
  const u64 frames[2] = {frame(), frame()}, stacks[2] = {frame(), frame()};
  s.map(page, data_frame() | kAll);
  u32 bytes = 0;
  const void* tss = tss_of_mode(&bytes);
  for (u32 i = 0; i < 2; ++i) {
    copy_bytes(frames[i], tss, bytes);
    at<u32>(frames[i] + 4) = low32(stacks[i]) + kPageSize;
  }
  const u64 slot = s.map(gva, frames[0] | kP | kW);
  for (u32 i = 0; i < 16; ++i) {
    zero_frame(stacks[0]);
    zero_frame(stacks[1]);
    s.store(slot, frames[i & 1] | kP | kW);
    flush_by_invlpg(gva);
    if ((i & 4) == 0) move_tss(low32(gva));
    check(kUserRead, page);
    expect(pushed(stacks[i & 1]), "stack of this task page");
    expect(!pushed(stacks[~i & 1]), "stack of the other task page");
    expect((s.load(slot) & kA) != 0, "A of the task page", kA, s.load(slot));
    // A new stack in the same page needs no flush at all.
    at<u32>(frames[i & 1] + 4) = low32(stacks[~i & 1]) + kPageSize;
    check(kUserWrite, page);
    expect(pushed(stacks[~i & 1]), "stack after a plain store to the task page");
    at<u32>(frames[i & 1] + 4) = low32(stacks[i & 1]) + kPageSize;
  }
  load_descriptor_tables();
}

void gdt_page(const Scene& s) {
  const u64 gva = s.region + 0x50000, page = s.region + 0x1000;
  const u64 frames[2] = {frame(), frame()};
  s.map(page, data_frame() | kAll);
  for (const u64 f : frames) {
    copy_bytes(f, gdt, sizeof gdt);
    for (u32 i = 1; i < 9; ++i) at<u64>(f + 8 * i) = at<u64>(f + 8 * i) | kDescriptorAccessed;
  }
  const u64 slot = s.map(gva, frames[0] | kP | kW);
  move_gdt(low32(gva));
  for (u32 i = 0; i < 16; ++i) {
    const u64 f = frames[i & 1];
    s.store(slot, f | kP | (i & 2 ? kW : 0));
    flush_by_invlpg(gva);
    check(kUserRead, page);  // loads CS and SS of both rings
    expect_bits(s, slot, kA, "GDT page");
    at<u64>(f + 0x28) = kFreshData;
    const Outcome o = load_fs(false, 0x2b);  // sets the descriptor's accessed bit, so it writes
    if (i & 2) {
      expect(o.vector == kNoTrap, "fresh descriptor", kNoTrap, o.vector);
      expect((at<u64>(f + 0x28) & kDescriptorAccessed) != 0, "accessed descriptor");
      expect_bits(s, slot, kA | kD, "written GDT page");
    } else {
      expect(o.vector == kPageFault && o.error == 3, "fresh descriptor in a read-only page", 3, o.error);
      expect(o.cr2 >= gva + 0x28 && o.cr2 < gva + 0x30, "cr2", gva + 0x28, o.cr2);
    }
    at<u64>(f + 0x28) = kAccessedData;
    drop_fs();
  }
  load_descriptor_tables();
}

void ldt_page(const Scene& s) {
  const u64 gva = s.region + 0x60000;
  const u64 first = frame(), second = frame();
  const u64 slot = s.map(gva, first | kP | kW), next = s.map(gva + kPageSize, second | kP | kW);
  constexpr u32 kFresh = 7, kUsed = 15;  // selectors of the two descriptors
  Controls c = now;
  const auto set = [&](u64 rights) {
    at<u64>(first) = kFreshData;
    at<u64>(first + 8) = kAccessedData;
    s.store(slot, rights == 0 ? 0 : first | rights);
    flush_by_invlpg(gva);
  };
  const auto is = [&](const Outcome& o, u32 error, const char* what) {
    if (error == kExpectOk) {
      expect(o.vector == kNoTrap, what, kNoTrap, o.vector);
    } else {
      expect(o.vector == kPageFault && o.error == error, what, error, o.vector == kPageFault ? o.error : o.vector);
      expect(o.cr2 >= gva && o.cr2 < gva + 16, "cr2", gva, o.cr2);
    }
    drop_fs();
  };
  set(kP | kW);
  set_ldt(low32(gva), 0xfff);
  for (u32 user = 0; user < 2; ++user) {
    set(kP | kW);
    is(load_fs(user, kUsed), kExpectOk, "LDT");
    expect_bits(s, slot, kA, "LDT page");
    is(load_fs(user, kFresh), kExpectOk, "LDT, fresh");
    expect_bits(s, slot, kA | kD, "written LDT page");
    set(0);
    is(load_fs(user, kUsed), 0, "LDT missing");  // a supervisor access in any ring
    const Outcome o = mended(slot, first | kP | kW, [&] { return load_fs(user, kFresh); });
    expect(o.vector == kNoTrap && mend_count == 1 && mend_error == 0, "LDT mended", 0, mend_error);
    drop_fs();
    set(kP);
    is(load_fs(user, kUsed), kExpectOk, "LDT read-only");
    is(load_fs(user, kFresh), 3, "LDT read-only, fresh");
    c.wp = false;
    set_controls(c);
    is(load_fs(user, kFresh), kExpectOk, "LDT read-only, fresh, WP clear");
    expect_bits(s, slot, kA | kD, "LDT page written with WP clear");
    c.wp = true;
    set_controls(c);
    if (features.smap) {  // an implicit access minds SMAP; emulators heed AC nevertheless
      set(kAll);
      c.smap = true;
      set_controls(c);
      is(load_fs(user, kUsed), 1, "LDT on a user page under SMAP");
      const Outcome with_ac = load_fs(user, kUsed, true);
      if (with_ac.vector == kNoTrap)
        note("an implicit supervisor access with AC=1 passes SMAP");
      else
        is(with_ac, 1, "LDT on a user page under SMAP, AC set");
      drop_fs();
      c.smap = false;
      set_controls(c);
    }
  }
  // One descriptor across two pages, the second missing.
  set_ldt(low32(gva) + kPageSize - 4, 0x7ff);
  at<u32>(first + kPageSize - 4) = low32(kAccessedData);
  at<u32>(second) = high32(kAccessedData);
  s.store(next, 0);
  flush_by_invlpg(gva + kPageSize);
  const Outcome o = load_fs(true, kFresh);
  expect(o.vector == kPageFault && o.error == 0 && o.cr2 == gva + kPageSize, "descriptor across", gva + kPageSize,
         o.cr2);
  s.store(next, second | kP);
  expect(load_fs(true, kFresh).vector == kNoTrap, "descriptor across, mended");
  drop_fs();
  load_ldt(0);
}

}  // namespace

void event_tests() {
  for_each_low_scene(idt_page);
  for_each_low_scene(idt_half_missing);
  for_each_low_scene(stack_page);
  for_each_low_scene(task_page);
  for_each_low_scene(gdt_page);
  for_each_low_scene(ldt_page);
}

}  // namespace paging
