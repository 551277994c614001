// SPDX-License-Identifier: BSL-1.0
#include "ports.hpp"

#include "cpu.hpp"
#include "cpu_ops.hpp"
#include "decode.hpp"
#include "events.hpp"
#include "guest_access.hpp"
#include "permission_maps.hpp"
#include "report.hpp"

namespace hv {
namespace {

constexpr std::uint16_t kCom1Data = 0x3F8, kKeyboardData = 0x60, kKeyboardCommand = 0x64, kFastReset = 0x92,
                        kDebugExit = 0xF4, kResetControl = 0xCF9;
constexpr unsigned kDebugExitPorts = 4;

// One OUT as the bytes that it sends to consecutive ports.
struct Write {
  unsigned port, size;
  std::uint32_t value;
  [[nodiscard]] bool covers(unsigned p) const noexcept { return p >= port && p < port + size; }
  [[nodiscard]] unsigned byte(unsigned p) const noexcept { return (value >> (8 * (p - port))) & 0xFF; }
  void set(unsigned p, unsigned bits) noexcept { value |= bits << (8 * (p - port)); }
};

std::uint32_t do_in(unsigned port, unsigned size) noexcept {
  const auto p = static_cast<std::uint16_t>(port);
  return size == 1 ? in8(p) : size == 2 ? in16(p) : in32(p);
}

void do_out(const Write& w) noexcept {
  const auto p = static_cast<std::uint16_t>(w.port);
  if (w.size == 1) out8(p, static_cast<std::uint8_t>(w.value));
  if (w.size == 2) out16(p, static_cast<std::uint16_t>(w.value));
  if (w.size == 4) out32(p, w.value);
}

// `control` is the upper byte of PM1a control; ACPI 6.4, 4.8.3.2.1. A machine that sleeps would wake with all of the
// CPU's state gone, ours too: it is not put to sleep, and the run ends here. What the firmware does not name as a state
// is for the machine to make sense of.
void inspect_power(Cpu& cpu, unsigned control) noexcept {
  constexpr unsigned kSleepEnable = 1U << 5, kTypeShift = 2, kTypeMask = 7;
  if ((control & kSleepEnable) == 0) return;
  const unsigned state = cpu.ports.sleep.state((control >> kTypeShift) & kTypeMask);
  if (state == SleepTypes::kOff) return report(cpu, "power-off");
  if (state == 0) return;
  report(cpu, "suspend S", state);
  stop(kStatusGuestLeft);
}

// Prints the report if this write ends the run, and keeps address line 20 on.
void inspect(Cpu& cpu, Write& w) noexcept {
  if (cpu.ports.power != 0 && w.covers(cpu.ports.power + 1U)) inspect_power(cpu, w.byte(cpu.ports.power + 1U));
  for (unsigned i = 0; i < kDebugExitPorts; ++i) {
    if (w.port == kDebugExit + i) report(cpu, "debug-exit ", w.value);
  }
  if (w.covers(kCom1Data)) cpu.ports.line_open = w.byte(kCom1Data) != '\n';
  // A wider access that begins one port below is one to the PCI address register.
  if (w.port == kResetControl && (w.value & 4) != 0) report(cpu, "reset by port ", kResetControl);
  if (w.covers(kFastReset)) {
    if ((w.byte(kFastReset) & 1) != 0) report(cpu, "reset by port ", kFastReset);
    w.set(kFastReset, 2);
  }
  if (w.covers(kKeyboardData) && cpu.ports.output_port_follows) {
    if ((w.byte(kKeyboardData) & 1) == 0) report(cpu, "reset by port ", kKeyboardData);
    w.set(kKeyboardData, 2);
    cpu.ports.output_port_follows = false;
  }
  if (w.covers(kKeyboardCommand)) {
    const unsigned command = w.byte(kKeyboardCommand);
    cpu.ports.output_port_follows = command == 0xD1;
    if (command == 0xDD) w.set(kKeyboardCommand, 0xDF);  // "disable A20" becomes "enable A20"
    if ((command & 0xF1) == 0xF0) report(cpu, "reset by port ", kKeyboardCommand);
  }
}

// One element of OUTS; the instruction runs again for the next one.
void handle_outs(Cpu& cpu, unsigned port, unsigned size) noexcept {
  Instruction insn;
  if (!fetch_instruction(cpu, insn)) return;
  const std::uint64_t mask = insn.operand.address_bits == 64 ? ~0ULL : (1ULL << insn.operand.address_bits) - 1;
  const auto set = [mask](std::uint64_t& reg, std::uint64_t v) {
    reg = mask == 0xFFFF ? (reg & ~mask) | (v & mask) : v & mask;
  };
  std::uint64_t &rsi = cpu.gpr[kRsi], &rcx = cpu.gpr[kRcx];
  if (insn.repeat && (rcx & mask) == 0) return advance(cpu, insn.length);
  insn.operand.base = kRsi;
  Write w{port, size, 0};
  if (!read_virtual(cpu, linear_address(cpu, insn), &w.value, size)) return;
  inspect(cpu, w);
  do_out(w);
  set(rsi, (cpu.vmcb->rflags & kFlagDf) != 0 ? rsi - size : rsi + size);
  if (insn.repeat) set(rcx, rcx - 1);
  advance(cpu, insn.repeat && (rcx & mask) != 0 ? 0 : insn.length);
}

}  // namespace

void watch_ports(Cpu& cpu, bool on) noexcept {
  const auto watch = [on](unsigned port) { intercept_port(port, on); };
  if (cpu.ports.power != 0) {
    watch(cpu.ports.power);
    watch(cpu.ports.power + 1U);
  }
  for (unsigned i = 0; i < kDebugExitPorts; ++i) watch(kDebugExit + i);
  watch(kKeyboardData);
  watch(kKeyboardCommand);
  watch(kFastReset);
  watch(kResetControl);
  if (cpu.ports.console) watch(kCom1Data);
}

void handle_io(Cpu& cpu) noexcept {
  // APM vol. 2, 15.10.2: EXITINFO1 describes the access, EXITINFO2 is the next RIP.
  const std::uint64_t info = cpu.vmcb->exit_info1;
  const bool in = (info & 1) != 0, string = (info & 4) != 0;
  const auto size = static_cast<unsigned>(info >> 4) & 7U, port = static_cast<unsigned>(info >> 16) & 0xFFFFU;
  if (string) return in ? step_over_io(cpu) : handle_outs(cpu, port, size);

  std::uint64_t& rax = cpu.gpr[kRax];
  const std::uint64_t mask = size == 4 ? 0xFFFFFFFF : (1ULL << (8 * size)) - 1;
  if (in) {
    const std::uint64_t v = do_in(port, size);
    rax = size == 4 ? v : (rax & ~mask) | v;
  } else {
    Write w{port, size, static_cast<std::uint32_t>(rax & mask)};
    inspect(cpu, w);
    do_out(w);
  }
  advance_to(cpu, cpu.vmcb->exit_info2);
}

}  // namespace hv
