// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "cpu_ops.hpp"

/// What the guest's CPU can do: the host's CPUID without what is not virtualized, and the control bits that follow.
namespace hv {

struct Cpu;

inline constexpr bool kGuestHugePages = true;  ///< 1 GiB guest pages are shown

[[nodiscard]] CpuidResult guest_cpuid(const Cpu& cpu, std::uint32_t leaf, std::uint32_t subleaf) noexcept;
[[nodiscard]] std::uint64_t allowed_cr4(const Cpu& cpu) noexcept;
[[nodiscard]] std::uint64_t allowed_efer(const Cpu& cpu) noexcept;
/// Physical address bits of the guest's CPU, and of the host's. The guest gets few, so that one memslot covers all that
/// it can name: no access of its is nobody's.
inline constexpr unsigned kGuestAddressBits = 36;
[[nodiscard]] unsigned host_address_bits() noexcept;

}  // namespace hv
