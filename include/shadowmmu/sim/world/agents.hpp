// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <utility>

#include "shadowmmu/memory/smp.hpp"
#include "shadowmmu/sim/fiber.hpp"

/// vCPUs and the host as agents that are in the middle of an operation at the same time, although only one runs. An
/// agent hands over at points: where it takes or lets go a lock, where it calls the Host, and where it waits. Which
/// points hand over is drawn with the action, so that a run repeats.
namespace shadowmmu::sim::world {

class Agents {
 public:
  static constexpr unsigned kAgents = 3;  ///< two vCPUs and the host
  static constexpr unsigned kHost = 2;

  Agents() = default;
  Agents(const Agents&) = delete;
  Agents& operator=(const Agents&) = delete;

  /// Requires: !busy(agent). Effects: the agent works until it is done or hands over. `pauses`: its n-th point hands
  /// over where bit n modulo 64 is set.
  void start(unsigned agent, std::uint64_t pauses, std::function<void()> work) {
    Agent& a = agents_[agent];
    a.work = std::move(work);
    a.pauses = pauses;
    a.points = 0;
    a.busy = true;
    if (!a.made) {
      a.made = true;
      a.fiber.prepare(&Agents::entry, kStackBytes);
    }
    resume(agent);
  }
  /// Requires: busy(agent). Effects: it goes on until it is done or hands over again.
  void resume(unsigned agent) {
    Agents* const outer = std::exchange(current_, this);
    running_ = agent;
    const Unseen unseen;
    Fiber::switch_to(main_, agents_[agent].fiber);
    current_ = outer;
  }
  /// Effects: all work is done. Returns: false where the agents wait for each other and nothing else.
  [[nodiscard]] bool finish() {
    while (any_busy())
      for (unsigned a = 0; a < kAgents; ++a)
        if (agents_[a].busy) {
          if (stuck()) return false;
          resume(a);
        }
    return true;
  }
  [[nodiscard]] bool busy(unsigned agent) const noexcept { return agents_[agent].busy; }
  [[nodiscard]] bool any_busy() const noexcept {
    for (const Agent& a : agents_)
      if (a.busy) return true;
    return false;
  }
  /// Whether nobody did anything but wait for very long.
  [[nodiscard]] bool stuck() const noexcept { return waits_ > kMaxWaits; }

  /// A place where another agent may act. Effects: none where no agents are at work.
  static void point() {
    if (current_ != nullptr) current_->pass();
  }
  /// The agent that runs waits for another.
  static void wait() {
    if (current_ != nullptr) current_->hand_over(true);
  }

 private:
  static constexpr std::size_t kStackBytes = std::size_t{256} << 10;
  static constexpr std::uint64_t kMaxWaits = 20000;
  struct Agent {
    Fiber fiber;
    std::function<void()> work;
    std::uint64_t pauses = 0;
    unsigned points = 0;
    bool busy = false, made = false;
  };

  static void entry() {
    Agents& all = *current_;
    Fiber::entered(all.main_);
    const unsigned me = all.running_;
    for (;;) {
      all.agents_[me].work();
      all.agents_[me].busy = false;
      all.hand_over(false);
    }
  }
  void pass() {
    Agent& a = agents_[running_];
    const bool over = (a.pauses >> (a.points++ % 64) & 1) != 0;
    waits_ = 0;
    if (over) hand_over(false);
  }
  void hand_over(bool waits) {
    waits_ = waits ? waits_ + 1 : 0;
    const Unseen unseen;
    Fiber::switch_to(agents_[running_].fiber, main_);
  }

  std::array<Agent, kAgents> agents_;
  Fiber main_;
  unsigned running_ = 0;
  std::uint64_t waits_ = 0;
  static inline thread_local Agents* current_ = nullptr;  // NOLINT(readability-identifier-naming): no constant
};

/// Memory for locks and grace periods of agents: who spins lets the others go on.
struct AgentMemory : memory::Smp {
  static void pause() noexcept { Agents::wait(); }
};

}  // namespace shadowmmu::sim::world
