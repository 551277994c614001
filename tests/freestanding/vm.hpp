// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/shadowmmu.hpp"

/// A Host that is only declared: these objects are looked at, not run.
struct Vm {
  shadowmmu::Result<shadowmmu::Hpa> alloc_frame(shadowmmu::FrameKind) noexcept;
  void free_frame(shadowmmu::Hpa) noexcept;
  void* to_virt(shadowmmu::Hpa) noexcept;
  shadowmmu::Hpa to_phys(const void*) noexcept;
  void* guest_page(shadowmmu::Gfn) noexcept;
  shadowmmu::GuestExchange guest_exchange(shadowmmu::Gpa, unsigned, std::uint64_t, std::uint64_t) noexcept;
  shadowmmu::Backing backing(shadowmmu::Gfn, bool) noexcept;
  void flush(const shadowmmu::FlushRequest&) noexcept;
  void kick_and_wait(shadowmmu::VcpuId) noexcept;
  bool should_yield() noexcept;
  void wrote(shadowmmu::Gfn, std::uint64_t) noexcept;
};
