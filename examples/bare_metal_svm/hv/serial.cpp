// SPDX-License-Identifier: BSL-1.0
#include "serial.hpp"

#include "cpu_ops.hpp"

namespace hv {
namespace {

constexpr std::uint16_t kCom1 = 0x3F8, kLineControl = kCom1 + 3, kLineStatus = kCom1 + 5;
constexpr std::uint8_t kEightBits = 0x03, kHoldingEmpty = 0x20, kAllSent = 0x40;

// Bounded, since a machine without COM1 must not hang here.
void wait_for(std::uint8_t bit) noexcept {
  for (int i = 0; i < 1'000'000 && (in8(kLineStatus) & bit) == 0; ++i) {
  }
}

void put_byte(char c) noexcept {
  wait_for(kHoldingEmpty);
  out8(kCom1, static_cast<std::uint8_t>(c));
}

}  // namespace

SerialTurn::SerialTurn() noexcept : line_control_(in8(kLineControl)) { out8(kLineControl, kEightBits); }
SerialTurn::~SerialTurn() { out8(kLineControl, line_control_); }

void put(const char* text) noexcept {
  for (; *text != '\0'; ++text) {
    if (*text == '\n') put_byte('\r');
    put_byte(*text);
  }
}

void put(std::uint64_t value) noexcept {
  char digits[21];
  unsigned at = 20;
  digits[at] = '\0';
  do {
    digits[--at] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  put(&digits[at]);
}

void put(Hex hex) noexcept {
  put("0x");
  bool started = false;
  for (int shift = 60; shift >= 0; shift -= 4) {
    const auto digit = static_cast<unsigned>(hex.value >> shift) & 15U;
    if (digit != 0 || started || shift == 0) {
      put_byte("0123456789abcdef"[digit]);
      started = true;
    }
  }
}

void serial_drain() noexcept { wait_for(kAllSent); }

}  // namespace hv
