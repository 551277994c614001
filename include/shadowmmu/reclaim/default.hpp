// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/greedy_dual_frequency.hpp"

namespace shadowmmu::reclaim {

/// What wins on refaults without losing anywhere: docs/RECLAIM.md.
using Default = GreedyDualFrequency;

}  // namespace shadowmmu::reclaim
