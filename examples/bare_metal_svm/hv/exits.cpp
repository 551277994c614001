// SPDX-License-Identifier: BSL-1.0
#include "exits.hpp"

#include "control.hpp"
#include "cpu.hpp"
#include "decode.hpp"
#include "events.hpp"
#include "features.hpp"
#include "migration.hpp"
#include "report.hpp"
#include "torture.hpp"

namespace hv {
namespace {

void handle_invlpg(Cpu& cpu) noexcept {
  Instruction insn;
  if (!fetch_instruction(cpu, insn)) return;
  if (!insn.is(0x01) || !insn.memory) return;  // rewritten meanwhile: run it again
  cpu.vcpu.invlpg(shadowmmu::Gva{linear_address(cpu, insn)});
  ++cpu.counts.invlpg;
  advance(cpu, insn.length);
}

void handle_cpuid(Cpu& cpu) noexcept {
  Instruction insn;
  if (!fetch_instruction(cpu, insn)) return;
  const CpuidResult r =
      guest_cpuid(cpu, static_cast<std::uint32_t>(cpu.gpr[kRax]), static_cast<std::uint32_t>(cpu.gpr[kRcx]));
  cpu.gpr[kRax] = r.eax;
  cpu.gpr[kRbx] = r.ebx;
  cpu.gpr[kRcx] = r.ecx;
  cpu.gpr[kRdx] = r.edx;
  ++cpu.counts.cpuid;
  advance(cpu, insn.length);
}

void handle_page_fault(Cpu& cpu, std::uint64_t va, std::uint32_t error_code) noexcept {
  using Kind = shadowmmu::FaultOutcome::Kind;
  const shadowmmu::FaultOutcome o = cpu.vcpu.handle_fault(shadowmmu::Gva{va}, error_code, cpu.mode());
  switch (o.kind) {
    case Kind::Resume:
      if (cpu.migration != nullptr) cpu.migration->mapped(va);
      return;
    case Kind::Retry:
      return;
    case Kind::InjectPageFault:
      step_cancel(cpu);
      inject_page_fault(cpu, o.address, o.error_code);
      return;
    case Kind::InjectGp:
      step_cancel(cpu);
      inject_gp(cpu);
      return;
    case Kind::Emulate:
      step_over_write(cpu, o);
      return;
    case Kind::Mmio:
      if (cpu.torture != nullptr && cpu.torture->handle_mmio(o)) return;
      fail(cpu, "unhandled access to guest address ", o.gpa.value());
    case Kind::OutOfMemory:
      fail(cpu, "out of memory at a page fault on guest address ", va);
    case Kind::Pending:
    case Kind::HostError:
    case Kind::InjectEptViolation:
    case Kind::InjectEptMisconfig:
      break;
  }
  fail(cpu, "unhandled outcome of a page fault: ", static_cast<std::uint64_t>(o.kind));
}

}  // namespace

void handle_exit(Cpu& cpu) noexcept {
  const Vmcb& v = *cpu.vmcb;
  const auto code = static_cast<std::uint32_t>(v.exit_code);
  ++cpu.counts.total;
  if (step_exit(cpu, code)) return;

  if (code == exit_code::kException + vector::kPf) {
    ++cpu.counts.page_fault;
    handle_page_fault(cpu, v.exit_info2, static_cast<std::uint32_t>(v.exit_info1));
  } else if (code < exit_code::kCrWrite) {
    ++cpu.counts.control_read;
    handle_control_read(cpu, code - exit_code::kCrRead);
  } else if (code < exit_code::kCrWrite + 16) {
    ++cpu.counts.control_write;
    handle_control_write(cpu, code - exit_code::kCrWrite);
  } else if (code == exit_code::kInvlpg) {
    handle_invlpg(cpu);
  } else if (code == exit_code::kCpuid) {
    handle_cpuid(cpu);
  } else if (code == exit_code::kIntr) {
    // Torture's: it has come for the time, and the guest takes it at the next entry.
  } else if (code == exit_code::kNmi) {
    // The migration's: its turn has come and gone.
  } else if (code == exit_code::kMsr) {
    ++cpu.counts.msr;
    handle_msr(cpu);
  } else if (code == exit_code::kIo) {
    ++cpu.counts.io;
    handle_io(cpu);
  } else if (code == exit_code::kInvlpga || (code >= exit_code::kVmrun && code <= exit_code::kSkinit)) {
    ++cpu.counts.svm;
    inject(cpu, vector::kUd);  // the guest's CPU has no SVM
  } else if (code == exit_code::kTaskSwitch) {
    // APM vol. 2, 15.14.1: EXITINFO1 is the selector of the new task.
    fail(cpu, "a hardware task switch, which is not carried out here, to the task ", v.exit_info1 & 0xFFFF);
  } else if (code == exit_code::kShutdown) {
    leave_guest(cpu, "triple fault");
  } else if (code == exit_code::kInit) {
    leave_guest(cpu, "init");
  } else {
    fail(cpu, code == exit_code::kInvalid ? "the CPU refuses the guest state; cr0 " : "unhandled exit ",
         code == exit_code::kInvalid ? v.cr0 : code);
  }
}

}  // namespace hv
