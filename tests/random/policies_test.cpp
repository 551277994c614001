// SPDX-License-Identifier: BSL-1.0
#include "random/seeds.hpp"

namespace {
using namespace shadowmmu;

struct Narrow : config::Default {
  using Generation = std::uint8_t;
  static constexpr unsigned kPreviousRoots = 1;
  static constexpr unsigned kPrefetch = 1;
};

TEST_CASE("random guests under a checked spin lock") {
  test::run_all<ShadowMmu<arch::X86_64, lock::Checked<lock::Spin>, reclaim::Fifo, test::TestHost>>();
}
TEST_CASE("random guests with narrow generations and without prefetch") {
  test::run_all<ShadowMmu<arch::X86_64, lock::Spin, reclaim::Fifo, test::TestHost, Narrow>>();
}
}  // namespace
