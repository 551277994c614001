// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// Control registers and EFER as the guest sees them. AMD APM vol. 2, 3.1.
namespace hv {

struct Cpu;

/// Effects: carries out the MOV CRn, CLTS, LMSW or SMSW that exited.
void handle_control_read(Cpu& cpu, unsigned number) noexcept;
void handle_control_write(Cpu& cpu, unsigned number) noexcept;
/// Effects: carries out the RDMSR or WRMSR that exited.
void handle_msr(Cpu& cpu) noexcept;
/// Effects: the VMCB's control registers become what the MMU wants for the guest's.
void load_controls(Cpu& cpu) noexcept;

}  // namespace hv
