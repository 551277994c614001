// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/intrusive.hpp"

namespace shadowmmu::reclaim {

/// Oldest shadow page first, by creation: the historical order. Its flaw: the oldest page may be a directory that has
/// just been given a child. Sees neither hits nor links. Source: Linux, arch/x86/kvm (2007 on), without its batches.
/// Cost: 16 bytes a page; victim is O(1 + pinned pages passed over).
class Fifo {
  struct Queue;

 public:
  struct PageState : ListHook<Queue> {};
  static constexpr Hook kHooks = Hook::None;

  void on_create(PageState& p, PageFacts) noexcept { queue_.push_back(p); }
  void on_remove(PageState& p) noexcept { queue_.erase(queue_.s_iterator_to(p)); }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    for (PageState& p : queue_)
      if (!view.pinned(p)) return &p;
    return nullptr;
  }

 private:
  List<PageState, Queue> queue_;
};
static_assert(Reclaim<Fifo>);

}  // namespace shadowmmu::reclaim
