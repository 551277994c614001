// SPDX-License-Identifier: BSL-1.0
#include "print.hpp"

#include "cpu.hpp"

namespace paging {
namespace {

constexpr u16 kCom1 = 0x3f8;
constexpr u16 kExitPort = 0xf4;

void put_char(char c) {
  if (c == '\n') put_char('\r');
  while ((in8(kCom1 + 5) & 0x20) == 0) {
  }
  out8(kCom1, static_cast<u8>(c));
}

}  // namespace

void serial_init() {
  out8(kCom1 + 1, 0);
  out8(kCom1 + 3, 0x80);
  out8(kCom1 + 0, 1);
  out8(kCom1 + 1, 0);
  out8(kCom1 + 3, 3);
  out8(kCom1 + 2, 7);
}

void put(const char* text) {
  while (*text != 0) put_char(*text++);
}

void put_hex(u64 v) {
  put("0x");
  int shift = 60;
  while (shift > 0 && ((v >> shift) & 15) == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) put_char("0123456789abcdef"[(v >> shift) & 15]);
}

void put_dec(u32 v) {
  if (v >= 10) put_dec(v / 10);
  put_char(static_cast<char>('0' + v % 10));
}

void put_field(const char* name, u64 v) {
  put(" ");
  put(name);
  put("=");
  put_hex(v);
}

void leave_machine(u32 code) {
  while ((in8(kCom1 + 5) & 0x40) == 0) {
  }
  out32(kExitPort, code);
  for (;;) asm volatile("cli; hlt");
}

}  // namespace paging
