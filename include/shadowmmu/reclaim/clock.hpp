// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/harmless.hpp"

namespace shadowmmu::reclaim {

/// Accessed bits looked at in one choice of a victim: a bound on its time where CPUs set them as fast as it clears
/// them.
inline constexpr unsigned kMostTests = 64;

namespace detail {
/// The page that was created last. Its fault's retry has set its A bit at once, which tells nothing: the bit is cleared
/// before the next victim is chosen.
template <class PageState>
class Newcomer {
 public:
  void set(PageState& p) noexcept { page_ = &p; }
  void forget(const PageState& p) noexcept {
    if (page_ == &p) page_ = nullptr;
  }
  template <class View>
  void clear_accessed(const View& view) noexcept {
    if (page_ != nullptr) static_cast<void>(view.test_and_clear_accessed(*page_));
    page_ = nullptr;
  }

 private:
  PageState* page_ = nullptr;
};
}  // namespace detail

struct ClockState : ListHook<struct ClockQueue> {
  bool strands = false;
};
/// Second chance: the oldest page that strands no child whose A bit is clear; those with a set bit have it cleared and
/// become the newest. Source: Corbato, 1968. `ClearNewcomer`: see detail::Newcomer.
/// Cost: 24 bytes a page; amortized, victim looks at as many A bits as were set; kMostTests at most.
template <bool ClearNewcomer = true>
class Clock : public detail::Harmless<Clock<ClearNewcomer>, ClockState> {
 public:
  using PageState = ClockState;
  void enter(PageState& p, detail::Entry how) noexcept {
    if (how == detail::Entry::LostChildren) {
      queue_.push_front(p);
      return;
    }
    queue_.push_back(p);
    if constexpr (ClearNewcomer) newcomer_.set(p);
  }
  void leave(PageState& p) noexcept {
    queue_.erase(queue_.s_iterator_to(p));
    newcomer_.forget(p);
  }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    newcomer_.clear_accessed(view);
    for (unsigned tests = 0; tests < kMostTests; ++tests) {
      PageState* p = detail::first_free(queue_, view);
      if (p == nullptr || !view.test_and_clear_accessed(*p)) return p;
      queue_.splice(queue_.end(), queue_, queue_.s_iterator_to(*p));
    }
    return detail::first_free(queue_, view);
  }

 private:
  List<PageState, ClockQueue> queue_;
  detail::Newcomer<PageState> newcomer_;
};
static_assert(Reclaim<Clock<>>);

}  // namespace shadowmmu::reclaim
