// SPDX-License-Identifier: BSL-1.0
#include "cpu.hpp"

#include "control.hpp"
#include "cpu_ops.hpp"
#include "events.hpp"
#include "exits.hpp"
#include "permission_maps.hpp"
#include "report.hpp"
#include "serial.hpp"
#include "torture.hpp"

extern "C" void svm_run(std::uint64_t vmcb, std::uint64_t* gpr) noexcept;

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
  asm volatile("clgi");  // from now on interrupts arrive in the guest only

  Vmcb& v = *cpu.vmcb;
  constexpr std::uint16_t kCr0 = 1U << 0, kCr3 = 1U << 3, kCr4 = 1U << 4;
  v.cr_read = kCr0 | kCr3 | kCr4;
  v.cr_write = kCr0 | kCr3 | kCr4;
  v.exceptions = 1U << vector::kPf;
  v.intercepts1 = intercept::kInit | intercept::kCpuid | intercept::kInvlpg | intercept::kInvlpga | intercept::kIo |
                  intercept::kMsr | intercept::kShutdown;
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

void run(Cpu& cpu) noexcept {
  using shadowmmu::EnterOutcome;
  Vmcb& v = *cpu.vmcb;
  for (;;) {
    EnterOutcome entry;
    while ((entry = cpu.vcpu.enter()) == EnterOutcome::Retry) {
    }
    if (entry == EnterOutcome::OutOfMemory) fail(cpu, "out of memory at an entry", 0);
    load_controls(cpu);
    v.tlb_control = cpu.vm.flush_owed ? 1 : 0;
    cpu.vm.flush_owed = false;
    v.rax = cpu.gpr[kRax];
    v.rsp = cpu.gpr[kRsp];
    svm_run(reinterpret_cast<std::uint64_t>(&v), cpu.gpr);
    cpu.gpr[kRax] = v.rax;
    cpu.gpr[kRsp] = v.rsp;
    v.event_injection = 0;
    cpu.interrupted = v.exit_int_info;
    cpu.vcpu.exit();
    handle_exit(cpu);
    resume_event(cpu);
    if (cpu.torture != nullptr) cpu.torture->after_exit();
  }
}

}  // namespace hv
