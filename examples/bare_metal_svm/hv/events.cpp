// SPDX-License-Identifier: BSL-1.0
#include "events.hpp"

#include "cpu.hpp"
#include "report.hpp"

namespace hv {
namespace {

// SDM vol. 3, table 6-4: how a second exception combines with the first.
enum class Class : std::uint8_t { Benign, Contributory, PageFault, DoubleFault };

Class class_of(unsigned v) noexcept {
  if (v == vector::kDf) return Class::DoubleFault;
  if (v == vector::kPf) return Class::PageFault;
  return v == 0 || (v >= 10 && v <= 13) ? Class::Contributory : Class::Benign;
}

void queue(Cpu& cpu, std::uint64_t event) noexcept {
  const std::uint64_t first = cpu.interrupted;
  cpu.interrupted = 0;
  if ((first & event::kValid) != 0 && (first & event::kTypeMask) == event::kException) {
    const Class a = class_of(first & 0xFF), b = class_of(event & 0xFF);
    const bool serious = b == Class::Contributory || b == Class::PageFault;
    if (a == Class::DoubleFault && serious) leave_guest(cpu, "triple fault");
    if ((a == Class::Contributory && b == Class::Contributory) || (a == Class::PageFault && serious))
      event = event::kValid | event::kException | event::kErrorValid | vector::kDf;
  }
  cpu.vmcb->event_injection = event;
}

}  // namespace

void inject(Cpu& cpu, unsigned v) noexcept { queue(cpu, event::kValid | event::kException | v); }

void inject(Cpu& cpu, unsigned v, std::uint32_t error_code) noexcept {
  queue(cpu, event::kValid | event::kException | event::kErrorValid | v | (std::uint64_t{error_code} << 32));
}

void inject_page_fault(Cpu& cpu, std::uint64_t address, std::uint32_t error_code) noexcept {
  cpu.vmcb->cr2 = address;
  inject(cpu, vector::kPf, error_code);
}

void resume_event(Cpu& cpu) noexcept {
  std::uint64_t event = cpu.interrupted;
  cpu.interrupted = 0;
  if ((event & event::kValid) == 0) return;
  const std::uint64_t type = event & event::kTypeMask, v = event & 0xFF;
  // INTn, INT3 and INTO have not moved RIP: the instruction runs again.
  if (type == event::kSoftware || (type == event::kException && (v == vector::kBp || v == vector::kOf))) return;
  // QEMU reports interrupts as exceptions.
  if (type == event::kException && v >= 32) event = (event & ~event::kTypeMask) | event::kInterrupt;
  if (type == event::kException && v == vector::kNmi) event = (event & ~event::kTypeMask) | event::kNmi;
  cpu.vmcb->event_injection = event;
  ++cpu.counts.reinjected;
}

void advance_to(Cpu& cpu, std::uint64_t rip) noexcept {
  Vmcb& v = *cpu.vmcb;
  v.rip = cpu.code_bits() == 64 ? rip : rip & 0xFFFFFFFF;
  v.int_state &= ~kInterruptShadow;
  if ((v.rflags & kFlagTf) != 0) {
    v.dr6 |= kDr6Bs;
    inject(cpu, vector::kDb);
  }
}

void advance(Cpu& cpu, unsigned length) noexcept { advance_to(cpu, cpu.vmcb->rip + length); }

}  // namespace hv
