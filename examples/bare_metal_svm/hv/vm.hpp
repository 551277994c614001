// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "frame_pool.hpp"
#include "guest_memory.hpp"
#include "shadowmmu/concepts/host.hpp"
#include "shadowmmu/result.hpp"
#include "shadowmmu/types.hpp"

namespace hv {

/// The library's Host: our frames, our identity map, the guest's shuffled memory, one CPU's TLB.
class Vm {
 public:
  shadowmmu::Result<shadowmmu::Hpa> alloc_frame(shadowmmu::FrameKind) noexcept {
    const std::uint64_t frame = frames.alloc();
    if (frame == 0) return shadowmmu::Error::OutOfMemory;
    return shadowmmu::Hpa{frame};
  }
  void free_frame(shadowmmu::Hpa frame) noexcept { frames.free(frame.value()); }
  void* to_virt(shadowmmu::Hpa a) const noexcept { return reinterpret_cast<void*>(a.value()); }
  shadowmmu::Hpa to_phys(const void* p) const noexcept { return shadowmmu::Hpa{reinterpret_cast<std::uint64_t>(p)}; }
  /// Firmware's frames can be read as well: a guest may keep tables in ROM.
  const void* guest_page(shadowmmu::Gfn gfn) noexcept { return memory.readable(gfn.value()); }

  shadowmmu::GuestExchange guest_exchange(shadowmmu::Gpa a, unsigned bytes, std::uint64_t expected,
                                          std::uint64_t wanted) noexcept {
    std::byte* const page = memory.ram(a.value() >> 12);
    if (page == nullptr) return shadowmmu::GuestExchange::ReadOnly;
    void* const cell = page + (a.value() & 4095);
    const bool done =
        bytes == 8 ? exchange<std::uint64_t>(cell, expected, wanted) : exchange<std::uint32_t>(cell, expected, wanted);
    return done ? shadowmmu::GuestExchange::Done : shadowmmu::GuestExchange::Lost;
  }

  /// Every frame has a backing: what is not RAM is a device at its own address, and the bus answers for it.
  shadowmmu::Backing backing(shadowmmu::Gfn gfn, bool /*write*/) noexcept {
    const GuestMemory::Place p = memory.place(gfn.value());
    shadowmmu::Backing b;
    b.kind = p.ram ? shadowmmu::Backing::Kind::Memory : shadowmmu::Backing::Kind::Device;
    b.type = p.ram ? shadowmmu::MemoryType::WriteBack : shadowmmu::MemoryType::Uncached;
    b.level = shadowmmu::Level{p.level};
    b.pfn = shadowmmu::Pfn{p.frame};
    return b;
  }

  /// One CPU, one address space: every request is served before the next VMRUN.
  void flush(const shadowmmu::FlushRequest&) noexcept { flush_owed = true; }
  /// The only vCPU is not in the guest while the hypervisor runs; but its thread may stand between `enter` and VMRUN.
  void kick_and_wait(shadowmmu::VcpuId) noexcept { kicked = true; }
  bool should_yield() noexcept { return false; }
  void wrote(shadowmmu::Gfn, std::uint64_t) noexcept {}

  FramePool frames;
  GuestMemory memory;
  bool flush_owed = true;
  volatile bool kicked = false;  ///< `enter` must come before the next VMRUN

 private:
  template <class Cell>
  static bool exchange(void* at, std::uint64_t expected, std::uint64_t wanted) noexcept {
    auto e = static_cast<Cell>(expected);
    return __atomic_compare_exchange_n(static_cast<Cell*>(at), &e, static_cast<Cell>(wanted), false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
  }
};
static_assert(shadowmmu::Host<Vm>);

}  // namespace hv
