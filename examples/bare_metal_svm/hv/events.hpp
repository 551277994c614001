// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// Exceptions for the guest, and events whose delivery was cut short by an exit.
namespace hv {

struct Cpu;

/// Effects: queues the exception for the next entry; combines it with an interrupted event as the CPU would (double
/// fault, shutdown).
void inject(Cpu& cpu, unsigned vector) noexcept;
void inject(Cpu& cpu, unsigned vector, std::uint32_t error_code) noexcept;
void inject_page_fault(Cpu& cpu, std::uint64_t address, std::uint32_t error_code) noexcept;
inline void inject_gp(Cpu& cpu) noexcept { inject(cpu, 13, 0); }

/// Effects: delivers again what this exit interrupted, unless something took its place.
void resume_event(Cpu& cpu) noexcept;

/// Effects: RIP moves behind an instruction that we carried out; a single-step trap is raised if the guest asked.
void advance(Cpu& cpu, unsigned length) noexcept;
void advance_to(Cpu& cpu, std::uint64_t rip) noexcept;

}  // namespace hv
