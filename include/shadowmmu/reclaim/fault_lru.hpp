// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/harmless.hpp"

namespace shadowmmu::reclaim {

/// The page whose last fault is longest ago, of those that strand no child: what can be had of LRU without Accessed
/// bits. Source: VirtualBox, the age list of its shadow page pool. Cost: 24 bytes a page; O(1) an entry; victim is O(1
/// + pinned pages passed over).
struct FaultLruState : ListHook<class FaultLru> {
  bool strands = false;
};
class FaultLru : public detail::Harmless<FaultLru, FaultLruState> {
 public:
  using PageState = FaultLruState;
  static constexpr Hook kHooks = Hook::Strand | Hook::Entry;
  void enter(PageState& p, detail::Entry how) noexcept {
    if (how == detail::Entry::New)
      queue_.push_back(p);
    else
      queue_.push_front(p);
  }
  void leave(PageState& p) noexcept { queue_.erase(queue_.s_iterator_to(p)); }
  void on_entry(PageState& p, unsigned) noexcept {
    if (!p.strands) queue_.splice(queue_.end(), queue_, queue_.s_iterator_to(p));
  }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    return detail::first_free(queue_, view);
  }

 private:
  List<PageState, FaultLru> queue_;
};
static_assert(Reclaim<FaultLru>);

}  // namespace shadowmmu::reclaim
