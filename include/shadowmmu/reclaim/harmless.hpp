// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/intrusive.hpp"

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

/// The first page of a queue that is not pinned, or nullptr.
template <class Queue, class View>
[[nodiscard]] auto* first_free(Queue& queue, const View& view) noexcept {
  for (auto& p : queue)
    if (!view.pinned(p)) return &p;
  return static_cast<typename Queue::value_type*>(nullptr);
}

}  // namespace shadowmmu::reclaim::detail
