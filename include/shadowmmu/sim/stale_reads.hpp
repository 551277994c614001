// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "shadowmmu/memory/order.hpp"

/// What loads may find under the C++ memory model, while agents take turns. Each store is a message to its cell, and
/// the messages of a cell have an order, that of the stores. A load may find any of them that is not older than one
/// which happens before the load, or which somebody had found before something that happens before it. What happens
/// before what, vector clocks say: a release store gives its message the clock of its agent, and an acquire load that
/// finds it takes that over. Fences and sequentially consistent accesses do what C++20 says of them, in the order of
/// the run.
///
/// Less than the standard allows: a load finds no store that comes later in the run; the stores to a cell, and all that
/// is sequentially consistent, are in the order of the run; of a cell kMessages values are known, and only the newest
/// where it was written by something else or at another width. Source: ISO C++20 [intro.races], [atomics.order]; views
/// after Kang et al., "A promising semantics", POPL 2017.
namespace shadowmmu::sim {

class StaleReads {
 public:
  using Order = memory::Order;
  static constexpr std::size_t kMaxAgents = 8;
  static constexpr std::size_t kMessages = 8;  ///< of a cell that are remembered

  /// A cell as an access names it.
  struct Place {
    std::uintptr_t at = 0;
    unsigned bytes = 0;
    std::uint64_t now = 0;  ///< what memory holds
  };

  void reset() {
    cells_.clear();
    pages_.clear();
    agents_ = {};
    sc_fence_ = {};
    sc_count_ = 0;
  }

  /// Returns: how many values a load may find, newest first.
  [[nodiscard]] unsigned options(unsigned agent, const Place& p, Order o) {
    const Cell* const c = cell(p);
    if (c == nullptr) return 1 + (unseen_page(agent, p) != nullptr ? 1U : 0U);
    const std::size_t oldest = least(agent, *c, o);
    const bool poison = oldest == 0 && c->dropped == 0 && !knows(agent, *c) && unseen_page(agent, p) != nullptr;
    return static_cast<unsigned>(c->messages.size() - oldest) + (poison ? 1U : 0U);
  }
  /// Returns: the n-th of them. Effects: the load takes place.
  std::uint64_t read(unsigned agent, const Place& p, Order o, unsigned n) {
    Agent& a = agents_[agent];
    const std::uint32_t time = ++a.clock.of[agent];
    Cell* c = cell(p);
    if (c == nullptr) {
      const Page* const page = unseen_page(agent, p);
      if (n == 1) return page->before;
      if (page == nullptr) return p.now;
      c = &remember(p);  // whoever has found what it was filled with does not go back
    }
    if (n >= c->messages.size()) return unseen_page(agent, p)->before;
    const std::size_t i = c->messages.size() - 1 - n;
    note_found(*c, agent, time, i + c->dropped);
    if (o == Order::SeqCst) c->sc.push_back({++sc_count_, i + c->dropped});
    const Message& m = c->messages[i];
    join(acquires(o) ? a.clock : a.pending, m.released);
    return m.bits;
  }
  /// Effects: a store takes place. `atomic`: it is the second half of a read-modify-write, which carries on what it
  /// found.
  void write(unsigned agent, const Place& p, std::uint64_t bits, Order o, bool atomic = false) {
    Agent& a = agents_[agent];
    const std::uint32_t time = ++a.clock.of[agent];
    Cell* c = cell(p);
    if (c == nullptr) c = &remember(p);
    Message m{bits, agent, time, releases(o) ? a.clock : a.fenced};
    if (atomic) join(m.released, c->messages.back().released);
    c->messages.push_back(m);
    if (c->messages.size() > kMessages) {
      c->messages.erase(c->messages.begin());
      c->dropped += 1;
    }
    if (o == Order::SeqCst) c->sc.push_back({++sc_count_, c->dropped + c->messages.size() - 1});
  }
  /// Effects: the first half of a read-modify-write, which finds the newest value, whatever the order.
  void found(unsigned agent, const Place& p, Order o) { static_cast<void>(read(agent, p, o, 0)); }

  void fence(unsigned agent, Order o) {
    Agent& a = agents_[agent];
    if (o == Order::Acquire || o == Order::AcqRel || o == Order::SeqCst) join(a.clock, a.pending);
    if (o == Order::SeqCst) {
      a.clock.sc = sc_count_;
      join(a.clock, sc_fence_);
      sc_fence_ = a.clock;
    }
    if (o == Order::Release || o == Order::AcqRel || o == Order::SeqCst) a.fenced = a.clock;
  }
  /// The agent has filled a page that held `before` in each word: nobody may rely on what it holds now to whom that
  /// does not happen before.
  void filled(unsigned agent, std::uintptr_t page, std::uint64_t before) {
    const std::uint32_t time = ++agents_[agent].clock.of[agent];
    for (auto c = cells_.begin(); c != cells_.end();) c = c->first - page < kPageBytes ? cells_.erase(c) : std::next(c);
    pages_[page] = {agent, time, before};
  }

 private:
  static constexpr std::uintptr_t kPageBytes = 4096;
  struct Clock {
    std::array<std::uint32_t, kMaxAgents> of{};
    std::uint64_t sc = 0;  ///< sequentially consistent accesses that came before a fence which happens before
  };
  struct Agent {
    Clock clock{};    ///< what happens before its next access
    Clock pending{};  ///< what its relaxed loads have found, for an acquire fence
    Clock fenced{};   ///< as its last release fence left it, for relaxed stores
  };
  struct Message {
    std::uint64_t bits = 0;
    unsigned writer = 0;
    std::uint32_t time = 0;  ///< of the writer; 0: it was there at the begin
    Clock released{};        ///< what an acquire load takes over
  };
  /// Somebody found a message.
  struct Found {
    unsigned agent;
    std::uint32_t time;
    std::size_t stamp;
  };
  /// A sequentially consistent access, by its place among all of them: the message that it stored or found.
  struct Sc {
    std::uint64_t count;
    std::size_t stamp;
  };
  struct Cell {
    unsigned bytes = 0;
    std::vector<Message> messages{};  ///< in the order of the stores
    std::size_t dropped = 0;          ///< older ones; a message's stamp counts them
    std::vector<Found> found{};
    std::vector<Sc> sc{};
  };
  struct Page {
    unsigned agent = 0;
    std::uint32_t time = 0;
    std::uint64_t before = 0;
  };

  [[nodiscard]] static bool acquires(Order o) noexcept {
    return o == Order::Acquire || o == Order::AcqRel || o == Order::SeqCst;
  }
  [[nodiscard]] static bool releases(Order o) noexcept {
    return o == Order::Release || o == Order::AcqRel || o == Order::SeqCst;
  }
  static void join(Clock& into, const Clock& c) noexcept {
    for (std::size_t i = 0; i < kMaxAgents; ++i) into.of[i] = std::max(into.of[i], c.of[i]);
    into.sc = std::max(into.sc, c.sc);
  }
  /// Returns: what is remembered of the cell; nullptr where nothing is, or where it was written by something else
  /// since.
  [[nodiscard]] Cell* cell(const Place& p) {
    const auto found = cells_.find(p.at);
    if (found == cells_.end()) return nullptr;
    if (found->second.bytes == p.bytes && found->second.messages.back().bits == p.now) return &found->second;
    cells_.erase(found);
    return nullptr;
  }
  Cell& remember(const Place& p) { return cells_[p.at] = Cell{p.bytes, {Message{p.now}}}; }
  /// Returns: whether somebody has found a value of the cell before something that happens before the agent's next
  /// access.
  [[nodiscard]] bool knows(unsigned agent, const Cell& c) const {
    for (const Found& f : c.found)
      if (f.time <= agents_[agent].clock.of[f.agent]) return true;
    return false;
  }
  /// Returns: the page, where the agent may find it as it was before it was filled.
  [[nodiscard]] const Page* unseen_page(unsigned agent, const Place& p) const {
    const auto found = pages_.find(p.at & ~(kPageBytes - 1));
    if (found == pages_.end() || found->second.time <= agents_[agent].clock.of[found->second.agent]) return nullptr;
    return &found->second;
  }
  /// Returns: the index of the oldest message that a load may find.
  [[nodiscard]] std::size_t least(unsigned agent, const Cell& c, Order o) const {
    const Agent& a = agents_[agent];
    std::size_t stamp = c.dropped;
    const auto after = [&](const Clock& clock) {
      for (std::size_t i = 0; i < c.messages.size(); ++i)
        if (c.messages[i].time != 0 && c.messages[i].time <= clock.of[c.messages[i].writer])
          stamp = std::max(stamp, c.dropped + i);
      for (const Found& f : c.found)
        if (f.time <= clock.of[f.agent]) stamp = std::max(stamp, f.stamp);
    };
    after(a.clock);
    if (o == Order::SeqCst) after(sc_fence_);
    for (const Sc& x : c.sc)
      if (o == Order::SeqCst || x.count <= a.clock.sc) stamp = std::max(stamp, x.stamp);
    return stamp - c.dropped;
  }
  static void note_found(Cell& c, unsigned agent, std::uint32_t time, std::size_t stamp) {
    for (const Found& f : c.found)
      if (f.agent == agent && f.stamp >= stamp) return;
    c.found.push_back({agent, time, stamp});
  }

  std::unordered_map<std::uintptr_t, Cell> cells_;
  std::unordered_map<std::uintptr_t, Page> pages_;
  std::array<Agent, kMaxAgents> agents_{};
  Clock sc_fence_{};
  std::uint64_t sc_count_ = 0;
};

}  // namespace shadowmmu::sim
