// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/stats.hpp"

namespace shadowmmu::config {

/// Compile-time choices beside the policies. Derive and override what differs.
struct Default {
  using Generation = std::uint64_t;  ///< any unsigned type; tests use 8 bits
  using Stats = stats::On;
  static constexpr unsigned kPreviousRoots = 3;
  static constexpr unsigned kPrefetch = 8;      ///< aligned window of gptes read around a fault; 1 = none
  static constexpr unsigned kLowPages = 5;      ///< reclaim when fewer shadow pages are free ...
  static constexpr unsigned kRefillPages = 25;  ///< ... until so many are
  static constexpr unsigned kFloodWrites = 3;   ///< tracked writes to an upper table before its page is zapped
  static constexpr unsigned kLongChain = 1000;  ///< rmap entries of one gfn before the chain is zapped whole
  static constexpr unsigned kMinLimit = 64;     ///< default limit: frames / 50, at least this
};

}  // namespace shadowmmu::config
