// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/types.hpp"

namespace shadowmmu {

/// How room is made at the limit: when, how many pages at once, and what becomes of a victim's children. A policy may
/// have one of its own as `kPlan` (a constant, or a member that is set before the Mmu is used); else Config::kEviction
/// counts. Obsolete pages go before all victims under every plan.
struct EvictionPlan {
  /// DuringWalk: when a fault needs a page and none is left under the limit; what the fault has walked through is kept.
  /// BeforeWalk: ahead of the fault, as KVM does, when fewer than `low` pages are left; nobody knows then which
  /// directories it will walk through.
  enum class When : std::uint8_t { DuringWalk, BeforeWalk };
  /// Orphan: children of a victim stay, to be linked again or evicted in their turn. Recursive: those go with it that
  /// no other table points at.
  enum class Children : std::uint8_t { Orphan, Recursive };
  When when = When::DuringWalk;
  Children children = Children::Orphan;
  std::uint16_t low = 5;     ///< BeforeWalk: pages left that start an eviction; at least 5
  std::uint16_t refill = 1;  ///< pages left after it
  std::uint16_t share = 0;   ///< or limit / share, where that is more; 0: no such
  /// Returns: pages to make room for under a limit. A small limit is not emptied: half of it at most, or what one fault
  /// needs.
  [[nodiscard]] constexpr std::uint32_t wanted(std::uint32_t limit) const noexcept {
    const std::uint32_t part = share == 0 ? 0U : limit / share;
    return min_of(max_of(part, std::uint32_t{refill}), max_of(limit / 2, std::uint32_t{5}));
  }
};

/// A plan that leaves room for one fault.
[[nodiscard]] constexpr bool plan_sane(const EvictionPlan& p) noexcept {
  return p.low >= 5 && p.refill >= 1 && (p.when == EvictionPlan::When::DuringWalk || p.refill > p.low);
}

}  // namespace shadowmmu
