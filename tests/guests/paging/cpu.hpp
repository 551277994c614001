// SPDX-License-Identifier: BSL-1.0
// Thin wrappers of single instructions, and the register bits they take.
#pragma once

#include "types.hpp"

namespace paging {

constexpr u32 kCr0Pe = 1u << 0, kCr0Wp = 1u << 16, kCr0Nw = 1u << 29, kCr0Cd = 1u << 30, kCr0Pg = 1u << 31;
constexpr u32 kCr4Pse = 1u << 4, kCr4Pae = 1u << 5, kCr4Pge = 1u << 7, kCr4Osfxsr = 1u << 9;
constexpr u32 kCr4Smep = 1u << 20, kCr4Smap = 1u << 21;
constexpr u32 kMsrEfer = 0xc0000080;
constexpr u32 kEferLme = 1u << 8, kEferLma = 1u << 10, kEferNxe = 1u << 11;
constexpr u32 kFlagsFixed = 2, kFlagsAc = 1u << 18;

inline u32 read_cr0() {
  u32 v;
  asm volatile("mov %%cr0, %0" : "=r"(v));
  return v;
}
inline u32 read_cr3() {
  u32 v;
  asm volatile("mov %%cr3, %0" : "=r"(v));
  return v;
}
inline u32 read_cr4() {
  u32 v;
  asm volatile("mov %%cr4, %0" : "=r"(v));
  return v;
}
inline void write_cr0(u32 v) { asm volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
inline void write_cr3(u32 v) { asm volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
inline void write_cr4(u32 v) { asm volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
inline void invlpg_low(u32 gva) { asm volatile("invlpg (%0)" : : "r"(gva) : "memory"); }

inline u64 read_msr(u32 index) {
  u32 lo, hi;
  asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
  return (static_cast<u64>(hi) << 32) | lo;
}
inline void write_msr(u32 index, u64 v) {
  asm volatile("wrmsr" : : "c"(index), "a"(low32(v)), "d"(high32(v)) : "memory");
}

struct CpuidLeaf {
  u32 a, b, c, d;
};
inline CpuidLeaf cpuid(u32 leaf, u32 sub = 0) {
  CpuidLeaf r{};
  asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
  return r;
}

inline void out8(u16 port, u8 v) { asm volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
inline void out32(u16 port, u32 v) { asm volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
inline u8 in8(u16 port) {
  u8 v;
  asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}

struct [[gnu::packed]] TableRegister {
  u16 limit;
  u32 base;
  u32 base_high;
};
inline void load_idt(const TableRegister& r) { asm volatile("lidt %0" : : "m"(r)); }
inline void load_gdt(const TableRegister& r) { asm volatile("lgdt %0" : : "m"(r)); }
inline void load_tr(u16 selector) { asm volatile("ltr %0" : : "r"(selector) : "memory"); }
inline void load_ldt(u16 selector) { asm volatile("lldt %0" : : "r"(selector) : "memory"); }

}  // namespace paging
