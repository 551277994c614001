// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/lock.hpp"
#include "shadowmmu/memory/smp.hpp"

namespace shadowmmu::lock {

/// Ticket lock: first come, first served, so that a yielding holder never overtakes a waiter.
/// Invariant: serving_ <= next_ (mod 2^32); the lock is free where they are equal.
template <class M>
class BasicSpin {
 public:
  using Memory = M;
  struct Token {};

  void lock() noexcept {
    const std::uint32_t mine = M::template fetch_add<memory::Order::Relaxed>(next_, 1);
    while (M::template load<memory::Order::Acquire>(serving_) != mine) M::pause();
  }
  /// Requires: the caller holds it.
  void unlock() noexcept {
    const std::uint32_t now = M::plain(serving_);
    M::template store<memory::Order::Release>(serving_, now + 1);
  }
  /// Requires: the caller holds it. Returns: whether somebody waits.
  [[nodiscard]] bool contended() const noexcept { return M::plain(next_) - M::plain(serving_) > 1; }
  [[nodiscard]] Token token() const noexcept { return {}; }
  void verify(Token) const noexcept {}

 private:
  alignas(8) std::uint32_t next_ = 0;
  std::uint32_t serving_ = 0;
};

using Spin = BasicSpin<memory::Smp>;
static_assert(Lock<Spin>);

}  // namespace shadowmmu::lock
