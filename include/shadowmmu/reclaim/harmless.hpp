// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/intrusive.hpp"
#include "shadowmmu/reclaim/fifo.hpp"

namespace shadowmmu::reclaim::detail {

/// How a page came to stand in a queue: it is new, or it strands no child any more.
enum class Entry : std::uint8_t { New, LostChildren };

/// What orders that never strand a child have in common: only pages whose eviction leaves no child without a parent
/// stand in a queue. `Order` has
///   void enter(PageState&, Entry)   the page may be evicted from now on
///   void leave(PageState&)          it may not any more: it has a child of its own, or goes
/// "Old leaf tables first" would not do: the pool would fill with directories that have no child left. Nor would "no
/// child": the root of a process that has ended still points at the kernel's tables, which have other parents.
/// Requires of PageState: a bool `strands`, false at first.
template <class Order, class PageState>
class Harmless {
 public:
  static constexpr Hook kHooks = Hook::Strand;
  void on_create(PageState& p, PageFacts) noexcept { order().enter(p, Entry::New); }
  void on_remove(PageState& p) noexcept { order().leave(p); }
  void on_strands(PageState& p, bool yes) noexcept {
    if (yes)
      order().leave(p);
    else
      order().enter(p, Entry::LostChildren);
    p.strands = yes;
  }

 private:
  [[nodiscard]] Order& order() noexcept { return static_cast<Order&>(*this); }
};

template <class Tag>
struct HarmlessState : ListHook<Tag> {
  bool strands = false;
};

/// All of them in one queue: new ones at its end, one that has lost its last own child at its front.
template <class Order>
class HarmlessQueue : public Harmless<Order, HarmlessState<Order>> {
 public:
  using PageState = HarmlessState<Order>;
  void enter(PageState& p, Entry how) noexcept {
    if (how == Entry::New)
      queue_.push_back(p);
    else
      queue_.push_front(p);
  }
  void leave(PageState& p) noexcept { queue_.erase(queue_.s_iterator_to(p)); }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    return first_free(queue_, view);
  }

 protected:
  void make_newest(PageState& p) noexcept { queue_.splice(queue_.end(), queue_, queue_.s_iterator_to(p)); }
  List<PageState, Order> queue_;
};

}  // namespace shadowmmu::reclaim::detail
