// SPDX-License-Identifier: BSL-1.0
#include "step.hpp"

#include "cpu.hpp"
#include "decode.hpp"
#include "events.hpp"
#include "exits.hpp"
#include "guest_access.hpp"
#include "report.hpp"

namespace hv {
namespace {

// All exceptions but NMI, whose vector is no exception.
constexpr std::uint32_t kEveryException = ~(1U << vector::kNmi);

// PUSHF would store our trap flag, POPF and IRET load the guest's next one.
void classify(Cpu& cpu) noexcept {
  std::uint8_t bytes[15] = {};
  const unsigned n = peek_code(cpu, linear_rip(cpu), bytes, sizeof bytes);
  Instruction i;
  const bool ok = decode(bytes, n, cpu.code_bits(), i) == Decoded::Ok && !i.two_byte;
  cpu.step.pushes_flags = ok && i.opcode == 0x9C;
  cpu.step.pops_flags = ok && (i.opcode == 0x9D || i.opcode == 0xCF);
}

void begin_instruction(Cpu& cpu) noexcept {
  Vmcb& v = *cpu.vmcb;
  cpu.step.kind = Step::Kind::Instruction;
  cpu.step.flags = v.rflags & kFlagTf;
  cpu.step.dr6 = v.dr6;
  classify(cpu);
  v.dr6 &= ~(kDr6Bs | kDr6Traps);
  v.rflags |= kFlagTf;
  v.exceptions = kEveryException;
  v.int_control |= kVirtualInterruptMasking;  // the host's IF is clear: no interrupt comes between
  v.int_state &= ~kInterruptShadow;           // it ends with this instruction
  ++cpu.counts.steps;
}

void close(Cpu& cpu) noexcept {
  Vmcb& v = *cpu.vmcb;
  if (cpu.step.window) cpu.vcpu.end_write_windows();
  if (cpu.step.ports_open) watch_ports(cpu, true);
  v.exceptions = 1U << vector::kPf;
  v.int_control &= ~kVirtualInterruptMasking;
  cpu.step = {};
}

// The second byte of the flags image on top of the stack holds TF.
void repair_pushed_flags(Cpu& cpu) noexcept {
  const Vmcb& v = *cpu.vmcb;
  std::uint64_t at = cpu.gpr[kRsp];
  if (cpu.code_bits() != 64) {
    if ((v.ss.attributes & kSegmentBig) == 0) at &= 0xFFFF;
    at = (v.ss.base + at) & 0xFFFFFFFF;
  }
  const auto t =
      cpu.vcpu.translate(shadowmmu::Gva{at + 1}, {.write = true, .fetch = false, .user = v.cpl == 3}, cpu.mode());
  if (!t.ok()) return;
  std::uint8_t byte = 0;
  const std::uint64_t gpa = t.to.gpa.value();
  if (!cpu.vm.memory.read(gpa, &byte, 1)) return;
  byte = static_cast<std::uint8_t>((byte & ~1U) | (cpu.step.flags >> 8));
  // The window is open, so the MMU will see what it holds then; its dirty log must be told.
  if (cpu.vm.memory.write(gpa, &byte, 1)) cpu.mmu.guest_wrote(shadowmmu::Gpa{gpa}, 1);
}

void finish_instruction(Cpu& cpu) noexcept {
  Vmcb& v = *cpu.vmcb;
  const Step done = cpu.step;
  if (done.pushes_flags && done.flags == 0) repair_pushed_flags(cpu);
  if (!done.pops_flags) v.rflags = (v.rflags & ~kFlagTf) | done.flags;
  const std::uint64_t traps = v.dr6 & kDr6Traps;
  v.dr6 = done.dr6;
  close(cpu);
  if (done.flags == 0 && traps == 0) return;
  v.dr6 = (done.dr6 & ~kDr6Traps) | traps | (done.flags != 0 ? kDr6Bs : 0);
  inject(cpu, vector::kDb);
}

bool has_error_code(unsigned v) noexcept { return v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21; }

}  // namespace

void step_over_write(Cpu& cpu, const shadowmmu::FaultOutcome& emulate) noexcept {
  if (cpu.step.kind == Step::Kind::Idle) {
    if ((cpu.interrupted & event::kValid) != 0)
      cpu.step.kind = Step::Kind::Delivery;
    else
      begin_instruction(cpu);
  }
  cpu.step.window = true;
  if (!cpu.vcpu.begin_write_window(emulate).ok()) fail(cpu, "no write window for guest address ", emulate.gpa.value());
}

void step_over_io(Cpu& cpu) noexcept {
  begin_instruction(cpu);
  cpu.step.ports_open = true;
  watch_ports(cpu, false);
}

void step_cancel(Cpu& cpu) noexcept {
  if (cpu.step.kind == Step::Kind::Idle) return;
  Vmcb& v = *cpu.vmcb;
  if (cpu.step.kind == Step::Kind::Instruction) {
    v.rflags = (v.rflags & ~kFlagTf) | cpu.step.flags;
    v.dr6 |= cpu.step.dr6;
  }
  close(cpu);
}

bool step_exit(Cpu& cpu, std::uint32_t code) noexcept {
  const bool interrupted = (cpu.interrupted & event::kValid) != 0;
  const bool page_fault = code == exit_code::kException + vector::kPf;
  switch (cpu.step.kind) {
    case Step::Kind::Idle:
      return false;
    case Step::Kind::Delivery:
      if (!(page_fault && interrupted)) step_cancel(cpu);
      return false;
    case Step::Kind::Instruction:
      break;
  }
  if (code == exit_code::kException + vector::kDb && (cpu.vmcb->dr6 & kDr6Bs) != 0) {
    finish_instruction(cpu);
    return true;
  }
  // A fault of the instruction itself: whoever handles it lets the step go on, or cancels it.
  if (page_fault && !interrupted) return false;
  step_cancel(cpu);
  if (page_fault || code < exit_code::kException || code > exit_code::kExceptionLast) return false;
  const unsigned v = code - exit_code::kException;
  if (has_error_code(v))
    inject(cpu, v, static_cast<std::uint32_t>(cpu.vmcb->exit_info1));
  else
    inject(cpu, v);
  return true;
}

}  // namespace hv
