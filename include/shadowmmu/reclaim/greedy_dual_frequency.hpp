// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>

#include "shadowmmu/reclaim/credit_order.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::reclaim {

namespace detail {
/// Often used pages are worth their entries several times over. The power of three quarters tempers the number of
/// entries, since not all come back in one visit; docs/RECLAIM.md has how little the exponent and the cap matter.
struct FrequentEntries {
  static constexpr std::uint32_t kMostFrequency = 16;
  /// 16 times n to the power of 3/4, rounded down.
  static constexpr auto kPower = [] {
    std::array<std::uint16_t, kEntriesPerTable + 1> t{};
    for (std::uint32_t n = 0; n < t.size(); ++n)
      t[n] = static_cast<std::uint16_t>(square_root(n * square_root(n << 16U)));
    return t;
  }();
  static constexpr std::uint32_t kMost = kMostFrequency * kPower[kEntriesPerTable] / 16;
  /// The most that a page is worth before it has been found accessed so often: a scan fills tables that nobody comes
  /// back to, and A bits are set by its own touches.
  [[nodiscard]] static constexpr std::uint32_t unproven(std::uint32_t frequency) noexcept {
    return frequency == 1 ? 8 : frequency == 2 ? 32 : kMost;
  }
  [[nodiscard]] static constexpr std::uint32_t of(unsigned live, std::uint32_t frequency, bool bits) noexcept {
    const std::uint32_t worth = frequency * kPower[live] / 16;
    return bits ? min_of(worth, unproven(frequency)) : worth;
  }
};
static_assert(FrequentEntries::of(1, 1, true) == 1 && FrequentEntries::of(256, 1, true) == 8 &&
              FrequentEntries::of(256, 1, false) == 64);
}  // namespace detail

/// By cost, frequency and age: a page is worth its live entries to the power of 3/4, times how often it was found
/// accessed (16 at most; pages that have not been found so twice are worth little). Faults renew its credit as well as
/// A bits do; where there are no A bits, faults alone. The default: docs/RECLAIM.md. Source: GreedyDual-Size-Frequency
/// (Cherkasova, 1998), made to live on A bits. Cost: 24 bytes a page, 32 KiB an Mmu; a link or an entry O(1); victim
/// looks at about 2 A bits, 64 at most.
class GreedyDualFrequency : public detail::CreditOrder<GreedyDualFrequency, detail::FrequentEntries, true, true> {};
static_assert(Reclaim<GreedyDualFrequency>);

}  // namespace shadowmmu::reclaim
