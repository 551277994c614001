// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

#include "random/library_subject.hpp"
#include "support/any_policy.hpp"
#include "support/test_host.hpp"

namespace shadowmmu::test {

#ifdef SHADOWMMU_LONG
inline constexpr std::uint64_t kSeeds = 20000;
#else
inline constexpr std::uint64_t kSeeds = 400;
#endif
inline constexpr unsigned kLength = 200;
/// Each build of a whole run has seeds of its own: a world is the same under every compiler, so that the same seeds
/// again would find the same again.
#ifndef SHADOWMMU_FIRST_SEED
#define SHADOWMMU_FIRST_SEED 1
#endif
inline constexpr std::uint64_t kFirstSeed = SHADOWMMU_FIRST_SEED;

/// SHADOWMMU_SEED=n runs that seed alone; SHADOWMMU_SEEDS=n that many, from 1 on; SHADOWMMU_TRACE_SEEDS=1 says which
/// one runs.
template <class Mmu>
void run_all(const sim::world::Kind& kind) {
  const char* one = std::getenv("SHADOWMMU_SEED");
  const char* many = std::getenv("SHADOWMMU_SEEDS");
  const bool trace = std::getenv("SHADOWMMU_TRACE_SEEDS") != nullptr;
  const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : many != nullptr ? 1 : kFirstSeed;
  const std::uint64_t count = one != nullptr ? 1 : many != nullptr ? std::strtoull(many, nullptr, 10) : kSeeds;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    if (trace) std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
    const sim::world::Find found = sim::world::try_seed(seed, kLength, kind, library<Mmu>());
    if (found.failure.empty()) continue;
    FAIL(found.report());
  }
}

}  // namespace shadowmmu::test
