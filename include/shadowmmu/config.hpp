// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/eviction_plan.hpp"
#include "shadowmmu/stats.hpp"

namespace shadowmmu::config {

/// What a removed memslot takes with it: everything, by generation, or only what maps or shadows its memory.
enum class SlotRemoval : std::uint8_t { All, Targeted };
/// Whether `release` (and the destructor) lets the lock go on the way. docs/TUNING.md says when.
enum class Teardown : std::uint8_t { Hold, Yield };

/// Compile-time choices beside the policies. Derive and override what differs.
struct Default {
  using Generation = std::uint64_t;  ///< any unsigned type; tests use 8 bits
  using Stats = stats::On;
  static constexpr unsigned kPreviousRoots = 3;
  static constexpr unsigned kPrefetch = 8;     ///< aligned window of gptes read around a fault; 1 = none
  static constexpr EvictionPlan kEviction{};   ///< for policies without a plan of their own
  static constexpr unsigned kFloodWrites = 3;  ///< tracked writes to an upper table before its page is zapped
  /// Addresses that one instruction with the event that it delivers may need at once: what the least limit is made of.
  /// Sixteen is x86's worst case. Tests take fewer, so that small worlds reach the limit.
  static constexpr unsigned kInstructionAddresses = 16;
  static constexpr unsigned kLongChain = 392;  ///< rmap entries of one gfn before the chain is zapped whole
  static constexpr SlotRemoval kSlotRemoval = SlotRemoval::All;
  static constexpr Teardown kTeardown = Teardown::Hold;
  static constexpr unsigned kDeferredPages = 64;      ///< unlinked pages that may wait for lockless readers
  static constexpr unsigned kYieldPages = 10;         ///< long work does at least so many pages before it yields
  static constexpr unsigned kMmioGenerationBits = 0;  ///< 0: all that the format has; tests use few
  static constexpr unsigned kMinLimit = 64;           ///< default limit: frames / 50, at least this
};

}  // namespace shadowmmu::config
