// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include "random/world.hpp"

namespace {
using namespace shadowmmu;

#ifdef SHADOWMMU_LONG
constexpr std::uint64_t kSeeds = 20000;
#else
constexpr std::uint64_t kSeeds = 150;
#endif
constexpr unsigned kLength = 200;

/// SHADOWMMU_SEED=n runs that seed alone; SHADOWMMU_SEEDS=n that many.
template <class Mmu>
void run_all() {
  const char* one = std::getenv("SHADOWMMU_SEED");
  const char* many = std::getenv("SHADOWMMU_SEEDS");
  const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const std::uint64_t count = one != nullptr ? 1 : many != nullptr ? std::strtoull(many, nullptr, 10) : kSeeds;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const std::string report = test::run_seed<Mmu>(seed, kLength);
    INFO(report);
    REQUIRE(report.empty());
  }
}

struct SmallGenerations : config::Default {
  using Generation = std::uint8_t;
  static constexpr unsigned kPreviousRoots = 1;
  static constexpr unsigned kPrefetch = 1;
};

TEST_CASE("random guests see exactly what the architecture gives: one thread, no lock") {
  run_all<ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, test::TestHost>>();
}
TEST_CASE("random guests see exactly what the architecture gives: checked spin lock") {
  run_all<ShadowMmu<arch::X86_64, lock::Checked<lock::Spin>, reclaim::Fifo, test::TestHost>>();
}
TEST_CASE("random guests see exactly what the architecture gives: narrow generations, no prefetch") {
  run_all<ShadowMmu<arch::X86_64, lock::Spin, reclaim::Fifo, test::TestHost, SmallGenerations>>();
}
}  // namespace
