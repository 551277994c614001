// SPDX-License-Identifier: BSL-1.0
#include "guest_access.hpp"

#include "cpu.hpp"
#include "events.hpp"

namespace hv {
namespace {

unsigned room(std::uint64_t va, unsigned bytes) noexcept {
  const auto left = static_cast<unsigned>(4096 - (va & 4095));
  return bytes < left ? bytes : left;
}

bool locate(Cpu& cpu, std::uint64_t va, shadowmmu::AccessRequest request, std::uint64_t& gpa) noexcept {
  const auto t = cpu.vcpu.translate(shadowmmu::Gva{va}, request, cpu.mode());
  gpa = t.to.gpa.value();
  if (!t.ok()) inject_page_fault(cpu, t.fault.address.value(), t.fault.error_code);
  return t.ok();
}

}  // namespace

bool read_virtual(Cpu& cpu, std::uint64_t va, void* to, unsigned bytes, bool fetch) noexcept {
  auto* d = static_cast<std::byte*>(to);
  while (bytes != 0) {
    const unsigned piece = room(va, bytes);
    std::uint64_t gpa = 0;
    if (!locate(cpu, va, {.write = false, .fetch = fetch, .user = cpu.vmcb->cpl == 3}, gpa)) return false;
    if (!cpu.vm.memory.read(gpa, d, piece))
      for (unsigned i = 0; i < piece; ++i) d[i] = std::byte{0xFF};  // nothing answers there
    d += piece;
    va += piece;
    bytes -= piece;
  }
  return true;
}

bool write_virtual(Cpu& cpu, std::uint64_t va, const void* from, unsigned bytes) noexcept {
  // Both pages before the first byte: an instruction writes all or nothing.
  std::uint64_t gpa[2] = {};
  const unsigned first = room(va, bytes);
  const shadowmmu::AccessRequest request{.write = true, .fetch = false, .user = cpu.vmcb->cpl == 3};
  if (!locate(cpu, va, request, gpa[0])) return false;
  if (first < bytes && !locate(cpu, va + first, request, gpa[1])) return false;
  const auto* s = static_cast<const std::byte*>(from);
  const unsigned sizes[2] = {first, bytes - first};
  for (unsigned i = 0; i < 2 && sizes[i] != 0; ++i) {
    if (cpu.vm.memory.write(gpa[i], s, sizes[i])) cpu.mmu.guest_wrote(shadowmmu::Gpa{gpa[i]}, sizes[i]);
    s += sizes[i];
  }
  return true;
}

unsigned peek_code(Cpu& cpu, std::uint64_t va, std::uint8_t* to, unsigned bytes) noexcept {
  unsigned done = 0;
  while (done < bytes) {
    const unsigned piece = room(va + done, bytes - done);
    const shadowmmu::AccessRequest request{.write = false, .fetch = true, .user = cpu.vmcb->cpl == 3};
    const auto t = cpu.vcpu.translate(shadowmmu::Gva{va + done}, request, cpu.mode());
    if (!t.ok() || !cpu.vm.memory.read(t.to.gpa.value(), to + done, piece)) break;
    done += piece;
  }
  return done;
}

}  // namespace hv
