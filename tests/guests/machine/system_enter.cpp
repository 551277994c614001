// SPDX-License-Identifier: BSL-1.0
// SYSENTER by a 32-bit program of ring 3 under a 64-bit kernel. Real processors of AMD's raise #UD there: QEMU does
// not.
#include "cases.hpp"

extern "C" {
void system_enter_once();
extern char system_entry[];
extern paging::u32 system_exits;
}

namespace machine {
namespace {

using paging::kPageSize;

constexpr u32 kMsrCs = 0x174, kMsrEsp = 0x175, kMsrEip = 0x176;
constexpr u32 kTimes = 3, kCounted = 2;  // what each entry adds up

alignas(kPageSize) u64 top[512], pointers[512], directory[512];
alignas(16) u8 kernel_stack[4096];

void enter_long_mode() {
  for (u64 i = 0; i < 512; ++i) directory[i] = i << 21 | 0x87;
  pointers[0] = address_of(directory) | 7u;
  top[0] = address_of(pointers) | 7u;
  paging::write_cr4(paging::read_cr4() | paging::kCr4Pae);
  paging::write_cr3(address_of(top));
  paging::write_msr(paging::kMsrEfer, paging::read_msr(paging::kMsrEfer) | paging::kEferLme);
  paging::write_cr0(paging::read_cr0() | paging::kCr0Pg);
}

}  // namespace

bool system_enter() {
  enter_long_mode();
  paging::write_msr(kMsrCs, SEL_CODE64);
  paging::write_msr(kMsrEsp, address_of(kernel_stack) + sizeof kernel_stack);
  paging::write_msr(kMsrEip, address_of(system_entry));
  for (u32 i = 0; i < kTimes; ++i) system_enter_once();
  asm volatile("" : : : "memory");
  return system_exits == kTimes * kCounted || wrong("count of SYSENTER", kTimes * kCounted, system_exits);
}

}  // namespace machine
