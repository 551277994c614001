// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// Ports through which the guest can switch the machine off, reset it, or take address line 20 away from under us. They
/// are watched, not emulated: each access is carried out for real afterwards. All other ports belong to the guest.
namespace hv {

struct Cpu;

/// The values of SLP_TYP that mean the sleep states S1 to S5: the packages \_S1 to \_S5 of the DSDT.
struct SleepTypes {
  static constexpr unsigned kOff = 5;  ///< S5, which is no sleep
  static constexpr std::uint8_t kNone = 0xFF;
  std::uint8_t of_state[kOff + 1] = {kNone, kNone, kNone, kNone, kNone, kNone};
  /// Returns: the state that SLP_TYP = `type` brings, S5 before all others; 0 if the firmware names none.
  [[nodiscard]] unsigned state(unsigned type) const noexcept {
    unsigned n = kOff;
    while (n != 0 && of_state[n] != type) --n;
    return n;
  }
};

struct PortWatch {
  std::uint16_t power = 0;  ///< PM1a control, from the FADT; 0 if there is none
  SleepTypes sleep{};
  bool console = false;              ///< COM1's data port is watched as well
  bool line_open = false;            ///< the guest's last byte on it was no newline
  bool output_port_follows = false;  ///< the keyboard controller got command D1
};

/// Returns: the port of the ACPI timer, 3.579545 MHz; 0 if there is none.
[[nodiscard]] std::uint16_t find_timer_port() noexcept;
/// Returns: the address of the HPET, which the guest does not find any more; 0 if there is none. Call it before the
/// guest runs.
[[nodiscard]] std::uint64_t take_hpet() noexcept;
/// Effects: finds the power port, and what to write there. Call it before the guest runs.
void find_power_port(PortWatch& ports) noexcept;
/// Effects: intercepts the watched ports, or lets them all through.
void watch_ports(Cpu& cpu, bool on) noexcept;
/// Effects: handles an IN or OUT on a watched port.
void handle_io(Cpu& cpu) noexcept;

}  // namespace hv
