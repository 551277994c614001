// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/intrusive.hpp"

namespace shadowmmu::reclaim {

/// Oldest first, where a directory that is given a child counts as new, and so do the directories above it: the remedy
/// of the 2012 mail. Of several parents the last to link a page is the one above it.
/// Cost: 24 bytes a page; O(levels) a link; victim is O(1 + pinned pages passed over).
class ParentTouch {
  struct Queue;

 public:
  struct PageState : ListHook<Queue> {
    PageState* above = nullptr;
  };
  static constexpr Hook kHooks = Hook::Link | Hook::Unlink;

  void on_create(PageState& p, PageFacts) noexcept { queue_.push_back(p); }
  void on_remove(PageState& p) noexcept { queue_.erase(queue_.s_iterator_to(p)); }
  void on_link(PageState& parent, PageState& child) noexcept {
    child.above = &parent;
    for (PageState* p = &parent; p != nullptr; p = p->above)
      queue_.splice(queue_.end(), queue_, queue_.s_iterator_to(*p));
  }
  void on_unlink(PageState& parent, PageState& child) noexcept {
    if (child.above == &parent) child.above = nullptr;
  }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    for (PageState& p : queue_)
      if (!view.pinned(p)) return &p;
    return nullptr;
  }

 private:
  List<PageState, Queue> queue_;
};
static_assert(Reclaim<ParentTouch>);

}  // namespace shadowmmu::reclaim
