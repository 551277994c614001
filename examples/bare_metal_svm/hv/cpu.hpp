// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdint>

#include "mmu.hpp"
#include "ports.hpp"
#include "step.hpp"
#include "vmcb.hpp"

namespace hv {

enum Register : unsigned { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };

/// Exits by kind, for the statistics block.
struct ExitCounts {
  std::uint64_t total, page_fault, control_read, control_write, cr3_write, invlpg, cpuid, msr, io, svm, steps,
      exceptions, reinjected;
};

class Migration;
class Torture;

/// The one virtual CPU: its VMCB, the registers beside it, and what the guest believes of its control registers.
struct Cpu {
  Cpu(Vm& v, Mmu& m) noexcept : vm(v), mmu(m), vcpu(m) {}

  Vm& vm;
  Mmu& mmu;
  Vcpu vcpu;
  Vmcb* vmcb = nullptr;
  std::uint64_t gpr[16] = {};  ///< RAX and RSP are copied from and to the VMCB around each exit
  shadowmmu::Controls controls{};
  std::uint64_t cr3 = 0;
  std::uint64_t loaded_cr0 = 0, loaded_cr3 = 0;  ///< what the VMCB held at the last entry
  std::uint64_t interrupted = 0;                 ///< EXITINTINFO of this exit, until it is delivered or superseded
  Step step{};
  PortWatch ports{};
  ExitCounts counts{};
  Torture* torture = nullptr;
  Migration* migration = nullptr;
  volatile std::uint64_t turns = 0;  ///< of the vCPU's loop: what was under way at the one before is done

  [[nodiscard]] bool long_mode() const noexcept { return (controls.efer & shadowmmu::efer::kLma) != 0; }
  /// Size of code: 64, 32 or 16.
  [[nodiscard]] unsigned code_bits() const noexcept {
    if (long_mode() && (vmcb->cs.attributes & kSegmentLong) != 0) return 64;
    return (vmcb->cs.attributes & kSegmentBig) != 0 ? 32 : 16;
  }
  [[nodiscard]] shadowmmu::CpuMode mode() const noexcept { return {vmcb->cpl, (vmcb->rflags & kFlagAc) != 0}; }
};

/// Effects: runs the guest until it leaves; never returns.
[[noreturn]] void run(Cpu& cpu) noexcept;
/// Effects: sets up SVM and the VMCB's constant part.
void prepare(Cpu& cpu) noexcept;

}  // namespace hv
