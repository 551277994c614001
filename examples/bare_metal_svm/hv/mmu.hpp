// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <type_traits>

#include "shadowmmu/lock/readers.hpp"
#include "shadowmmu/shadowmmu.hpp"
#include "threads.hpp"
#include "vm.hpp"

/// The one place that names the MMU and its policies.
namespace hv {

/// A spin lock that tells who is inside: what a reader gets done meanwhile, it does without the lock. A thread that
/// waits lets the other go on.
class WatchedSpin : public shadowmmu::lock::Spin {
  using Base = shadowmmu::lock::Spin;

 public:
  void lock() noexcept {
    const unsigned me = threads.current;
    if (threads.locks[me ^ 1U] != 0) {
      threads.waits[me] = threads.waits[me] + 1;
      give_way();
    }
    Base::lock();
    threads.locks[me] = threads.locks[me] + 1;
    threads.lockings[me] = threads.lockings[me] + 1;
  }
  void unlock() noexcept {
    const unsigned me = threads.current;
    threads.locks[me] = threads.locks[me] - 1;
    Base::unlock();
  }
};

/// Two kinds of binary: one thread and no lock, or (SHADOWMMU_HV_MIGRATION=1) the vCPU's thread and readers beside it.
inline constexpr bool kHasReaders = SHADOWMMU_HV_MIGRATION != 0;
using Lock = std::conditional_t<kHasReaders, shadowmmu::lock::Readers<WatchedSpin>, shadowmmu::lock::None>;
/// Which page goes at the limit: the library's default, or another of its policies to compare it with
/// (SHADOWMMU_HV_RECLAIM names it).
using Reclaim = shadowmmu::reclaim::SHADOWMMU_HV_RECLAIM;
using Mmu = shadowmmu::ShadowMmu<shadowmmu::arch::X86_64, Lock, Reclaim, Vm>;
using Vcpu = Mmu::Vcpu;

}  // namespace hv
