// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/concepts/lock.hpp"
#include "shadowmmu/memory/up.hpp"

namespace shadowmmu::lock {

/// One thread: no lock, plain instructions. Every vCPU and every caller must be that thread.
struct None {
  using Memory = memory::Up;
  struct Token {};
  void lock() noexcept {}
  void unlock() noexcept {}
  [[nodiscard]] bool contended() const noexcept { return false; }
  [[nodiscard]] Token token() const noexcept { return {}; }
  void verify(Token) const noexcept {}
};
static_assert(Lock<None>);

}  // namespace shadowmmu::lock
