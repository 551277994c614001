// SPDX-License-Identifier: BSL-1.0
#pragma once
namespace hv {

struct Cpu;

/// Effects: deals with the exit in the VMCB.
void handle_exit(Cpu& cpu) noexcept;

}  // namespace hv
