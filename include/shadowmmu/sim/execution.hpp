// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shadowmmu/sim/fiber.hpp"
#include "shadowmmu/sim/schedule.hpp"
#include "shadowmmu/sim/stale_reads.hpp"
#include "shadowmmu/sim/store_buffer.hpp"

namespace shadowmmu::sim {

/// How a run ended.
enum class RunEnd : std::uint8_t {
  Ok,
  Check,     ///< the scenario's check, a require() or an exception
  Deadlock,  ///< every unfinished agent pauses and no store is left that could wake one
  Livelock,  ///< more steps than allowed
};

/// One run of a few agents (CPUs) on fibers, under the choices of a Schedule. Where the choices lie:
/// - before each shared access that others can notice: go on, or be preempted by another agent;
/// - before an access to a location that another agent's buffer holds a store to: let that store, and all older ones
///   of its buffer, reach memory first. A store that nobody is about to look at has no reason to move. Where stores are
///   weak it may come alone, unless it is a release;
/// - which of several values a load finds, where those of the C++ memory model are explored (stale_reads.hpp);
/// - where an agent ends or pauses: who goes on; that is no preemption.
class Execution {
 public:
  static constexpr std::size_t kMaxAgents = StaleReads::kMaxAgents;

  struct Limits {
    unsigned preemptions = 2;
    bool tso = true;
    bool weak = false;   ///< with tso: a store that is no release may overtake older ones to other cells
    bool cxx = false;    ///< the C++ memory model instead
    unsigned stale = 1;  ///< with cxx: loads of one run that find something older than the newest
    std::uint64_t max_steps = 20'000;
    std::size_t stack_bytes = std::size_t{256} << 10U;
  };
  struct Outcome {
    RunEnd end = RunEnd::Ok;
    std::uint64_t steps = 0;
    std::string message;
  };

  Execution() = default;
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  /// Returns: the execution whose agent the caller is, or null outside of agents.
  [[nodiscard]] static Execution* current() noexcept { return running(); }

  /// Effects: runs the bodies to their end or to a failure, and lets every buffered store reach memory.
  /// Requires: 1 <= bodies.size() <= kMaxAgents; no execution runs on this thread.
  Outcome run(const std::vector<std::function<void()>>& bodies, Schedule& schedule, const Limits& limits) {
    schedule_ = &schedule;
    limits_ = limits;
    limits_.cxx = limits.cxx && !kRacesShow;
    limits_.tso = limits.tso && !limits_.cxx && !kRacesShow;
    limits_.weak = limits.weak && limits_.tso;
    outcome_ = {};
    preemptions_ = stale_ = 0;
    if (limits_.cxx) orders_.reset();
    while (agents_.size() < bodies.size()) agents_.push_back(std::make_unique<Agent>());
    agents_.resize(bodies.size());
    for (std::size_t i = 0; i < bodies.size(); ++i) {
      agents_[i]->reset(bodies[i]);
      agents_[i]->fiber.prepare(&Execution::body_of_fiber, limits_.stack_bytes);
    }
    me_ = schedule.choose(count());
    running() = this;
    publish(&begun_);
    {
      const Unseen unseen;
      Fiber::switch_to(root_, me().fiber);
    }
    take_over(&ended_);
    running() = nullptr;
    if (outcome_.end == RunEnd::Ok) {
      drain_rest();
    } else {
      agents_.clear();  // their stacks hold frames that will never return
    }
    return std::move(outcome_);
  }

  /// Effects: a point of choice before an access to `where`; `drains` where the access empties the own buffer.
  void point(Footprint where, bool drains) {
    step();
    bool may_switch = !std::exchange(me().fresh, false);
    for (;;) {
      Options o;
      o.add(Move::Continue, me_);
      add_drains(o, where, drains ? me_ : kNobody);
      if (limits_.weak) add_overtakes(o, where);
      if (may_switch && preemptions_ < limits_.preemptions) {
        add_switches(o);
        for (unsigned i = 0; i < count(); ++i) {
          if (agents_[i]->blocked() && wakers(i).count != 0) o.add(Move::Wake, i);
        }
      }
      const Option taken = o.at(schedule_->choose(o.count));
      if (taken.move == Move::Continue) return;
      if (taken.move == Move::Drain) {
        drain(taken.agent, taken.entries);
      } else if (taken.move == Move::Overtake) {
        if (agents_[taken.agent]->buffer.overtake(taken.entries)) tell_others(taken.agent);
      } else {
        if (taken.move == Move::Wake) {
          const Options w = wakers(taken.agent);
          drain(w.at(schedule_->choose(w.count)).agent, 1);
        }
        ++preemptions_;
        go(taken.agent);
      }
      // Whoever was just chosen acts first: anything else would only be another way to the same run.
      may_switch = false;
    }
  }

  /// Effects: blocks until memory changed by another hand since the last pause (or begin) of this agent; not where it
  /// has found something old since: then its loads find the newest until it stores or pauses again.
  void pause() {
    step();
    // What was stored does not stay unseen for ever.
    me().up_to_date = std::exchange(me().stale, false);
    if (!std::exchange(me().news, false) && !me().up_to_date) {
      me().paused = true;
      hand_over();
    }
  }

  /// Effects: fails this run if the condition does not hold.
  void require(bool holds, const char* what) {
    if (!holds) fail(RunEnd::Check, what);
  }

  /// The memory of x86-TSO, or sequential consistency, without points of choice.
  template <class T>
  [[nodiscard]] T read(const T& cell) {
    step();
    return me().buffer.read(cell);
  }
  template <class T>
  void write(T& cell, T v, bool release) {
    step();
    if (!limits_.tso) {
      write_through(cell, v);
      return;
    }
    me().fresh = false;
    me().buffer.push(cell, v, release);
  }
  // The same under the C++ memory model.
  template <class T>
  [[nodiscard]] T read(const T& cell, memory::Order o) {
    step();
    const auto p = place_of(cell);
    const unsigned n = orders_.options(me_, p, o);
    unsigned choice = 0;
    if (n > 1 && stale_ < limits_.stale && !me().up_to_date) choice = schedule_->choose(n);
    if (choice != 0) {
      ++stale_;
      me().stale = true;
    }
    const std::uint64_t bits = orders_.read(me_, p, o, choice);
    T v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }
  template <class T>
  void write(T& cell, T v, memory::Order o, bool atomic = false) {
    step();
    me().up_to_date = false;
    if (!atomic) me().fresh = false;
    orders_.write(me_, place_of(cell), bits_of(v), o, atomic);
    write_through(cell, v);
  }
  template <class T>
  void found(const T& cell, memory::Order o) {
    orders_.found(me_, place_of(cell), o);
  }
  void fence(memory::Order o) { orders_.fence(me_, o); }
  /// Tells that the running agent has filled a page with something else than `before`, without saying so store by
  /// store.
  void filled(const void* page, std::uint64_t before) {
    if (limits_.cxx) orders_.filled(me_, reinterpret_cast<std::uintptr_t>(page), before);
  }
  [[nodiscard]] bool cxx() const noexcept { return limits_.cxx; }
  /// Requires: the own buffer is empty.
  template <class T>
  void write_through(T& cell, T v) {
    const bool changed = cell != v;
    cell = v;
    if (changed) tell_others(me_);
  }
  /// Others may wake: a cell was written.
  void changed() noexcept { tell_others(me_); }
  void drain_own() { drain(me_, me().buffer.size()); }
  void release_fence() { me().buffer.fence(); }
  [[nodiscard]] bool tso() const noexcept { return limits_.tso; }

 private:
  static constexpr unsigned kNobody = ~0U;

  struct Agent {
    Fiber fiber;
    std::function<void()> body;
    StoreBuffer buffer;
    bool fresh = true;  ///< has not acted since it was chosen at its begin
    bool done = false;
    bool paused = false;
    bool news = false;        ///< memory changed by another hand since the last pause
    bool stale = false;       ///< it found something old since the last pause
    bool up_to_date = false;  ///< until it stores or pauses, its loads find the newest

    void reset(const std::function<void()>& f) {
      body = f;
      buffer.clear();
      fresh = true;
      done = paused = news = stale = up_to_date = false;
    }
    [[nodiscard]] bool blocked() const noexcept { return !done && paused && !news; }
    [[nodiscard]] bool runnable() const noexcept { return !done && !blocked(); }
  };

  enum class Move : std::uint8_t { Continue, Switch, Drain, Overtake, Wake };
  struct Option {
    Move move;
    unsigned agent;
    std::size_t entries;
  };
  struct Options {
    std::array<Option, 1 + 4 * kMaxAgents> list;
    unsigned count = 0;
    void add(Move m, unsigned agent, std::size_t entries = 0) { list[count++] = {m, agent, entries}; }
    [[nodiscard]] Option at(unsigned i) const { return list[i]; }
  };

  // A function, so that no compiler reads the variable before a switch and uses it after.
  [[gnu::noinline]] static Execution*& running() noexcept {
    static thread_local Execution* execution = nullptr;
    return execution;
  }

  template <class T>
  [[nodiscard]] static std::uint64_t bits_of(T v) noexcept {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    return bits;
  }
  template <class T>
  [[nodiscard]] static StaleReads::Place place_of(const T& cell) noexcept {
    const Footprint f = footprint_of(cell);
    return {f.begin, static_cast<unsigned>(f.bytes), bits_of(cell)};
  }
  [[nodiscard]] unsigned count() const noexcept { return static_cast<unsigned>(agents_.size()); }
  [[nodiscard]] Agent& me() noexcept { return *agents_[me_]; }

  void step() {
    if (++outcome_.steps > limits_.max_steps) fail(RunEnd::Livelock, "more steps than allowed: a livelock?");
  }

  [[noreturn]] void fail(RunEnd end, std::string message) {
    outcome_.end = end;
    outcome_.message = std::move(message);
    leave();
  }
  [[noreturn]] void leave() {
    Fiber::switch_to(me().fiber, root_, true);
    std::abort();  // nobody continues an agent that left
  }

  static void body_of_fiber() {
    Execution* self = nullptr;
    {
      const Unseen unseen;
      self = running();
    }
    Execution& e = *self;
    take_over(&e.begun_);
    Fiber::entered(e.root_);
    try {
      e.body_of_me()();
    } catch (const std::exception& x) {
      const Unseen unseen;
      e.fail(RunEnd::Check, x.what());
    } catch (...) {
      const Unseen unseen;
      e.fail(RunEnd::Check, "an agent threw");
    }
    publish(&e.ended_);
    const Unseen unseen;
    e.me().done = true;
    e.hand_over();
    e.leave();
  }

  [[nodiscard]] const std::function<void()>& body_of_me() noexcept {
    const Unseen unseen;
    return me().body;
  }
  void go(unsigned next) {
    Agent& from = me();
    me_ = next;
    if (&from != &me()) Fiber::switch_to(from.fiber, me().fiber);
    // Here again, as whoever this is: what happened meanwhile is visible to the loads that follow.
    if (std::exchange(me().paused, false)) me().news = false;
  }

  // The running agent ended or waits: someone else must go on, or a store must arrive that wakes someone.
  void hand_over() {
    for (;;) {
      Options o;
      for (unsigned i = 0; i < count(); ++i) {
        if (agents_[i]->runnable()) o.add(Move::Switch, i);
      }
      for (unsigned k = 0; k < count(); ++k) {
        if (!agents_[k]->buffer.empty() && wakes_someone(k)) o.add(Move::Drain, k, 1);
      }
      if (o.count == 0) {
        const bool all_done = std::all_of(agents_.begin(), agents_.end(), [](auto& a) { return a->done; });
        if (!all_done) fail(RunEnd::Deadlock, "every unfinished agent waits");
        return;
      }
      const Option taken = o.at(schedule_->choose(o.count));
      if (taken.move == Move::Switch) {
        go(taken.agent);
        return;
      }
      drain(taken.agent, taken.entries);
    }
  }

  void add_switches(Options& o) const {
    for (unsigned i = 0; i < count(); ++i) {
      if (i != me_ && agents_[i]->runnable()) o.add(Move::Switch, i);
    }
  }
  [[nodiscard]] bool wakes_someone(unsigned writer) const {
    for (unsigned i = 0; i < count(); ++i) {
      if (i != writer && agents_[i]->blocked()) return true;
    }
    return false;
  }
  [[nodiscard]] Options wakers(unsigned sleeper) const {
    Options o;
    for (unsigned k = 0; k < count(); ++k) {
      if (k != sleeper && !agents_[k]->buffer.empty()) o.add(Move::Drain, k);
    }
    return o;
  }

  // Which buffers must have the choice to drain before an access to `where` that also drains `drainer`'s buffer:
  // those that hold a store to it, or to what drains with such a store (the order of two stores to one cell counts).
  void add_drains(Options& o, Footprint where, unsigned drainer) const {
    if (std::all_of(agents_.begin(), agents_.end(), [](auto& a) { return a->buffer.empty(); })) return;
    std::array<std::size_t, kMaxAgents> depth{};  // entries of each buffer that may drain
    std::array<std::size_t, kMaxAgents> first;    // the oldest that matters
    first.fill(~std::size_t{0});
    for (unsigned i = 0; i < count(); ++i) {
      if (drainer == i || me_ == kNobody) depth[i] = agents_[i]->buffer.size();
    }
    for (bool again = true; std::exchange(again, false);) {
      for (unsigned i = 0; i < count(); ++i) {
        const StoreBuffer& b = agents_[i]->buffer;
        for (std::size_t n = 0; n < b.size(); ++n) {
          if (n >= first[i] && n < depth[i]) continue;
          // Own stores to `where` are seen anyway; they matter once another store to it may come before or after.
          if ((i == me_ || !b[n].where.overlaps(where)) && !meets(b[n].where, i, depth)) continue;
          again |= n < first[i] || n >= depth[i];
          first[i] = std::min(first[i], n);
          depth[i] = std::max(depth[i], n + 1);
        }
      }
    }
    for (unsigned i = 0; i < count(); ++i) {
      if (first[i] != ~std::size_t{0}) o.add(Move::Drain, i, first[i] + 1);
    }
  }
  // The first store of each other buffer to `where` that need not wait for older ones.
  void add_overtakes(Options& o, Footprint where) const {
    for (unsigned i = 0; i < count(); ++i) {
      const StoreBuffer& b = agents_[i]->buffer;
      for (std::size_t n = 1; i != me_ && n < b.size(); ++n) {
        if (!b[n].where.overlaps(where) || !b.may_overtake(n)) continue;
        o.add(Move::Overtake, i, n);
        break;
      }
    }
  }
  [[nodiscard]] bool meets(Footprint f, unsigned owner, const std::array<std::size_t, kMaxAgents>& depth) const {
    for (unsigned k = 0; k < count(); ++k) {
      for (std::size_t n = 0; k != owner && n < depth[k]; ++n) {
        if (agents_[k]->buffer[n].where.overlaps(f)) return true;
      }
    }
    return false;
  }

  void drain(unsigned owner, std::size_t entries) {
    for (; entries != 0; --entries) {
      if (agents_[owner]->buffer.drain_one()) tell_others(owner);
    }
  }
  void drain_rest() {
    me_ = kNobody;
    for (;;) {
      Options o;
      add_drains(o, {}, kNobody);
      if (o.count == 0) break;
      const Option taken = o.at(schedule_->choose(o.count));
      drain(taken.agent, taken.entries);
    }
    for (unsigned i = 0; i < count(); ++i) drain(i, agents_[i]->buffer.size());
  }
  void tell_others(unsigned writer) noexcept {
    for (unsigned i = 0; i < count(); ++i) agents_[i]->news |= i != writer;
  }

  Schedule* schedule_ = nullptr;
  Limits limits_;
  Outcome outcome_;
  std::vector<std::unique_ptr<Agent>> agents_;
  Fiber root_;
  char begun_ = 0, ended_ = 0;  ///< all that came before an agent's begin, or after all ends, is ordered by these
  unsigned me_ = 0;
  unsigned preemptions_ = 0;
  unsigned stale_ = 0;
  StaleReads orders_;
};

}  // namespace shadowmmu::sim
