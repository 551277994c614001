// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "shadowmmu/sim/explore.hpp"

/// The explorer's C++ memory model on small programs whose outcomes are known.
namespace {
using namespace shadowmmu;
using M = sim::ExploredMemory;
using memory::Order;

using Outcomes = std::set<std::vector<std::uint64_t>>;
/// The cells of a program, and what its agents have seen.
struct Program {
  std::array<std::uint64_t, 3> cell{};
  std::vector<std::uint64_t> seen = std::vector<std::uint64_t>(6);
};
using Body = std::function<void(Program&)>;

Outcomes outcomes(const std::vector<Body>& bodies) {
  Outcomes all;
  sim::Explorer e(
      {.preemptions = sim::ExploreOptions::kAnyNumber, .cxx = true, .stale = sim::ExploreOptions::kAnyNumber});
  const sim::Report r = e.run([&] {
    const auto p = std::make_shared<Program>();
    sim::Scenario s;
    for (const Body& b : bodies) s.agents.push_back([p, &b] { b(*p); });
    s.check = [p, &all] {
      all.insert(p->seen);
      return true;
    };
    return s;
  });
  CHECK(r.ok());
  CHECK(r.complete);
  return all;
}
/// Returns: whether some run ends with these values seen first.
bool has(const Outcomes& all, const std::vector<std::uint64_t>& seen) {
  for (const auto& o : all)
    if (std::equal(seen.begin(), seen.end(), o.begin())) return true;
  return false;
}

/// One stores x, then y; the other looks at y, then x.
template <Order Store, Order Load, Order WriterFence = Order::Relaxed, Order ReaderFence = Order::Relaxed>
Outcomes passing() {
  return outcomes({[](Program& p) {
                     M::store<Order::Relaxed>(p.cell[0], 1);
                     if (WriterFence != Order::Relaxed) M::fence<WriterFence>();
                     M::store<Store>(p.cell[1], 1);
                   },
                   [](Program& p) {
                     p.seen[0] = M::load<Load>(p.cell[1]);
                     if (ReaderFence != Order::Relaxed) M::fence<ReaderFence>();
                     p.seen[1] = M::load<Order::Relaxed>(p.cell[0]);
                   }});
}
TEST_CASE("a message is passed by a release that an acquire finds, and by nothing less") {
  CHECK(has(passing<Order::Relaxed, Order::Relaxed>(), {1, 0}));
  CHECK(has(passing<Order::Release, Order::Relaxed>(), {1, 0}));
  CHECK(has(passing<Order::Relaxed, Order::Acquire>(), {1, 0}));
  const Outcomes o = passing<Order::Release, Order::Acquire>();
  CHECK_FALSE(has(o, {1, 0}));
  CHECK(has(o, {1, 1}));
  CHECK(has(o, {0, 0}));
  CHECK(has(o, {0, 1}));
  CHECK_FALSE(has(passing<Order::Relaxed, Order::Relaxed, Order::Release, Order::Acquire>(), {1, 0}));
  CHECK(has(passing<Order::Relaxed, Order::Relaxed, Order::Release>(), {1, 0}));
  CHECK(has(passing<Order::Relaxed, Order::Relaxed, Order::Relaxed, Order::Acquire>(), {1, 0}));
  CHECK_FALSE(has(passing<Order::Release, Order::Relaxed, Order::Relaxed, Order::Acquire>(), {1, 0}));
}

/// Each stores its cell and looks at the other's.
template <Order Store, Order Load, bool Fences = false>
Outcomes buffering() {
  const auto body = [](unsigned me) {
    return [me](Program& p) {
      M::store<Store>(p.cell[me], 1);
      if (Fences) M::fence<Order::SeqCst>();
      p.seen[me] = M::load<Load>(p.cell[1 - me]);
    };
  };
  return outcomes({body(0), body(1)});
}
TEST_CASE("two that store and look may miss each other, unless both are sequentially consistent or fenced") {
  CHECK(has(buffering<Order::Release, Order::Acquire>(), {0, 0}));
  CHECK(has(buffering<Order::SeqCst, Order::Acquire>(), {0, 0}));
  CHECK(has(buffering<Order::Release, Order::SeqCst>(), {0, 0}));
  CHECK_FALSE(has(buffering<Order::SeqCst, Order::SeqCst>(), {0, 0}));
  CHECK_FALSE(has(buffering<Order::Relaxed, Order::Relaxed, true>(), {0, 0}));
}

/// Two store a cell each, two look at both, the other way round.
template <Order Store, Order Load>
Outcomes independent() {
  const auto writer = [](unsigned cell) { return [cell](Program& p) { M::store<Store>(p.cell[cell], 1); }; };
  const auto reader = [](unsigned first, unsigned at) {
    return [=](Program& p) {
      p.seen[at] = M::load<Load>(p.cell[first]);
      p.seen[at + 1] = M::load<Load>(p.cell[1 - first]);
    };
  };
  return outcomes({writer(0), writer(1), reader(0, 0), reader(1, 2)});
}
TEST_CASE("readers of independent stores may differ about their order, unless it is one for all") {
  CHECK(has(independent<Order::Release, Order::Acquire>(), {1, 0, 1, 0}));
  CHECK_FALSE(has(independent<Order::SeqCst, Order::SeqCst>(), {1, 0, 1, 0}));
  CHECK_FALSE(has(independent<Order::Release, Order::SeqCst>(), {1, 0, 1, 0}));
}

TEST_CASE("a fence is ordered with sequentially consistent accesses, whatever comes after those") {
  const Body fenced = [](Program& p) {
    M::store<Order::Relaxed>(p.cell[1], 1);
    M::fence<Order::SeqCst>();
    p.seen[2] = M::load<Order::Relaxed>(p.cell[0]);
  };
  const auto looks = [](Program& p) {
    p.seen[0] = M::load<Order::SeqCst>(p.cell[0]);
    p.seen[1] = M::load<Order::SeqCst>(p.cell[1]);
  };
  const Outcomes found = outcomes({[](Program& p) { M::store<Order::Relaxed>(p.cell[0], 1); }, looks, fenced});
  CHECK_FALSE(has(found, {1, 0, 0}));
  CHECK(has(found, {1, 0, 1}));
  const Body stores = [](Program& p) {
    M::store<Order::SeqCst>(p.cell[0], 1);
    p.seen[1] = M::load<Order::SeqCst>(p.cell[1]);
  };
  const Outcomes behind = outcomes({stores, fenced, [](Program& p) { M::store<Order::SeqCst>(p.cell[0], 2); }});
  CHECK_FALSE(has(behind, {0, 0, 0}));
  CHECK(has(behind, {0, 0, 1}));
  const auto reader = [](unsigned first, unsigned at) {
    return [=](Program& p) {
      p.seen[at] = M::load<Order::Relaxed>(p.cell[first]);
      M::fence<Order::SeqCst>();
      p.seen[at + 1] = M::load<Order::Relaxed>(p.cell[1 - first]);
    };
  };
  const auto writer = [](unsigned cell) { return [cell](Program& p) { M::store<Order::Relaxed>(p.cell[cell], 1); }; };
  CHECK_FALSE(has(outcomes({writer(0), writer(1), reader(0, 0), reader(1, 2)}), {1, 0, 1, 0}));
}

TEST_CASE("a compare-exchange that fails acquires nothing") {
  const Outcomes o = outcomes({[](Program& p) {
                                 M::store<Order::Relaxed>(p.cell[0], 1);
                                 M::store<Order::Release>(p.cell[1], 1);
                               },
                               [](Program& p) {
                                 std::uint64_t expected = 7;
                                 static_cast<void>(M::compare_exchange<Order::AcqRel>(p.cell[1], expected, 8));
                                 p.seen[0] = expected;
                                 p.seen[1] = M::load<Order::Relaxed>(p.cell[0]);
                               }});
  CHECK(has(o, {1, 0}));
}

TEST_CASE("a failure that takes several old values is repeated by its schedule") {
  const auto make = [] {
    const auto p = std::make_shared<Program>();
    return sim::Scenario{{[p] {
                            for (unsigned i = 0; i < 3; ++i) M::store<Order::Relaxed>(p->cell[i], 1);
                          },
                          [p] {
                            std::uint64_t sum = M::load<Order::Relaxed>(p->cell[2]) * 4;
                            for (unsigned i = 0; i < 2; ++i) sum += M::load<Order::Relaxed>(p->cell[i]);
                            sim::require(sum != 4, "only the last store is seen");
                          }}};
  };
  const sim::Report found = sim::Explorer({.cxx = true, .stale = 2}).run(make);
  REQUIRE(found.end == sim::RunEnd::Check);
  CHECK(sim::Explorer().replay(make, found.schedule).end == sim::RunEnd::Check);
  CHECK(sim::Explorer({.cxx = true, .stale = 1}).run(make).ok());
}

TEST_CASE("nobody goes back behind what he, or who told him, has found") {
  const Outcomes alone = outcomes({[](Program& p) {
                                     M::store<Order::Relaxed>(p.cell[0], 1);
                                     M::store<Order::Relaxed>(p.cell[0], 2);
                                   },
                                   [](Program& p) {
                                     p.seen[0] = M::load<Order::Relaxed>(p.cell[0]);
                                     p.seen[1] = M::load<Order::Relaxed>(p.cell[0]);
                                   }});
  CHECK(has(alone, {1, 2}));
  CHECK(has(alone, {0, 2}));
  CHECK_FALSE(has(alone, {2, 1}));
  CHECK_FALSE(has(alone, {1, 0}));
  const Outcomes told = outcomes({[](Program& p) { M::store<Order::Relaxed>(p.cell[0], 1); },
                                  [](Program& p) {
                                    p.seen[0] = M::load<Order::Relaxed>(p.cell[0]);
                                    M::store<Order::Release>(p.cell[1], 1);
                                  },
                                  [](Program& p) {
                                    p.seen[1] = M::load<Order::Acquire>(p.cell[1]);
                                    p.seen[2] = M::load<Order::Relaxed>(p.cell[0]);
                                  }});
  CHECK_FALSE(has(told, {1, 1, 0}));
  CHECK(has(told, {1, 0, 0}));
}

TEST_CASE("a read-modify-write finds the newest value, and carries on the release that it found") {
  const Outcomes both = outcomes({[](Program& p) { p.seen[0] = M::fetch_add<Order::Relaxed>(p.cell[0], 1); },
                                  [](Program& p) { p.seen[1] = M::fetch_add<Order::Relaxed>(p.cell[0], 1); }});
  CHECK(both == Outcomes{{0, 1, 0, 0, 0, 0}, {1, 0, 0, 0, 0, 0}});
  const auto through = [](bool swaps) {
    return outcomes({[](Program& p) {
                       M::store<Order::Relaxed>(p.cell[0], 1);
                       M::store<Order::Release>(p.cell[1], 1);
                     },
                     [swaps](Program& p) {
                       if (swaps)
                         M::fetch_add<Order::Relaxed>(p.cell[1], 1);
                       else if (M::load<Order::Relaxed>(p.cell[1]) == 1)
                         M::store<Order::Relaxed>(p.cell[1], 2);
                     },
                     [](Program& p) {
                       p.seen[0] = M::load<Order::Acquire>(p.cell[1]);
                       p.seen[1] = M::load<Order::Relaxed>(p.cell[0]);
                     }});
  };
  CHECK_FALSE(has(through(true), {2, 0}));
  CHECK(has(through(false), {2, 0}));
}

TEST_CASE("who waits for a store finds it, however stale his loads may be") {
  const Outcomes o = outcomes({[](Program& p) { M::store<Order::Release>(p.cell[0], 1); },
                               [](Program& p) {
                                 while ((p.seen[0] = M::load<Order::Acquire>(p.cell[0])) == 0) M::pause();
                               }});
  CHECK(o == Outcomes{{1, 0, 0, 0, 0, 0}});
}

TEST_CASE("a page that somebody fills holds what it held before for whoever does not know him") {
  alignas(4096) static std::uint64_t page[512];
  const auto filled = [](bool tells) {
    return outcomes({[tells](Program& p) {
                       page[3] = 5;
                       sim::Execution::current()->filled(page, 99);
                       if (tells)
                         M::store<Order::Release>(p.cell[0], 1);
                       else
                         M::store<Order::Relaxed>(p.cell[0], 1);
                     },
                     [](Program& p) {
                       if ((p.seen[0] = M::load<Order::Acquire>(p.cell[0])) != 1) return;
                       p.seen[1] = M::load<Order::Relaxed>(page[3]);
                       p.seen[2] = M::load<Order::Relaxed>(page[3]);
                     }});
  };
  CHECK(has(filled(true), {1, 5}));
  CHECK_FALSE(has(filled(true), {1, 99}));
  CHECK(has(filled(false), {1, 99, 5}));
  CHECK(has(filled(false), {1, 99, 99}));
  CHECK_FALSE(has(filled(false), {1, 5, 99}));
}
}  // namespace
