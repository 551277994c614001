// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/greedy_dual_frequency.hpp"

namespace shadowmmu::reclaim {

/// What has the fewest refaults on recorded traces and loses on none of them to FIFO: docs/RECLAIM.md.
using Default = GreedyDualFrequency;

}  // namespace shadowmmu::reclaim
