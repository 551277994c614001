// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <doctest/doctest.h>

#include "random/world.hpp"
#include "support/any_policy.hpp"

namespace shadowmmu::test {

#ifdef SHADOWMMU_LONG
inline constexpr std::uint64_t kSeeds = 20000;
#else
inline constexpr std::uint64_t kSeeds = 400;
#endif
inline constexpr unsigned kLength = 200;

/// SHADOWMMU_SEED=n runs that seed alone; SHADOWMMU_SEEDS=n that many.
template <class Mmu>
void run_all() {
  const char* one = std::getenv("SHADOWMMU_SEED");
  const char* many = std::getenv("SHADOWMMU_SEEDS");
  const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const std::uint64_t count = one != nullptr ? 1 : many != nullptr ? std::strtoull(many, nullptr, 10) : kSeeds;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const std::string report = run_seed<Mmu>(seed, kLength);
    INFO(report);
    REQUIRE(report.empty());
  }
}

}  // namespace shadowmmu::test
