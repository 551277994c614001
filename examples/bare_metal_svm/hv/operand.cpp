// SPDX-License-Identifier: BSL-1.0
// Instructions in place: where RIP points, and where a memory operand lies.
#include "cpu.hpp"
#include "decode.hpp"
#include "events.hpp"
#include "guest_access.hpp"

namespace hv {
namespace {

std::uint64_t segment_base(Cpu& cpu, SegmentName s) noexcept {
  Vmcb& v = *cpu.vmcb;
  const bool flat = cpu.code_bits() == 64;
  switch (s) {
    case SegmentName::Es:
      return flat ? 0 : v.es.base;
    case SegmentName::Cs:
      return flat ? 0 : v.cs.base;
    case SegmentName::Ss:
      return flat ? 0 : v.ss.base;
    case SegmentName::Ds:
      return flat ? 0 : v.ds.base;
    default:
      break;
  }
  // FS and GS stay in the CPU across exits.
  asm volatile("vmsave %%rax" : : "a"(&v) : "memory");
  return s == SegmentName::Fs ? v.fs.base : v.gs.base;
}

}  // namespace

std::uint64_t linear_rip(const Cpu& cpu) noexcept {
  const Vmcb& v = *cpu.vmcb;
  return cpu.code_bits() == 64 ? v.rip : (v.cs.base + v.rip) & 0xFFFFFFFF;
}

bool fetch_instruction(Cpu& cpu, Instruction& out) noexcept {
  std::uint8_t bytes[15] = {};
  const std::uint64_t at = linear_rip(cpu);
  unsigned have = peek_code(cpu, at, bytes, sizeof bytes);
  Decoded d = decode(bytes, have, cpu.code_bits(), out);
  while (d == Decoded::TooShort) {
    // The instruction goes on in a page that cannot be read: let the guest see the fault.
    if (!read_virtual(cpu, at + have, bytes + have, 1, true)) return false;
    d = decode(bytes, ++have, cpu.code_bits(), out);
  }
  if (d == Decoded::Ok) return true;
  inject_gp(cpu);
  return false;
}

std::uint64_t linear_address(Cpu& cpu, const Instruction& insn) noexcept {
  const MemoryOperand& m = insn.operand;
  std::uint64_t a = static_cast<std::uint64_t>(m.displacement);
  if (m.rip_relative) a += cpu.vmcb->rip + insn.length;
  if (m.base != MemoryOperand::kNone) a += cpu.gpr[m.base];
  if (m.index != MemoryOperand::kNone) a += cpu.gpr[m.index] << m.scale;
  if (m.address_bits == 16) a &= 0xFFFF;
  if (m.address_bits == 32) a &= 0xFFFFFFFF;
  a += segment_base(cpu, m.segment);
  return cpu.code_bits() == 64 ? a : a & 0xFFFFFFFF;
}

}  // namespace hv
