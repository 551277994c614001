// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/types.hpp"

/// Guest-virtual access on behalf of an instruction that we carry out.
namespace hv {

struct Cpu;

/// Returns: false if the access faulted; the fault is queued for the guest then.
[[nodiscard]] bool read_virtual(Cpu& cpu, std::uint64_t va, void* to, unsigned bytes, bool fetch = false) noexcept;
[[nodiscard]] bool write_virtual(Cpu& cpu, std::uint64_t va, const void* from, unsigned bytes) noexcept;
/// Returns: how many of the `bytes` at `va` can be read without a fault.
[[nodiscard]] unsigned peek_code(Cpu& cpu, std::uint64_t va, std::uint8_t* to, unsigned bytes) noexcept;

}  // namespace hv
