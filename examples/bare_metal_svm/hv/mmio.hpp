// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// A device page that is in no memslot: what the guest's MOV does to it, done for the guest.
namespace hv {

struct Cpu;

/// Effects: carries out the MOV at RIP on the device at `gpa`, which is host-physical too, and moves RIP behind it; or
/// queues the fault of its fetch. Returns: false, with nothing done, for any other instruction.
[[nodiscard]] bool emulate_device_move(Cpu& cpu, std::uint64_t gpa) noexcept;

}  // namespace hv
