// SPDX-License-Identifier: BSL-1.0
// The search is neither blind nor redundant: it makes exactly as many runs as there are interleavings.
#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "shadowmmu/sim/explore.hpp"

using namespace shadowmmu::sim;
using shadowmmu::memory::Order;

namespace {

std::uint64_t runs_of(const std::vector<unsigned>& lengths, unsigned preemptions) {
  Explorer e{{.preemptions = preemptions, .tso = false}};
  const Report r = e.run([&] {
    Scenario s;
    auto cell = std::make_shared<std::uint64_t>(0);
    for (const unsigned n : lengths) {
      s.agents.push_back([=] {
        for (unsigned i = 0; i < n; ++i) ExploredMemory::fetch_add<Order::Relaxed>(*cell, 1);
      });
    }
    return s;
  });
  CHECK(r.complete);
  return r.runs;
}

std::uint64_t binomial(unsigned n, unsigned k) {
  std::uint64_t r = 1;
  for (unsigned i = 1; i <= k; ++i) r = r * (n - k + i) / i;
  return r;
}

// Sequences with at most `left` switches away from an agent that could go on; last is the one that acted before.
std::uint64_t bounded(std::vector<unsigned>& rest, std::size_t last, unsigned left) {
  std::uint64_t sum = 0;
  bool any = false;
  for (std::size_t i = 0; i < rest.size(); ++i) {
    if (rest[i] == 0) continue;
    any = true;
    const bool preempts = last < rest.size() && i != last && rest[last] != 0;
    if (preempts && left == 0) continue;
    --rest[i];
    sum += bounded(rest, i, left - (preempts ? 1U : 0U));
    ++rest[i];
  }
  return any ? sum : 1;
}

}  // namespace

TEST_CASE("two agents of m and n accesses interleave in (m + n over n) ways") {
  for (unsigned m = 1; m <= 5; ++m) {
    for (unsigned n = 1; n <= 5; ++n) CHECK(runs_of({m, n}, ExploreOptions::kAnyNumber) == binomial(m + n, n));
  }
}

TEST_CASE("three agents interleave in as many ways as the multinomial says") {
  CHECK(runs_of({2, 2, 2}, ExploreOptions::kAnyNumber) == binomial(6, 2) * binomial(4, 2));
  CHECK(runs_of({1, 2, 3}, ExploreOptions::kAnyNumber) == binomial(6, 1) * binomial(5, 2));
}

TEST_CASE("the bound counts exactly the preemptions") {
  for (unsigned bound = 0; bound <= 4; ++bound) {
    std::vector<unsigned> two{4, 3}, three{2, 3, 2};
    CHECK(runs_of(two, bound) == bounded(two, two.size(), bound));
    CHECK(runs_of(three, bound) == bounded(three, three.size(), bound));
  }
}
