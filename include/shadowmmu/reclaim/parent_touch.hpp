// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/fifo.hpp"

namespace shadowmmu::reclaim {

namespace detail {
struct ParentTouchState : ListHook<ParentTouchState> {
  ParentTouchState* above = nullptr;
};
}  // namespace detail

/// Oldest first, where a directory that is given a child counts as new, and so do the directories above it: the remedy
/// of the 2012 mail. Of several parents the last to link a page is the one above it.
/// Cost: 24 bytes a page; O(levels) a link; victim is O(1 + pinned pages passed over).
class ParentTouch : public detail::OldestFirst<detail::ParentTouchState, detail::ParentTouchState> {
 public:
  static constexpr Hook kHooks = Hook::Link | Hook::Unlink;
  void on_link(PageState& parent, PageState& child) noexcept {
    child.above = &parent;
    for (PageState* p = &parent; p != nullptr; p = p->above)
      queue_.splice(queue_.end(), queue_, queue_.s_iterator_to(*p));
  }
  void on_unlink(PageState& parent, PageState& child) noexcept {
    if (child.above == &parent) child.above = nullptr;
  }
};
static_assert(Reclaim<ParentTouch>);

}  // namespace shadowmmu::reclaim
