// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/result.hpp"

namespace hv {

struct Cpu;

/// One guest instruction carried out by the CPU itself while the pages that it writes are open.
///
///   Idle --begin, nothing interrupted--> Instruction --single-step trap--> Idle
///                                        Instruction --any exception or other exit--> Idle, undone
///   Idle --begin, event delivery-------> Delivery ----first exit that is no part of it--> Idle
///
/// The trap flag ends an Instruction. It cannot end a Delivery, for the CPU would push it: that window stays open until
/// the next exit, which the MMU takes as one large write.
struct Step {
  enum class Kind : std::uint8_t { Idle, Instruction, Delivery };
  Kind kind = Kind::Idle;
  bool pushes_flags = false, pops_flags = false, window = false, ports_open = false;
  std::uint64_t flags = 0;  ///< the guest's TF before the step
  std::uint64_t dr6 = 0;
};

/// Effects: opens a window for the write that `emulate` is about and lets the instruction or delivery run through it;
/// within a step, opens one more.
void step_over_write(Cpu& cpu, const shadowmmu::FaultOutcome& emulate) noexcept;
/// Effects: one instruction with the watched ports open.
void step_over_io(Cpu& cpu) noexcept;
/// Effects: sees each exit first. Returns: whether the exit is dealt with.
[[nodiscard]] bool step_exit(Cpu& cpu, std::uint32_t code) noexcept;
/// Effects: the step has not happened: closes the windows, gives back the guest's flags.
void step_cancel(Cpu& cpu) noexcept;

}  // namespace hv
