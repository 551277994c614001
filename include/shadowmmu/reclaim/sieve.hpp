// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/clock.hpp"

namespace shadowmmu::reclaim {

/// As Clock, but a page with a set A bit stays where it is: a hand goes from old to new over pages in order of
/// creation, so that new pages are looked at early. Source: Zhang et al., "SIEVE is simpler than LRU", NSDI 2024.
/// Cost: as Clock's.
template <bool ClearNewcomer = true>
class Sieve : public detail::NewcomerQueue<Sieve<ClearNewcomer>, ClearNewcomer> {
  using Base = detail::NewcomerQueue<Sieve, ClearNewcomer>;
  using Base::queue_;

 public:
  using PageState = detail::HarmlessState<Sieve>;
  void leave(PageState& p) noexcept {
    if (hand_ == &p) hand_ = next(p);
    Base::leave(p);
  }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    this->clear_newcomer(view);
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
  PageState* hand_ = nullptr;  ///< nullptr: at the oldest
};
static_assert(Reclaim<Sieve<>>);

}  // namespace shadowmmu::reclaim
