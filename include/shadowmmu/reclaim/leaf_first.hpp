// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/harmless.hpp"

namespace shadowmmu::reclaim {

/// Oldest page that strands no child first: the mail's alternative, made to give up empty directories too (a directory
/// that has lost its last child is the oldest). Sees neither hits nor faults.
/// Cost: 24 bytes a page; O(1) a link; victim is O(1 + pinned pages passed over).
class LeafFirst : public detail::HarmlessQueue<LeafFirst> {};
static_assert(Reclaim<LeafFirst>);

}  // namespace shadowmmu::reclaim
