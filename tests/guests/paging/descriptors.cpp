// SPDX-License-Identifier: BSL-1.0
// GDT, both IDTs, both task segments (SDM vol. 3A, 3.4.5, 6.11, 6.14.1, 8.2).
#include "machine.hpp"

extern "C" char trap_stubs32[], trap_stubs64[], trap_stack_top[];

namespace paging {

alignas(kPageSize) u64 gdt[kGdtEntries] = {
    0,
    0x00cf9a000000ffff,  // 08 code32
    0x00cf92000000ffff,  // 10 stack
    0x00af9a000000ffff,  // 18 code64
    0x00cffa000000ffff,  // 20 user code32
    0x00cff2000000ffff,  // 28 data of every ring
    0x00affa000000ffff,  // 30 user code64
    0x00009a000000ffff,  // 38 code16
    0x000092000000ffff,  // 40 data16
};

namespace {

constexpr u16 kSelTss32 = 0x48, kSelTss64 = 0x50;
constexpr u32 kTypeTss = 0x89, kTypeLdt = 0x82;
constexpr u32 kTss32Bytes = 104, kTss64Bytes = 104;
constexpr u32 kStubBytes = 16, kSyscallStub = 32;

alignas(kPageSize) u64 idt32[256];
alignas(kPageSize) u64 idt64[512];
alignas(128) u32 tss32[32];
alignas(128) u32 tss64[32];

void set_system_descriptor(u32 selector, u32 base, u32 limit, u32 type) {
  u64 d = limit & 0xffff;
  d |= static_cast<u64>(base & 0xffffff) << 16;
  d |= static_cast<u64>(type) << 40;
  d |= static_cast<u64>(base >> 24) << 56;
  gdt[selector / 8] = d;
}

void set_gate(u32 vector, u32 stub) {
  const u32 rights = vector == 0x80 ? 0xee00 : 0x8e00;  // 32/64-bit interrupt gate, DPL 3 for the system call
  const u32 entry32 = address_of(trap_stubs32) + stub * kStubBytes;
  const u32 entry64 = address_of(trap_stubs64) + stub * kStubBytes;
  idt32[vector] = (static_cast<u64>((entry32 & 0xffff0000) | rights) << 32) | (0x08u << 16) | (entry32 & 0xffff);
  idt64[2 * vector] = (static_cast<u64>((entry64 & 0xffff0000) | rights) << 32) | (0x18u << 16) | (entry64 & 0xffff);
}

void load_task(u32 base) {
  const bool wide = now.mode == Mode::kLong;
  const u16 selector = wide ? kSelTss64 : kSelTss32;
  set_system_descriptor(selector, base, (wide ? kTss64Bytes : kTss32Bytes) - 1, kTypeTss);
  if (wide) gdt[selector / 8 + 1] = 0;
  load_tr(selector);
}

void detect_features() {
  const u32 basic = cpuid(0).a;
  const u32 extended = cpuid(0x80000000).a;
  const CpuidLeaf one = cpuid(1);
  const u32 seven = basic >= 7 ? cpuid(7).b : 0;
  const u32 ext = extended >= 0x80000001 ? cpuid(0x80000001).d : 0;
  features.pge = (one.d >> 13) & 1;
  features.pse36 = (one.d >> 17) & 1;
  features.sse2 = (one.d >> 26) & 1;
  features.smep = (seven >> 7) & 1;
  features.smap = (seven >> 20) & 1;
  features.nx = (ext >> 20) & 1;
  features.gigabyte = (ext >> 26) & 1;
  features.physical_bits = extended >= 0x80000008 ? cpuid(0x80000008).a & 0xff : 36;
}

}  // namespace

void set_trap_stack(u32 top) {
  tss32[1] = top;   // ESP0
  tss32[2] = 0x10;  // SS0
  tss64[1] = top;   // RSP0
  tss64[2] = 0;
}

void machine_init() {
  for (u32 v = 0; v < 32; ++v) set_gate(v, v);
  set_gate(0x80, kSyscallStub);
  set_trap_stack(address_of(trap_stack_top));
  tss32[25] = kTss32Bytes << 16;  // no I/O map
  tss64[25] = kTss64Bytes << 16;
  load_gdt({sizeof gdt - 1, address_of(gdt), 0});
  asm volatile("ljmp $0x08, $1f\n1: mov %0, %%ss\n mov %1, %%ds\n mov %1, %%es\n mov %2, %%fs\n mov %2, %%gs"
               :
               : "r"(0x10), "r"(0x2b), "r"(0)
               : "memory");
  load_descriptor_tables();
  detect_features();
  write_cr0(read_cr0() & ~(kCr0Cd | kCr0Nw));  // as some firmware leaves them
  asm volatile("fninit");
  if (features.sse2) write_cr4(read_cr4() | kCr4Osfxsr);
}

void* idt_of_mode(u32* bytes) {
  *bytes = now.mode == Mode::kLong ? kIdtBytes64 : kIdtBytes32;
  return now.mode == Mode::kLong ? idt64 : idt32;
}

void* tss_of_mode(u32* bytes) {
  *bytes = sizeof tss32;
  return now.mode == Mode::kLong ? tss64 : tss32;
}

void move_idt(u32 base) {
  u32 bytes = 0;
  idt_of_mode(&bytes);
  load_idt({static_cast<u16>(bytes - 1), base, 0});
}

void move_gdt(u32 base) { load_gdt({sizeof gdt - 1, base, 0}); }
void move_tss(u32 base) { load_task(base); }

void load_descriptor_tables() {
  u32 bytes = 0;
  move_gdt(address_of(gdt));
  move_idt(address_of(idt_of_mode(&bytes)));
  load_task(address_of(tss_of_mode(&bytes)));
}

void set_ldt(u32 base, u32 limit) {
  set_system_descriptor(kSelLdt, base, limit, kTypeLdt);
  gdt[kSelLdt / 8 + 1] = 0;
  load_ldt(kSelLdt);
}

}  // namespace paging
