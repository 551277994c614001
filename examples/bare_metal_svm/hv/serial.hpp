// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// COM1 belongs to the guest; the hypervisor speaks on it in between, in lines that begin with `shadowmmu:`.
namespace hv {

struct Hex {
  std::uint64_t value;
};

void put(const char* text) noexcept;
void put(std::uint64_t value) noexcept;
void put(Hex value) noexcept;
inline void put(unsigned value) noexcept { put(std::uint64_t{value}); }
inline void put(int value) noexcept { put(static_cast<std::uint64_t>(value)); }

/// Divisor latch away, transmitter polled: whatever the guest did to the port, the bytes go out.
class SerialTurn {
 public:
  SerialTurn() noexcept;
  ~SerialTurn();
  SerialTurn(const SerialTurn&) = delete;
  SerialTurn& operator=(const SerialTurn&) = delete;

 private:
  std::uint8_t line_control_;
};

/// Prints `shadowmmu: ` and the parts as one line.
template <class... Parts>
void say(Parts... parts) noexcept {
  SerialTurn turn;
  put("shadowmmu: ");
  (put(parts), ...);
  put("\n");
}

/// Waits until the last byte has left the chip.
void serial_drain() noexcept;

}  // namespace hv
