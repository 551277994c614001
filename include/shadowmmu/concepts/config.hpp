// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <concepts>
#include <type_traits>

#include "shadowmmu/eviction_plan.hpp"
#include "shadowmmu/stats.hpp"

namespace shadowmmu {

/// Numbers that make sense together.
template <class C>
concept ConfigSane =
    std::unsigned_integral<typename C::Generation> && !std::same_as<typename C::Generation, bool> &&
    std::has_single_bit(C::kPrefetch) && C::kPrefetch <= 64 && C::kPreviousRoots <= 16 && plan_sane(C::kEviction) &&
    C::kFloodWrites >= 1 && C::kFloodWrites <= 255 && C::kLongChain >= 16 && C::kInstructionAddresses >= 2 &&
    C::kInstructionAddresses <= 32 && C::kMinLimit >= 8 && C::kDeferredPages <= 4096 && C::kYieldPages >= 10 &&
    C::kMmioGenerationBits != 1 && requires(typename C::Stats s) {
  { s.add(&Counters::faults) }
  noexcept;
  { s.snapshot() }
  noexcept->std::same_as<Counters>;
};

}  // namespace shadowmmu
