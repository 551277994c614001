// SPDX-License-Identifier: BSL-1.0
// Ends of a run. Those that are no success print nothing, or a lie. The ports are those of QEMU's machine `pc`.
#include "cases.hpp"

namespace machine {
namespace {

constexpr u16 kPowerControl = 0x604;  // PM1a control; ACPI 6.4, 4.8.3.2.1
constexpr u32 kSleepEnable = 1u << 13;

void out16(u16 port, u32 v) { asm volatile("outw %0, %1" : : "a"(static_cast<u16>(v)), "Nd"(port)); }

[[noreturn]] void wait() {
  for (;;) asm volatile("cli; hlt");
}

[[noreturn]] void sleep(u32 type) {
  out16(kPowerControl, type << 10);  // as Linux does: first the type alone
  out16(kPowerControl, type << 10 | kSleepEnable);
  wait();
}

}  // namespace

bool power_off() { sleep(0); }
bool suspend() { sleep(1); }
bool hibernate() { sleep(2); }

bool triple_fault() {
  paging::load_idt({0, 0, 0});
  asm volatile("int3");
  return false;
}

bool reset_keyboard() {
  paging::out8(0x64, 0xfe);
  wait();
}

bool reset_wide() {
  out16(0xcf9, 6);
  wait();
}

bool liar() {
  put("shadowmmu: guest exit: power-off\nshadowmmu: audit: 0 violations\n");
  return triple_fault();
}

}  // namespace machine
