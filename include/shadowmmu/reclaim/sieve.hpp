// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/clock.hpp"

namespace shadowmmu::reclaim {

struct SieveState : ListHook<struct SieveQueue> {
  bool strands = false;
};
/// As Clock, but a page with a set A bit stays where it is: a hand goes from old to new over pages in order of
/// creation, so that new pages are looked at early. Source: Zhang et al., "SIEVE is simpler than LRU", NSDI 2024.
/// Cost: as Clock's.
template <bool ClearNewcomer = true>
class Sieve : public detail::Harmless<Sieve<ClearNewcomer>, SieveState> {
 public:
  using PageState = SieveState;
  void enter(PageState& p, detail::Entry how) noexcept {
    if (how == detail::Entry::LostChildren) {
      queue_.push_front(p);
      return;
    }
    queue_.push_back(p);
    if constexpr (ClearNewcomer) newcomer_.set(p);
  }
  void leave(PageState& p) noexcept {
    if (hand_ == &p) hand_ = next(p);
    queue_.erase(queue_.s_iterator_to(p));
    newcomer_.forget(p);
  }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    newcomer_.clear_accessed(view);
    PageState* first = nullptr;  // where nothing but pinned pages is met all the way round, there is no victim
    for (unsigned tests = 0;;) {
      if (queue_.empty()) return nullptr;
      if (hand_ == nullptr) hand_ = &queue_.front();
      PageState& p = *hand_;
      if (view.pinned(p)) {
        if (first == &p) return nullptr;
        if (first == nullptr) first = &p;
      } else {
        first = nullptr;
        if (tests++ >= kMostTests || !view.test_and_clear_accessed(p)) return &p;
      }
      hand_ = next(p);
    }
  }

 private:
  [[nodiscard]] PageState* next(PageState& p) noexcept {
    auto at = queue_.iterator_to(p);
    return ++at == queue_.end() ? nullptr : &*at;
  }
  List<PageState, SieveQueue> queue_;
  PageState* hand_ = nullptr;  ///< nullptr: at the oldest
  detail::Newcomer<PageState> newcomer_;
};
static_assert(Reclaim<Sieve<>>);

}  // namespace shadowmmu::reclaim
