// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "shadowmmu/sim/world/driver.hpp"
#include "shadowmmu/sim/world/generator.hpp"
#include "shadowmmu/sim/world/shrinker.hpp"

/// A guest and its host around an MMU: machine, model, checker and driver put together, and the search through seeds.
namespace shadowmmu::sim::world {

/// What kind of world it is; the seed draws the rest.
struct Kind {
  bool second_level = false;     ///< an EPT-like MMU: the guest's own paging is the hardware's business
  bool accessed_dirty = true;    ///< second level: the hardware keeps A and D
  bool interleaved = false;      ///< vCPUs and host are in the middle of operations at the same time
  bool slots_of_its_own = true;  ///< the MMU is told of slots; else it asks the Machine what is memory
};

/// Makes the MMU that is tried, for this machine. The seed is for choices of its own.
using MakeSubject = std::function<std::unique_ptr<Subject>(Machine&, const MachineConfig&)>;

class World {
 public:
  World(std::uint64_t seed, const Kind& kind, const MakeSubject& make)
      : config_(config(seed, kind)),
        machine_(config_),
        model_(machine_, seed, kind.second_level, kind.slots_of_its_own, Layout(config_.whole_blocks)),
        checker_(model_),
        subject_(make(machine_, config_)),
        agents_(kind.interleaved ? std::make_unique<Agents>() : nullptr),
        driver_(model_, checker_, *subject_, agents_.get()) {
    machine_.yield_at_once = seed % 2 == 0;
    driver_.begin(static_cast<Mode>(seed % 3), seed / 3 % 3, seed % 2 == 0, seed % 8 < 5);
  }
  World(const World&) = delete;

  /// Returns: whether all went as the architecture wants it; else failure() says what went wrong first.
  [[nodiscard]] bool run(const Actions& actions) {
    for (const Action& a : actions) {
      step(a);
      if (!checker_.ok()) break;
    }
    if (agents_ != nullptr && !agents_->finish()) checker_.fail("agents wait for each other for ever");
    if (checker_.ok()) check_whole();
    return checker_.ok();
  }
  [[nodiscard]] const std::string& failure() const noexcept { return checker_.failure; }
  [[nodiscard]] const std::vector<std::string>& story() const noexcept { return driver_.story; }
  void tell_story() { driver_.tells = true; }
  [[nodiscard]] std::uint64_t accesses() const noexcept { return driver_.accesses; }
  [[nodiscard]] const Checker& checker() const noexcept { return checker_; }
  /// Returns: how many actions were begun.
  [[nodiscard]] std::uint64_t steps() const noexcept { return steps_; }
  /// Whether agents are left in the middle of an operation, whose stacks nobody can unwind: the World must not end.
  [[nodiscard]] bool hangs() const noexcept { return agents_ != nullptr && agents_->any_busy(); }

 private:
  [[nodiscard]] static MachineConfig config(std::uint64_t seed, const Kind& kind) {
    MachineConfig c;
    c.seed = seed;
    c.second_level = kind.second_level;
    c.ept.accessed_dirty = kind.accessed_dirty;
    c.host_address_bits = seed % 5 == 0 ? 52 : 46;
    c.whole_blocks = seed % 4 == 0;
    c.shifted = seed % 24 == 8;
    c.big_level = 1 + static_cast<unsigned>(seed / 4 % 3);
    c.large_1g = seed / 4 % 4 != 0;
    c.below_4g = seed % 7 == 0;
    c.memory_types = seed % 6 == 1;
    c.devices = kind.slots_of_its_own;  // the kit's interface of C has no kind of memory for them
    c.caches.never_evict = seed % 8 == 3;
    return c;
  }
  void step(const Action& a) {
    steps_ += 1;
    if (agents_ == nullptr) {
      driver_.perform(a);
      if (checker_.ok()) check();
      return;
    }
    const unsigned agent = Driver::agent_of(a);
    while (agents_->busy(agent) && !agents_->stuck()) resume_any();
    if (agents_->stuck()) return checker_.fail("agents wait for each other for ever");
    agents_->start(agent, a.pauses, [this, a] { driver_.perform(a); });
    if (!checker_.ok()) return;
    // Now and then everybody gets to the end of what he does, so that all of it can be looked at.
    if (steps_ % 6 == 0 && !agents_->finish()) return checker_.fail("agents wait for each other for ever");
    if (!agents_->any_busy() && checker_.ok()) check();
  }
  void resume_any() {
    for (unsigned i = 0; i < Agents::kAgents; ++i) {
      next_ = (next_ + 1) % Agents::kAgents;
      if (agents_->busy(next_)) return agents_->resume(next_);
    }
  }
  /// Requires: no operation is under way. What costs most has its turn less often.
  void check() {
    for (unsigned n = 0; n < Model::kVcpus; ++n) checker_.check_owed(n);
    if (steps_ % 2 == 0) check_soundness();
    if (steps_ % 8 == 0) checker_.check_tables();
  }
  void check_whole() {
    for (unsigned n = 0; n < Model::kVcpus; ++n) checker_.check_owed(n);
    check_soundness();
    checker_.check_tables();
  }
  void check_soundness() {
    if (const std::string what = subject_->unsound(steps_, model_.all_told()); !what.empty()) checker_.fail(what);
  }

  MachineConfig config_;
  Machine machine_;
  Model model_;
  Checker checker_;
  std::unique_ptr<Subject> subject_;
  std::unique_ptr<Agents> agents_;
  Driver driver_;
  std::uint64_t steps_ = 0;
  unsigned next_ = 0;
};

/// What a seed came to.
struct Find {
  std::string failure;  ///< empty if all is well
  std::uint64_t seed = 0;
  std::uint64_t after = 0;         ///< actions until it showed
  std::vector<std::string> story;  ///< of the shortest sequence that shows it
  Actions actions;                 ///< that sequence

  [[nodiscard]] std::string report() const {
    std::string s = "seed " + std::to_string(seed) + ", after " + std::to_string(after) + " actions: " + failure +
                    "\nThe shortest sequence that shows it:";
    for (const std::string& line : story) s += "\n  " + line;
    return s + "\n  " + failure;
  }
};

/// Runs one seed. On failure shrinks the sequence and tells its story.
[[nodiscard]] inline Find try_seed(std::uint64_t seed, unsigned length, const Kind& kind, const MakeSubject& make) {
  Find f;
  f.seed = seed;
  const auto attempt = [&](const Actions& list, std::vector<std::string>* story, std::uint64_t* after) {
    auto w = std::make_unique<World>(seed, kind, make);
    if (story != nullptr) w->tell_story();
    static_cast<void>(w->run(list));
    if (story != nullptr) *story = w->story();
    if (after != nullptr) *after = w->steps();
    std::string failure = w->failure();
    if (w->hangs()) static_cast<void>(w.release());  // its agents' stacks cannot be unwound
    return failure;
  };
  f.actions = Generator(seed, kind.second_level, kind.interleaved).draw(length);
  f.failure = attempt(f.actions, nullptr, &f.after);
  if (f.failure.empty()) return f;
  f.actions = shrink(f.actions, [&](const Actions& less) { return !attempt(less, nullptr, nullptr).empty(); });
  f.failure = attempt(f.actions, &f.story, nullptr);
  return f;
}

}  // namespace shadowmmu::sim::world
