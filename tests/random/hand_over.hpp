// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/lock/readers.hpp"
#include "shadowmmu/lock/spin.hpp"
#include "shadowmmu/sim/world/agents.hpp"

namespace shadowmmu::test {

/// The spin lock of agents that run in turn: around each lock and unlock others may act, also while it is held, and who
/// waits lets them go on. What a yield does follows: it unlocks and locks.
class HandOver : public lock::BasicSpin<sim::world::AgentMemory> {
  using Base = lock::BasicSpin<sim::world::AgentMemory>;

 public:
  void lock() noexcept {
    sim::world::Agents::point();
    Base::lock();
    sim::world::Agents::point();
  }
  void unlock() noexcept {
    Base::unlock();
    sim::world::Agents::point();
  }
};
static_assert(Lock<HandOver>);

}  // namespace shadowmmu::test
