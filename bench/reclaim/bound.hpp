// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "reclaim/tree.hpp"

namespace shadowmmu::bench {

/// A number of refaults below which no policy can stay, whatever it knows, and how it was found.
///
/// At each touch the leaf table, and the three tables above it, are among the N cached ones; so at most N - 4 other
/// leaf tables are. A touch of an entry that was touched before is no refault only if its table has been cached all the
/// time since. Which tables are held between which of their touches, so that no moment has more than N - 4 of the
/// others, is therefore a choice that every policy makes; the most hits over all choices bound its hits. A price for
/// holding a table over a moment (a Lagrangian multiplier of that moment's constraint) takes the constraint away: every
/// table is on its own then, its best choice found exactly, and the sum of the best values plus the value of all places
/// at these prices is at least the most hits, for *any* prices that are not negative. So the result is a bound whether
/// or not the prices are the best; these are sought by subgradient steps, a price for each stretch of the trace.
struct LowerBound {
  std::uint64_t refaults = 0;
  unsigned steps = 0;  ///< subgradient steps taken
};

/// Complexity: O(touches * log touches) a step. Throws: std::runtime_error for a limit of 4 or less.
[[nodiscard]] LowerBound lower_bound(const Tree& tree, std::uint32_t limit, unsigned steps = 4);

}  // namespace shadowmmu::bench
