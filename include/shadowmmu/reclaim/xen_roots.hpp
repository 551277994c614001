// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/harmless.hpp"

namespace shadowmmu::reclaim {

/// The address space that was loaded longest ago gives up its root and all that hangs from it alone; where every root
/// is in use, the oldest page that strands no child goes. Sees CR3 loads only.
/// Source: Xen, the unpinning of top-level shadows when shadow memory runs out.
/// Cost: 24 bytes a page; victim is O(1 + pinned pages passed over), its zap O(pages of the space).
struct XenRootsState : ListHook<class XenRoots> {
  bool strands = false;
  bool root = false;
};
class XenRoots : public detail::Harmless<XenRoots, XenRootsState> {
 public:
  using PageState = XenRootsState;
  static constexpr Hook kHooks = Hook::Strand | Hook::RootLoad;
  static constexpr EvictionPlan kPlan{.children = EvictionPlan::Children::Recursive};
  void enter(PageState& p, detail::Entry how) noexcept {
    if (p.root) return;
    if (how == detail::Entry::New)
      queue_.push_back(p);
    else
      queue_.push_front(p);
  }
  void leave(PageState& p) noexcept {
    if (!p.root) queue_.erase(queue_.s_iterator_to(p));
  }
  void on_remove(PageState& p) noexcept {
    leave(p);
    if (p.root) roots_.erase(roots_.s_iterator_to(p));
  }
  void on_root_load(PageState& p) noexcept {
    if (p.root) {
      roots_.splice(roots_.end(), roots_, roots_.s_iterator_to(p));
      return;
    }
    if (!p.strands) leave(p);
    p.root = true;
    roots_.push_back(p);
  }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    PageState* p = detail::first_free(roots_, view);
    return p != nullptr ? p : detail::first_free(queue_, view);
  }

 private:
  List<PageState, XenRoots> roots_;
  List<PageState, XenRoots> queue_;
};
static_assert(Reclaim<XenRoots>);

}  // namespace shadowmmu::reclaim
