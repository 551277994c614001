// SPDX-License-Identifier: BSL-1.0
#include "host_exceptions.hpp"

#include <cstdint>

#include "report.hpp"
#include "serial.hpp"
#include "threads.hpp"

extern "C" const std::uint64_t exception_stubs[32];

namespace {

struct Frame {
  std::uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
struct Gate {
  std::uint16_t offset_low, selector, flags, offset_middle;
  std::uint32_t offset_high, reserved;
};
Gate table[32];
struct [[gnu::packed]] TablePointer {
  std::uint16_t limit;
  const Gate* base;
};

}  // namespace

extern "C" [[noreturn]] void host_exception(const Frame* f) {
  if (hv::threads.preemptible) asm volatile("clgi");
  std::uint64_t cr2;
  asm volatile("mov %%cr2, %0" : "=r"(cr2));
  hv::say("error: hypervisor exception ", f->vector, " code ", hv::Hex{f->error}, " rip ", hv::Hex{f->rip}, " cr2 ",
          hv::Hex{cr2}, " rsp ", hv::Hex{f->rsp});
  hv::stop(hv::kStatusError);
}

namespace hv {
namespace {

void set_gate(unsigned vector, std::uint64_t to) noexcept {
  table[vector] = {static_cast<std::uint16_t>(to),       0x08, 0x8E00, static_cast<std::uint16_t>(to >> 16),
                   static_cast<std::uint32_t>(to >> 32), 0};
}

}  // namespace

void install_exception_table() noexcept {
  for (unsigned i = 0; i < 32; ++i) set_gate(i, exception_stubs[i]);
  const TablePointer pointer{sizeof table - 1, table};
  asm volatile("lidt %0" : : "m"(pointer));
}

void install_handler(unsigned vector, void (*entry)()) noexcept {
  set_gate(vector, reinterpret_cast<std::uint64_t>(entry));
}

}  // namespace hv
