// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "shadowmmu/sim/execution.hpp"
#include "shadowmmu/sim/explored_memory.hpp"
#include "shadowmmu/sim/schedule.hpp"

namespace shadowmmu::sim {

/// Agents to interleave, and what must hold once all have ended and every store has reached memory. State that they
/// share belongs to the closures (a shared_ptr, say), so that each run begins anew.
struct Scenario {
  std::vector<std::function<void()>> agents;
  std::function<bool()> check = [] { return true; };
};

struct ExploreOptions {
  unsigned preemptions = 2;            ///< of one run; kAnyNumber explores everything
  bool tso = true;                     ///< store buffers; else sequential consistency
  bool weak = false;                   ///< with tso: stores that are no release may overtake others
  bool cxx = false;                    ///< the C++ memory model instead of x86's
  unsigned stale = 1;                  ///< with cxx: loads of one run that find something older than the newest
  std::uint64_t max_runs = 1'000'000;  ///< of the depth-first search
  std::uint64_t random_runs = 0;       ///< afterwards, without a bound on preemptions
  std::uint64_t seed = 1;              ///< of the first random run; each next one takes the next seed
  std::uint64_t max_steps = 20'000;    ///< of one run; more is a livelock
  std::chrono::milliseconds time{0};   ///< for everything; 0 = as long as it takes
  std::size_t stack_bytes = std::size_t{256} << 10U;

  static constexpr unsigned kAnyNumber = ~0U;
};

struct Report {
  RunEnd end = RunEnd::Ok;
  bool complete = false;              ///< the depth-first search tried every run within its bound
  std::string message;                ///< of the failure
  std::string schedule;               ///< of the failing run, for replay()
  std::optional<std::uint64_t> seed;  ///< of the failing run, where it was a random one
  std::uint64_t runs = 0;
  std::uint64_t steps = 0;
  std::chrono::duration<double> time{};

  [[nodiscard]] bool ok() const noexcept { return end == RunEnd::Ok; }
  /// Returns: one line for people.
  [[nodiscard]] std::string text() const {
    static constexpr const char* kNames[] = {"ok", "check failed", "deadlock", "livelock"};
    std::string s = kNames[static_cast<unsigned>(end)];
    if (!ok()) s += ": " + message + "; replay with \"" + schedule + "\"";
    if (seed) s += ", seed " + std::to_string(*seed);
    return s + "; " + std::to_string(runs) + " runs, " + std::to_string(steps) + " steps, " +
           std::to_string(time.count()) + " s" + (ok() && !complete ? ", not all" : "");
  }
};

/// Runs a scenario under all interleavings up to a number of preemptions, then under random ones, until one fails.
/// Deterministic: the same options and scenario give the same report, times aside. Spin loops must call pause(); one
/// that does not is reported as a livelock once the agent it waits for cannot preempt it any more.
/// Source: preemption bounding after Musuvathi and Qadeer, PLDI 2007.
class Explorer {
 public:
  explicit Explorer(ExploreOptions options = {}) : options_(options) {}

  /// Effects: calls make() before each run. Requires: make() gives the same agents each time.
  template <class Make>
  Report run(Make make) {
    begin();
    schedule_.replay({});
    for (;;) {
      if (!once(make, options_.preemptions, options_.stale)) return finish();
      if (!schedule_.next()) {
        report_.complete = true;
        break;
      }
      if (report_.runs >= options_.max_runs || late()) break;
    }
    for (std::uint64_t i = 0; i < options_.random_runs && !late(); ++i) {
      schedule_.randomize(options_.seed + i);
      if (!once(make, ExploreOptions::kAnyNumber, ExploreOptions::kAnyNumber)) {
        report_.seed = options_.seed + i;
        return finish();
      }
    }
    return finish();
  }

  /// Effects: one run under a schedule that a Report printed, whatever the options say of preemptions and store
  /// buffers. Throws std::invalid_argument where the text is no schedule.
  template <class Make>
  Report replay(Make make, std::string_view text) {
    const std::size_t colon = text.find(':');
    const auto prefix = colon == std::string_view::npos ? std::nullopt : Schedule::parse(text.substr(colon + 1));
    if (!prefix || colon < 2 || std::string_view("tswc").find(text[0]) == std::string_view::npos)
      throw std::invalid_argument("no schedule");
    // The bounds of a search: of preemptions, and under the C++ memory model of old values, after a point.
    const std::string_view bounds = text.substr(1, colon - 1);
    const std::size_t dot = bounds.find('.');
    const std::string_view bound = bounds.substr(0, dot);
    begin();
    options_.tso = text[0] != 's';
    options_.weak = text[0] == 'w';
    options_.cxx = text[0] == 'c';
    schedule_.replay(*prefix);
    if (bound == "*")
      once(make, ExploreOptions::kAnyNumber, ExploreOptions::kAnyNumber);
    else
      once(make, static_cast<unsigned>(std::stoul(std::string(bound))),
           dot == std::string_view::npos ? options_.stale
                                         : static_cast<unsigned>(std::stoul(std::string(bounds.substr(dot + 1)))));
    return finish();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void begin() {
    report_ = {};
    began_ = Clock::now();
  }
  Report finish() {
    report_.time = Clock::now() - began_;
    return report_;
  }
  [[nodiscard]] bool late() const { return options_.time.count() != 0 && Clock::now() - began_ > options_.time; }

  template <class Make>
  bool once(Make& make, unsigned preemptions, unsigned stale) {
    Scenario scenario = make();
    if (scenario.agents.empty() || scenario.agents.size() > Execution::kMaxAgents) {
      throw std::invalid_argument("a scenario has one to eight agents");
    }
    Execution::Outcome o = execution_.run(
        scenario.agents, schedule_,
        {preemptions, options_.tso, options_.weak, options_.cxx, stale, options_.max_steps, options_.stack_bytes});
    if (o.end == RunEnd::Ok && !scenario.check()) {
      o.end = RunEnd::Check;
      o.message = "the check does not hold";
    }
    ++report_.runs;
    report_.steps += o.steps;
    if (o.end == RunEnd::Ok) return true;
    // Its agents stand where they stood, with what locks they held: to destroy it might wait for them for ever.
    static auto* const kFailed = new std::vector<Scenario>;
    kFailed->push_back(std::move(scenario));
    report_.end = o.end;
    report_.message = o.message;
    report_.schedule = std::string(options_.cxx    ? "c"
                                   : !options_.tso ? "s"
                                   : options_.weak ? "w"
                                                   : "t") +
                       (preemptions == ExploreOptions::kAnyNumber ? "*" : std::to_string(preemptions)) +
                       (options_.cxx && stale != ExploreOptions::kAnyNumber ? "." + std::to_string(stale) : "") + ":" +
                       schedule_.print();
    return false;
  }

  ExploreOptions options_;
  Execution execution_;
  Schedule schedule_;
  Report report_;
  Clock::time_point began_;
};

}  // namespace shadowmmu::sim
