// SPDX-License-Identifier: BSL-1.0
#include "mmio.hpp"

#include "cpu.hpp"
#include "decode.hpp"
#include "events.hpp"

namespace hv {
namespace {

// Opcodes of MOV with a memory operand, in the sizes that device registers are made for.
constexpr std::uint8_t kStore = 0x89, kLoad = 0x8B, kStoreNumber = 0xC7;

// One access of the width that the guest asked for: registers of devices mind.
std::uint64_t load(std::uint64_t at, unsigned bits) noexcept {
  if (bits == 16) return *reinterpret_cast<const volatile std::uint16_t*>(at);
  if (bits == 32) return *reinterpret_cast<const volatile std::uint32_t*>(at);
  return *reinterpret_cast<const volatile std::uint64_t*>(at);
}
void store(std::uint64_t at, std::uint64_t value, unsigned bits) noexcept {
  if (bits == 16)
    *reinterpret_cast<volatile std::uint16_t*>(at) = static_cast<std::uint16_t>(value);
  else if (bits == 32)
    *reinterpret_cast<volatile std::uint32_t*>(at) = static_cast<std::uint32_t>(value);
  else
    *reinterpret_cast<volatile std::uint64_t*>(at) = value;
}

bool is_move(const Instruction& i) noexcept {
  if (i.two_byte || !i.memory || i.lock) return false;
  return i.opcode == kStore || i.opcode == kLoad || (i.opcode == kStoreNumber && i.extension() == 0);
}

}  // namespace

bool emulate_device_move(Cpu& cpu, std::uint64_t gpa) noexcept {
  Instruction i;
  if (!fetch_instruction(cpu, i)) return true;
  const unsigned bits = i.operand_bits;
  if (!is_move(i) || (gpa & 4095) + bits / 8 > 4096) return false;
  std::uint64_t& reg = cpu.gpr[i.reg];
  if (i.opcode == kLoad)
    reg = bits == 16 ? (reg & ~0xFFFFULL) | load(gpa, bits) : load(gpa, bits);
  else
    store(gpa, i.opcode == kStore ? reg : static_cast<std::uint64_t>(i.immediate), bits);
  advance(cpu, i.length);
  return true;
}

}  // namespace hv
