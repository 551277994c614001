// SPDX-License-Identifier: BSL-1.0
#include "cpu.hpp"

#include "control.hpp"
#include "cpu_ops.hpp"
#include "events.hpp"
#include "exits.hpp"
#include "migration.hpp"
#include "permission_maps.hpp"
#include "report.hpp"
#include "serial.hpp"
#include "torture.hpp"

extern "C" void svm_run(std::uint64_t vmcb, std::uint64_t* gpr) noexcept;
extern "C" void svm_run_interruptibly(std::uint64_t vmcb, std::uint64_t* gpr) noexcept;

namespace hv {
namespace {

constexpr std::uint32_t kMsrEfer = 0xC0000080, kMsrVmCr = 0xC0010114, kMsrHostSave = 0xC0010117,
                        kMsrSvmKey = 0xC0010118;
constexpr std::uint64_t kSvmDisabled = 1U << 4;  // in VM_CR

alignas(4096) std::byte host_save_area[4096];

bool have_svm() noexcept {
  if (cpuid(0x80000000).eax < 0x8000000A) return false;
  return (cpuid(0x80000001).ecx & 4) != 0 && (rdmsr(kMsrVmCr) & kSvmDisabled) == 0;
}

}  // namespace

void prepare(Cpu& cpu) noexcept {
  if (!have_svm()) {
    say("error: this CPU offers no SVM");
    stop(kStatusError);
  }
  wrmsr(kMsrEfer, rdmsr(kMsrEfer) | kEferSvme);
  wrmsr(kMsrHostSave, reinterpret_cast<std::uint64_t>(host_save_area));
  asm volatile("clgi");  // from now on interrupts arrive in the guest only (but see threads.hpp)

  Vmcb& v = *cpu.vmcb;
  constexpr std::uint16_t kCr0 = 1U << 0, kCr3 = 1U << 3, kCr4 = 1U << 4;
  v.cr_read = kCr0 | kCr3 | kCr4;
  v.cr_write = kCr0 | kCr3 | kCr4;
  v.exceptions = 1U << vector::kPf;
  v.intercepts1 = intercept::kInit | intercept::kCpuid | intercept::kInvlpg | intercept::kInvlpga | intercept::kIo |
                  intercept::kMsr | intercept::kTaskSwitch | intercept::kShutdown |
                  (cpu.migration != nullptr ? intercept::kNmi : 0U);
  v.intercepts2 = intercept::kSvmInstructions;
  v.asid = 1;
  intercept_msr(kMsrEfer);
  for (std::uint32_t msr = kMsrVmCr; msr <= kMsrSvmKey; ++msr) intercept_msr(msr);
  v.msrpm = msr_map_address();
  find_power_port(cpu.ports);
  watch_ports(cpu, true);
  v.iopm = port_map_address();
  asm volatile("vmload %%rax" : : "a"(&v) : "memory");  // FS, GS, TR and LDTR stay in the CPU from here on
}

namespace {

// Effects: one trip into the guest, with nothing between the last look at what is owed and VMRUN. Returns: false, and
// nothing was done, where the MMU must be asked again.
bool run_guest(Cpu& cpu) noexcept {
  Vmcb& v = *cpu.vmcb;
  const auto at = reinterpret_cast<std::uint64_t>(&v);
  const bool interruptible = threads.preemptible;
  if (interruptible) asm volatile("clgi" : : : "memory");
  if (cpu.vm.kicked) {
    if (interruptible) asm volatile("stgi" : : : "memory");
    return false;
  }
  v.tlb_control = cpu.vm.flush_owed ? 1 : 0;
  cpu.vm.flush_owed = false;
  v.rax = cpu.gpr[kRax];
  v.rsp = cpu.gpr[kRsp];
  if (interruptible)
    svm_run_interruptibly(at, cpu.gpr);
  else
    svm_run(at, cpu.gpr);
  return true;
}

}  // namespace

void run(Cpu& cpu) noexcept {
  using shadowmmu::EnterOutcome;
  Vmcb& v = *cpu.vmcb;
  for (;;) {
    cpu.turns = cpu.turns + 1;
    cpu.vm.kicked = false;
    EnterOutcome entry;
    while ((entry = cpu.vcpu.enter()) == EnterOutcome::Retry) {
    }
    if (entry == EnterOutcome::OutOfMemory) fail(cpu, "out of memory at an entry", 0);
    load_controls(cpu);
    const bool ran = run_guest(cpu);
    cpu.vcpu.exit();
    if (!ran) continue;
    cpu.gpr[kRax] = v.rax;
    cpu.gpr[kRsp] = v.rsp;
    v.event_injection = 0;
    cpu.interrupted = v.exit_int_info;
    check_controls(cpu);
    mend_code_segment(cpu);
    handle_exit(cpu);
    resume_event(cpu);
    if (cpu.torture != nullptr) cpu.torture->after_exit();
    if (cpu.migration != nullptr) cpu.migration->after_exit();
  }
}

}  // namespace hv
