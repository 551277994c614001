// SPDX-License-Identifier: BSL-1.0
#include "control.hpp"

#include "cpu.hpp"
#include "decode.hpp"
#include "events.hpp"
#include "features.hpp"
#include "guest_access.hpp"
#include "report.hpp"

namespace hv {
namespace {

namespace cr0 = shadowmmu::cr0;
namespace cr4 = shadowmmu::cr4;
namespace efer = shadowmmu::efer;
using shadowmmu::ControlOutcome;

constexpr std::uint64_t kTs = 1U << 3, kEt = 1U << 4, kNw = 1U << 29, kCd = 1U << 30;
// PE MP EM TS ET NE, WP, AM, NW CD PG; writes to the other low bits are ignored.
constexpr std::uint64_t kCr0Defined = 0x3F | cr0::kWp | (1U << 18) | kNw | kCd | cr0::kPg;

// Each writer returns whether the instruction completes; if not, an exception is queued.
bool settle(Cpu& cpu, ControlOutcome outcome) noexcept {
  if (outcome == ControlOutcome::Done) return true;
  if (outcome == ControlOutcome::OutOfMemory) fail(cpu, "out of memory at a control register write", 0);
  inject_gp(cpu);
  return false;
}

bool refuse(Cpu& cpu) noexcept {
  inject_gp(cpu);
  return false;
}

bool change(Cpu& cpu, const shadowmmu::Controls& next) noexcept {
  if (!settle(cpu, cpu.vcpu.set_control(next))) return false;
  cpu.controls = next;
  return true;
}

bool write_cr0(Cpu& cpu, std::uint64_t value) noexcept {
  const bool code64 = cpu.code_bits() == 64;
  shadowmmu::Controls next = cpu.controls;
  next.cr0 = (value & kCr0Defined) | kEt;
  const bool paging = (next.cr0 & cr0::kPg) != 0, was_paging = (cpu.controls.cr0 & cr0::kPg) != 0;
  if ((value >> 32) != 0) return refuse(cpu);
  if (paging && (next.cr0 & cr0::kPe) == 0) return refuse(cpu);
  if ((next.cr0 & kNw) != 0 && (next.cr0 & kCd) == 0) return refuse(cpu);
  if (paging && !was_paging && (next.efer & efer::kLme) != 0) {
    if ((next.cr4 & cr4::kPae) == 0 || (cpu.vmcb->cs.attributes & kSegmentLong) != 0) return refuse(cpu);
    next.efer |= efer::kLma;
  }
  if (!paging && was_paging) {
    if (code64) return refuse(cpu);
    next.efer &= ~efer::kLma;
  }
  return change(cpu, next);
}

bool write_cr3(Cpu& cpu, std::uint64_t value) noexcept {
  if (cpu.long_mode() && (value >> kGuestAddressBits) != 0) return refuse(cpu);
  if (!settle(cpu, cpu.vcpu.set_cr3(value))) return false;
  cpu.cr3 = value;
  ++cpu.counts.cr3_write;
  return true;
}

bool write_cr4(Cpu& cpu, std::uint64_t value) noexcept {
  if ((value & ~allowed_cr4(cpu)) != 0) return refuse(cpu);
  if (cpu.long_mode() && (value & cr4::kPae) == 0) return refuse(cpu);
  shadowmmu::Controls next = cpu.controls;
  next.cr4 = value;
  return change(cpu, next);
}

bool write_efer(Cpu& cpu, std::uint64_t value) noexcept {
  if ((value & ~allowed_efer(cpu)) != 0) return refuse(cpu);
  if (((value ^ cpu.controls.efer) & efer::kLme) != 0 && (cpu.controls.cr0 & cr0::kPg) != 0) return refuse(cpu);
  shadowmmu::Controls next = cpu.controls;
  next.efer = (value & ~efer::kLma) | (next.efer & efer::kLma);  // the CPU's own bit
  return change(cpu, next);
}

void store_register(Cpu& cpu, unsigned index, std::uint64_t value, unsigned bits) noexcept {
  std::uint64_t& r = cpu.gpr[index];
  if (bits == 16)
    r = (r & ~0xFFFFULL) | (value & 0xFFFF);
  else
    r = bits == 32 ? value & 0xFFFFFFFF : value;
}

// LMSW: the low four bits, and PE cannot be cleared.
bool load_status_word(Cpu& cpu, const Instruction& insn) noexcept {
  std::uint16_t word = static_cast<std::uint16_t>(cpu.gpr[insn.rm]);
  if (insn.memory && !read_virtual(cpu, linear_address(cpu, insn), &word, sizeof word)) return false;
  return write_cr0(cpu, (cpu.controls.cr0 & ~0xEULL) | (word & 0xFU));
}

bool store_status_word(Cpu& cpu, const Instruction& insn) noexcept {
  const auto word = static_cast<std::uint16_t>(cpu.controls.cr0);
  if (insn.memory) return write_virtual(cpu, linear_address(cpu, insn), &word, sizeof word);
  store_register(cpu, insn.rm, cpu.controls.cr0, insn.operand_bits);
  return true;
}

std::uint64_t task(const Cpu& cpu) noexcept {
  asm volatile("vmsave %%rax" : : "a"(cpu.vmcb) : "memory");
  return cpu.vmcb->tr.selector;
}

}  // namespace

void handle_control_read(Cpu& cpu, unsigned number) noexcept {
  Instruction insn;
  if (!fetch_instruction(cpu, insn)) return;
  const bool status_word = insn.is(0x01) && insn.extension() == 4;
  if (status_word) {
    if (!store_status_word(cpu, insn)) return;
  } else if (insn.is(0x20)) {
    const std::uint64_t value = number == 0 ? cpu.controls.cr0 : number == 3 ? cpu.cr3 : cpu.controls.cr4;
    store_register(cpu, insn.rm, value, cpu.code_bits() == 64 ? 64 : 32);
  } else {
    return;  // rewritten meanwhile: run it again
  }
  advance(cpu, insn.length);
}

void handle_control_write(Cpu& cpu, unsigned number) noexcept {
  Instruction insn;
  if (!fetch_instruction(cpu, insn)) return;
  bool done = false;
  if (insn.is(0x06)) {
    done = write_cr0(cpu, cpu.controls.cr0 & ~kTs);
  } else if (insn.is(0x01) && insn.extension() == 6) {
    done = load_status_word(cpu, insn);
  } else if (insn.is(0x22)) {
    const std::uint64_t value = cpu.code_bits() == 64 ? cpu.gpr[insn.rm] : cpu.gpr[insn.rm] & 0xFFFFFFFF;
    done = number == 0 ? write_cr0(cpu, value) : number == 3 ? write_cr3(cpu, value) : write_cr4(cpu, value);
  }
  if (done) advance(cpu, insn.length);
}

void handle_msr(Cpu& cpu) noexcept {
  constexpr std::uint32_t kEfer = 0xC0000080;
  Instruction insn;
  if (!fetch_instruction(cpu, insn)) return;
  // The others that exit belong to SVM, or to no range of the permission map: this CPU has none of them.
  if (static_cast<std::uint32_t>(cpu.gpr[kRcx]) != kEfer) return inject_gp(cpu);
  if (cpu.vmcb->exit_info1 != 0) {
    const std::uint64_t value = (cpu.gpr[kRdx] << 32) | (cpu.gpr[kRax] & 0xFFFFFFFF);
    if (!write_efer(cpu, value)) return;
  } else {
    cpu.gpr[kRax] = cpu.controls.efer & 0xFFFFFFFF;
    cpu.gpr[kRdx] = cpu.controls.efer >> 32;
  }
  advance(cpu, insn.length);
}

void load_controls(Cpu& cpu) noexcept {
  Vmcb& v = *cpu.vmcb;
  const shadowmmu::HwState hw = cpu.vcpu.hw_state();
  v.cr0 = cpu.loaded_cr0 = hw.cr0;
  v.cr3 = cpu.loaded_cr3 = hw.cr3;
  v.cr4 = hw.cr4;
  v.efer = hw.efer | kEferSvme;
  // Reads need an exit only where the guest would see a difference.
  v.cr_read = static_cast<std::uint16_t>((1U << 3) | (hw.cr0 != cpu.controls.cr0 ? 1U : 0U) |
                                         (hw.cr4 != cpu.controls.cr4 ? 1U << 4 : 0U));
}

void check_controls(Cpu& cpu) noexcept {
  const Vmcb& v = *cpu.vmcb;
  if (v.cr3 != cpu.loaded_cr3) fail(cpu, "a hardware task switch that did not exit loaded CR3 with ", v.cr3);
  if (((v.cr0 ^ cpu.loaded_cr0) & kTs) != 0) fail(cpu, "a hardware task switch that did not exit; TR is ", task(cpu));
}

void mend_code_segment(Cpu& cpu) noexcept {
  std::uint16_t& attributes = cpu.vmcb->cs.attributes;
  if (cpu.long_mode() && (attributes & kSegmentLong) != 0)
    attributes = static_cast<std::uint16_t>(attributes & ~kSegmentBig);
}

}  // namespace hv
