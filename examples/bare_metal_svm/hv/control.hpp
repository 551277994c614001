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
/// Effects: ends the run if the CPU has changed CR3 or CR0.TS since the last entry. Every instruction that writes them
/// exits before it does, so only a task switch can have done so, on a CPU that ignores its intercept: QEMU's TCG 7.2.
/// The guest has then run on tables that are not the MMU's, and nothing that it did since is to be believed.
void check_controls(Cpu& cpu) noexcept;
/// Effects: clears CS.D beside CS.L. SYSENTER and SYSEXIT leave both set under QEMU's TCG 7.2, where VMRUN refuses what
/// no descriptor may say. In 64-bit code D means nothing. APM vol. 2, 15.5.1.
void mend_code_segment(Cpu& cpu) noexcept;

}  // namespace hv
