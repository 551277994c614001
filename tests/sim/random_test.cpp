// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/random.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace {
using namespace shadowmmu;
using namespace shadowmmu::sim_test;

TEST_CASE("random: seeded, bounded, and shuffling permutes") {
  sim::Random a{7}, b{7}, c{8};
  CHECK(a.next() == b.next());
  CHECK(a.next() != c.next());
  std::vector<unsigned> drawn(10);
  for (unsigned i = 0; i < 10000; ++i) ++drawn[a.below(10)];
  for (const unsigned count : drawn) {
    CHECK(count > 850);
    CHECK(count < 1150);
  }
  std::vector<unsigned> places(4);
  for (unsigned i = 0; i < 4000; ++i) {
    std::vector<unsigned> cards{0, 1, 2, 3};
    a.shuffle(cards);
    REQUIRE(cards[0] + cards[1] + cards[2] + cards[3] == 6);
    for (unsigned at = 0; at < 4; ++at) {
      if (cards[at] == 0) ++places[at];
    }
  }
  for (const unsigned count : places) CHECK(count > 880);
}

}  // namespace
