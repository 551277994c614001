// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/harmless.hpp"

namespace shadowmmu::reclaim {

/// Oldest page that strands no child first: the mail's alternative, made to give up empty directories too (a directory
/// that has lost its last child is the oldest). Sees neither hits nor faults. Cost: 24 bytes a page; O(1) a link;
/// victim is O(1 + pinned pages passed over).
struct LeafFirstState : ListHook<class LeafFirst> {
  bool strands = false;
};
class LeafFirst : public detail::Harmless<LeafFirst, LeafFirstState> {
 public:
  using PageState = LeafFirstState;
  void enter(PageState& p, detail::Entry how) noexcept {
    if (how == detail::Entry::New)
      queue_.push_back(p);
    else
      queue_.push_front(p);
  }
  void leave(PageState& p) noexcept { queue_.erase(queue_.s_iterator_to(p)); }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    return detail::first_free(queue_, view);
  }

 private:
  List<PageState, LeafFirst> queue_;
};
static_assert(Reclaim<LeafFirst>);

}  // namespace shadowmmu::reclaim
