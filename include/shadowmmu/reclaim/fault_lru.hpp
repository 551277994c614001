// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/harmless.hpp"

namespace shadowmmu::reclaim {

/// The page whose last fault is longest ago, of those that strand no child: what can be had of LRU without Accessed
/// bits. Source: VirtualBox, the age list of its shadow page pool. Cost: 24 bytes a page; O(1) an entry; victim is O(1
/// + pinned pages passed over).
class FaultLru : public detail::HarmlessQueue<FaultLru> {
 public:
  static constexpr Hook kHooks = Hook::Strand | Hook::Entry;
  void on_entry(PageState& p, unsigned) noexcept {
    if (!p.strands) make_newest(p);
  }
};
static_assert(Reclaim<FaultLru>);

}  // namespace shadowmmu::reclaim
