// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/explore.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <stdexcept>

using shadowmmu::memory::Order;
using shadowmmu::sim::ExploredMemory;
using shadowmmu::sim::ExploreOptions;
using shadowmmu::sim::Explorer;
using shadowmmu::sim::Report;
using shadowmmu::sim::RunEnd;
using shadowmmu::sim::Scenario;
using M = ExploredMemory;

namespace {

struct Cells {
  std::uint64_t x = 0, y = 0, z = 0, seen_x = 9, seen_y = 9, seen_z = 9;
};

// Dekker's core: each raises its flag and looks at the other's. Only store buffers let both miss.
template <bool kFence>
Scenario store_buffering() {
  auto c = std::make_shared<Cells>();
  auto side = [c](std::uint64_t& mine, const std::uint64_t& other, std::uint64_t& seen) {
    M::store<Order::Release>(mine, 1);
    if (kFence) M::fence<Order::SeqCst>();
    seen = M::load<Order::Acquire>(other);
  };
  return {{[=] { side(c->x, c->y, c->seen_y); }, [=] { side(c->y, c->x, c->seen_x); }},
          [=] { return c->seen_x != 0 || c->seen_y != 0; }};
}

template <Order kOrder = Order::Release, Order kFence = Order::Relaxed>
Scenario message_passing() {
  auto c = std::make_shared<Cells>();
  return {{[=] {
             M::plain(c->x, 42);
             M::fence<kFence>();
             M::store<kOrder>(c->y, 1);
           },
           [=] {
             if (M::load<Order::Acquire>(c->y) == 1) c->seen_x = M::plain(c->x);
           }},
          [=] { return c->seen_x == 9 || c->seen_x == 42; }};
}

template <bool kLocked>
Scenario increments() {
  auto c = std::make_shared<Cells>();
  auto add = [c] {
    if (kLocked) {
      M::fetch_add<Order::Relaxed>(c->x, 1);
    } else {
      M::store<Order::Relaxed>(c->x, M::load<Order::Relaxed>(c->x) + 1);
    }
  };
  return {{add, add}, [=] { return c->x == 2; }};
}

enum class Flaw { None, TicketNotAtomic, NoWait, DataAfterRelease };

template <class Memory, Flaw kFlaw>
struct TicketLock {
  std::uint32_t next = 0, serving = 0;
  std::uint64_t data = 0;

  void lock() {
    std::uint32_t mine = 0;
    if (kFlaw == Flaw::TicketNotAtomic) {
      mine = Memory::template load<Order::Relaxed>(next);
      Memory::template store<Order::Relaxed>(next, mine + 1);
    } else {
      mine = Memory::template fetch_add<Order::Relaxed>(next, 1);
    }
    while (kFlaw != Flaw::NoWait && Memory::template load<Order::Acquire>(serving) != mine) Memory::pause();
  }
  void unlock() { Memory::template store<Order::Release>(serving, Memory::plain(serving) + 1); }
};

template <Flaw kFlaw, int kAgents = 2>
Scenario critical_sections() {
  auto l = std::make_shared<TicketLock<M, kFlaw>>();
  auto enter = [l] {
    l->lock();
    const std::uint64_t seen = M::load<Order::Relaxed>(l->data);
    if (kFlaw == Flaw::DataAfterRelease) l->unlock();
    M::store<Order::Relaxed>(l->data, seen + 1);
    if (kFlaw != Flaw::DataAfterRelease) l->unlock();
  };
  Scenario s;
  s.agents.assign(kAgents, enter);
  s.check = [l] { return l->data == kAgents; };
  return s;
}

Scenario lock_order_inversion() {
  struct Locks {
    TicketLock<M, Flaw::None> a, b;
  };
  auto l = std::make_shared<Locks>();
  auto both = [l](TicketLock<M, Flaw::None>& first, TicketLock<M, Flaw::None>& second) {
    first.lock();
    second.lock();
    second.unlock();
    first.unlock();
  };
  return {{[=] { both(l->a, l->b); }, [=] { both(l->b, l->a); }}};
}

// Each wakes the other by what it writes, and neither gets anywhere.
Scenario two_busy_agents() {
  auto c = std::make_shared<Cells>();
  auto spin = [c] {
    while (M::load<Order::Acquire>(c->y) == 0) {
      M::fetch_add<Order::Relaxed>(c->x, 1);
      M::pause();
    }
  };
  return {{spin, spin}};
}

Report explore(Scenario (*make)(), ExploreOptions o = {}) {
  const Report r = Explorer{o}.run(make);
  MESSAGE(r.text());
  return r;
}

}  // namespace

TEST_CASE("a missing store-load fence shows only with store buffers") {
  CHECK(explore(store_buffering<false>, {.tso = true}).end == RunEnd::Check);
  CHECK(explore(store_buffering<false>, {.tso = false}).complete);
  CHECK(explore(store_buffering<true>, {.tso = true}).complete);
}

TEST_CASE("a release store does not overtake the plain stores before it") {
  CHECK(explore(message_passing<>, {.preemptions = ExploreOptions::kAnyNumber, .tso = true}).complete);
}

TEST_CASE(
    "where stores are weak, one that is no release overtakes those before it, unless a release fence stands between") {
  const ExploreOptions weak{.preemptions = ExploreOptions::kAnyNumber, .weak = true};
  CHECK(explore(message_passing<Order::Relaxed>).complete);  // x86 keeps them in order
  const Report found = explore(message_passing<Order::Relaxed>, weak);
  CHECK(found.end == RunEnd::Check);
  CHECK(Explorer{}.replay(message_passing<Order::Relaxed>, found.schedule).end == RunEnd::Check);
  CHECK(explore(message_passing<Order::Release>, weak).complete);
  CHECK(explore(message_passing<Order::Relaxed, Order::Release>, weak).complete);
  CHECK(explore(message_passing<Order::Relaxed, Order::AcqRel>, weak).complete);
  CHECK(explore(message_passing<Order::Relaxed, Order::SeqCst>, weak).complete);
  CHECK(explore(critical_sections<Flaw::None>, weak).complete);
}

TEST_CASE("a load and a store are not an increment") {
  CHECK(explore(increments<false>).end == RunEnd::Check);
  CHECK(explore(increments<false>, {.tso = false}).end == RunEnd::Check);
  CHECK(explore(increments<true>).complete);
}

TEST_CASE("a ticket lock excludes, and its broken variants are found out") {
  CHECK(explore(critical_sections<Flaw::None>, {.preemptions = ExploreOptions::kAnyNumber}).complete);
  CHECK(explore(critical_sections<Flaw::None, 3>).complete);
  CHECK_FALSE(explore(critical_sections<Flaw::TicketNotAtomic>).ok());
  CHECK(explore(critical_sections<Flaw::NoWait>).end == RunEnd::Check);
  CHECK(explore(critical_sections<Flaw::DataAfterRelease>).end == RunEnd::Check);
}

TEST_CASE("two locks taken in opposite orders deadlock") {
  CHECK(explore(lock_order_inversion, {.preemptions = 0}).complete);
  CHECK(explore(lock_order_inversion, {.preemptions = 1}).end == RunEnd::Deadlock);
}

TEST_CASE("a spin that nobody ends is reported") {
  CHECK(explore([] {
          auto c = std::make_shared<Cells>();
          return Scenario{{[=] {
            while (M::load<Order::Acquire>(c->x) == 0) M::pause();
          }}};
        }).end == RunEnd::Deadlock);
  CHECK(explore([] {
          auto c = std::make_shared<Cells>();
          return Scenario{{[=] {
            while (M::plain(c->x) == 0) continue;
          }}};
        }).end == RunEnd::Livelock);
  CHECK(explore(two_busy_agents).end == RunEnd::Livelock);
}

TEST_CASE("a paused agent may wake while the one that woke it goes on") {
  auto handshake = [] {
    auto c = std::make_shared<Cells>();
    return Scenario{{[c] {
                       c->seen_z = M::load<Order::Acquire>(c->z);
                       M::store<Order::Release>(c->x, 1);
                       c->seen_y = M::load<Order::Acquire>(c->y);
                     },
                     [c] {
                       M::store<Order::SeqCst>(c->z, 1);
                       while (M::load<Order::Acquire>(c->x) == 0) {
                         c->seen_x = 0;
                         M::pause();
                       }
                       M::store<Order::SeqCst>(c->y, 1);
                     }},
                    [c] { return c->seen_y == 0 || c->seen_x != 0 || c->seen_z != 1; }};
  };
  for (const bool tso : {true, false}) {
    // It acted, slept, and acted again before the first agent was done: one preemption.
    CHECK(Explorer{{.preemptions = 0, .tso = tso}}.run(handshake).complete);
    CHECK(Explorer{{.preemptions = 1, .tso = tso}}.run(handshake).end == RunEnd::Check);
  }
}

TEST_CASE("a write that came between the look and the pause is not slept through") {
  auto late_pause = [] {
    auto c = std::make_shared<Cells>();
    return Scenario{{[c] { M::store<Order::SeqCst>(c->x, 1); },
                     [c] {
                       while (M::load<Order::Acquire>(c->x) == 0) {
                         (void)M::load<Order::Acquire>(c->y);  // a place to be preempted at
                         M::pause();
                       }
                     }}};
  };
  CHECK(Explorer{{.preemptions = ExploreOptions::kAnyNumber}}.run(late_pause).complete);
}

TEST_CASE("a CPU sees its own buffered stores, whatever their width") {
  auto widths = [] {
    struct Words {
      std::uint64_t whole = 0x1111'2222'3333'4444U;
      bool good = false;
    };
    auto w = std::make_shared<Words>();
    return Scenario{{[w] {
                      auto* bytes = reinterpret_cast<unsigned char*>(&w->whole);
                      M::store<Order::Relaxed>(bytes[2], 0xab);
                      const bool wide = M::load<Order::Relaxed>(w->whole) == 0x1111'2222'33ab'4444U;
                      M::plain(w->whole, 0x5555'6666'7777'8888U);
                      w->good = wide && M::load<Order::Relaxed>(bytes[4]) == 0x66 && bytes[4] == 0x22;
                    }},
                    [w] { return w->good && w->whole == 0x5555'6666'7777'8888U; }};
  };
  CHECK(Explorer{}.run(widths).complete);
}

TEST_CASE("a failing run fails again when it is replayed, with the same words") {
  Explorer e;
  for (auto make : {store_buffering<false>, increments<false>, lock_order_inversion}) {
    const Report found = e.run(make);
    REQUIRE_FALSE(found.ok());
    const Report again = Explorer{{.preemptions = 7, .tso = false}}.replay(make, found.schedule);
    CHECK(again.end == found.end);
    CHECK(again.message == found.message);
    CHECK(again.schedule == found.schedule);
    CHECK(again.runs == 1);
  }
  CHECK_THROWS_AS(e.replay(increments<false>, "t2"), std::invalid_argument);
  CHECK_THROWS_AS(e.replay(increments<false>, "t2:!"), std::invalid_argument);
}

TEST_CASE("random runs find what lies beyond the bound; their seed and schedule repeat it") {
  const ExploreOptions options{.preemptions = 0, .tso = false, .random_runs = 1000, .seed = 7};
  const Report found = explore(increments<false>, options);
  REQUIRE(found.end == RunEnd::Check);
  REQUIRE(found.seed);
  CHECK(explore(increments<false>, options).schedule == found.schedule);
  CHECK(Explorer{options}.replay(increments<false>, found.schedule).end == RunEnd::Check);
  ExploreOptions seeded = options;
  seeded.seed = *found.seed;
  CHECK(explore(increments<false>, seeded).runs == 3);  // two without a preemption, then the failing one
}

TEST_CASE("a failed requirement and an exception end the run and name themselves") {
  const Report r = explore([] { return Scenario{{[] { shadowmmu::sim::require(false, "two owners"); }}}; });
  CHECK(r.end == RunEnd::Check);
  CHECK(r.message == "two owners");
  CHECK(explore([] { return Scenario{{[] { throw std::runtime_error("thrown"); }}}; }).message == "thrown");
}

TEST_CASE("limits on runs are kept and told") {
  const Report r = explore(critical_sections<Flaw::None, 3>, {.max_runs = 10});
  CHECK(r.ok());
  CHECK_FALSE(r.complete);
  CHECK(r.runs == 10);
}
