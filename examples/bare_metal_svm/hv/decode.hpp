// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// Just enough of the x86 instruction format for what we intercept: this CPU reports neither instruction bytes nor the
/// next RIP. AMD APM vol. 3, chapter 1.
namespace hv {

enum class SegmentName : std::uint8_t { Es, Cs, Ss, Ds, Fs, Gs };

struct MemoryOperand {
  static constexpr std::uint8_t kNone = 0xFF;
  std::uint8_t base = kNone, index = kNone, scale = 0;
  bool rip_relative = false;
  SegmentName segment = SegmentName::Ds;
  std::uint8_t address_bits = 64;
  std::int64_t displacement = 0;
};

struct Instruction {
  std::uint8_t length = 0;
  std::uint8_t opcode = 0;
  bool two_byte = false;  ///< behind 0F
  std::uint8_t operand_bits = 32;
  bool lock = false, repeat = false;
  bool has_modrm = false;
  bool memory = false;  ///< r/m names memory
  std::uint8_t reg = 0, rm = 0;
  std::uint8_t modrm = 0;
  MemoryOperand operand{};
  std::int64_t immediate = 0;

  [[nodiscard]] bool is(std::uint8_t code) const noexcept { return two_byte && opcode == code; }
  /// Opcode extension of a group.
  [[nodiscard]] unsigned extension() const noexcept { return (modrm >> 3) & 7U; }
};

enum class Decoded : std::uint8_t { Ok, TooShort, TooLong };

/// Effects: decodes one instruction of `code_bits` (16, 32, 64) code. ModRM is parsed for the 0F 01 and 0F 20..23
/// groups and for MOV to and from memory (89, 8B, C7) only; any other opcode ends at its opcode byte.
[[nodiscard]] Decoded decode(const std::uint8_t* bytes, unsigned n, unsigned code_bits, Instruction& out) noexcept;

struct Cpu;
/// Effects: fetches and decodes the instruction at RIP. Returns: false if the guest faults on the fetch (queued).
[[nodiscard]] bool fetch_instruction(Cpu& cpu, Instruction& out) noexcept;
/// Returns: the linear address of the memory operand.
[[nodiscard]] std::uint64_t linear_address(Cpu& cpu, const Instruction& insn) noexcept;
/// Returns: the linear address of RIP.
[[nodiscard]] std::uint64_t linear_rip(const Cpu& cpu) noexcept;

}  // namespace hv
