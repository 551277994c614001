// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/sim/flat_memory.hpp"
#include "shadowmmu/types.hpp"

/// Shorthand that the tests of the simulated hardware share.
namespace shadowmmu::sim_test {

inline constexpr std::uint64_t kP = 1, kW = 2, kU = 4, kA = 0x20, kD = 0x40, kPs = 0x80, kNx = std::uint64_t{1} << 63;

inline constexpr AccessRequest kRead{}, kWrite{true, false, false}, kFetch{false, true, false};
inline constexpr AccessRequest kUserRead{false, false, true}, kUserWrite{true, false, true},
    kUserFetch{false, true, true};
inline constexpr CpuMode kKernel{0, false}, kKernelAc{0, true}, kApp{3, false}, kAppAc{3, true};

[[nodiscard]] inline CpuMode mode_of(AccessRequest request) { return request.user ? kApp : kKernel; }

/// One memory that is guest physical and host physical at once: gpa = hpa.
struct Machine {
  explicit Machine(std::size_t frames = 64) : memory(frames) {}

  void poke(std::uint64_t at, std::uint64_t value, unsigned bytes = 8) { (void)memory.write(Gpa{at}, bytes, value); }
  [[nodiscard]] std::uint64_t peek(std::uint64_t at, unsigned bytes = 8) {
    std::uint64_t value = 0;
    (void)memory.read(Gpa{at}, bytes, value);
    return value;
  }

  sim::FlatMemory memory;
};

inline constexpr std::uint64_t kCr0Base = cr0::kPe | cr0::kPg;
inline constexpr Controls kLong{kCr0Base | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe};
inline constexpr Controls kLongNoNx{kCr0Base | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma};
inline constexpr Controls kPaeNx{kCr0Base | cr0::kWp, cr4::kPae, efer::kNxe};
inline constexpr Controls kPaeNoNx{kCr0Base | cr0::kWp, cr4::kPae, 0};
inline constexpr Controls kLegacy{kCr0Base | cr0::kWp, 0, 0};
inline constexpr Controls kLegacyPse{kCr0Base | cr0::kWp, cr4::kPse, 0};

[[nodiscard]] constexpr Controls with_cr4(Controls controls, std::uint64_t bits) {
  controls.cr4 |= bits;
  return controls;
}
[[nodiscard]] constexpr Controls without_wp(Controls controls) {
  controls.cr0 &= ~cr0::kWp;
  return controls;
}
[[nodiscard]] constexpr HwState state_of(Controls controls, std::uint64_t cr3) {
  return {controls.cr0, cr3, controls.cr4, controls.efer};
}

}  // namespace shadowmmu::sim_test
