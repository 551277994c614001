// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/intrusive.hpp"

namespace shadowmmu::reclaim {

namespace detail {

/// The first page of a queue that is not pinned, or nullptr.
template <class Queue, class View>
[[nodiscard]] auto* first_free(Queue& queue, const View& view) noexcept {
  for (auto& p : queue)
    if (!view.pinned(p)) return &p;
  return static_cast<typename Queue::value_type*>(nullptr);
}

/// Pages in order of creation, unless a policy moves them.
template <class State, class Tag>
class OldestFirst {
 public:
  using PageState = State;
  void on_create(State& p, PageFacts) noexcept { queue_.push_back(p); }
  void on_remove(State& p) noexcept { queue_.erase(queue_.s_iterator_to(p)); }
  template <ReclaimView<State> View>
  [[nodiscard]] State* victim(const View& view) noexcept {
    return first_free(queue_, view);
  }

 protected:
  List<State, Tag> queue_;
};

struct FifoState : ListHook<FifoState> {};

}  // namespace detail

/// Oldest shadow page first, by creation: the historical order. Its flaw: the oldest page may be a directory that has
/// just been given a child. Sees neither hits nor links. Source: Linux, arch/x86/kvm (2007 on), without its batches.
/// Cost: 16 bytes a page; victim is O(1 + pinned pages passed over).
class Fifo : public detail::OldestFirst<detail::FifoState, detail::FifoState> {
 public:
  static constexpr Hook kHooks = Hook::None;
};
static_assert(Reclaim<Fifo>);

}  // namespace shadowmmu::reclaim
