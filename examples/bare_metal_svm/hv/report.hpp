// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// The end of a run: the statistics block, and ways to stop the machine.
namespace hv {

struct Cpu;

/// Exit codes of ours on port F4, beside the guest's own; the report's first line says more. `Left` is any end but
/// a power-off: a triple fault, a reset, a suspend.
inline constexpr std::uint8_t kStatusError = 0x7E, kStatusGuestLeft = 0x7D;

/// Effects: prints how the guest ended and the statistics.
void report(Cpu& cpu, const char* how) noexcept;
void report(Cpu& cpu, const char* how, std::uint64_t number) noexcept;
/// Effects: report, then stops the machine on the guest's behalf.
[[noreturn]] void leave_guest(Cpu& cpu, const char* how) noexcept;
/// Effects: prints an error line and the report, then stops.
[[noreturn]] void fail(Cpu& cpu, const char* what, std::uint64_t number) noexcept;
/// Effects: ends QEMU with the status, through its debug-exit device; where there is none, the machine halts.
[[noreturn]] void stop(std::uint8_t status) noexcept;

}  // namespace hv
