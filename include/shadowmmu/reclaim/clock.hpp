// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/harmless.hpp"

namespace shadowmmu::reclaim {

/// Accessed bits looked at in one choice of a victim: a bound on its time where CPUs set them as fast as it clears
/// them.
inline constexpr unsigned kMostTests = 64;

namespace detail {
/// A queue that knows the page that was created last. Its fault's retry has set its A bit at once, which tells nothing:
/// with `Clear` the bit is cleared before the next victim is chosen.
template <class Order, bool Clear>
class NewcomerQueue : public HarmlessQueue<Order> {
 public:
  using PageState = HarmlessState<Order>;
  void enter(PageState& p, Entry how) noexcept {
    HarmlessQueue<Order>::enter(p, how);
    if (Clear && how == Entry::New) newcomer_ = &p;
  }
  void leave(PageState& p) noexcept {
    HarmlessQueue<Order>::leave(p);
    if (newcomer_ == &p) newcomer_ = nullptr;
  }

 protected:
  template <class View>
  void clear_newcomer(const View& view) noexcept {
    if (newcomer_ != nullptr) static_cast<void>(view.test_and_clear_accessed(*newcomer_));
    newcomer_ = nullptr;
  }

 private:
  PageState* newcomer_ = nullptr;
};
}  // namespace detail

/// Second chance: the oldest page that strands no child whose A bit is clear; those with a set bit have it cleared and
/// become the newest. Source: Corbato, 1968. `ClearNewcomer`: see detail::NewcomerQueue.
/// Cost: 24 bytes a page; amortized, victim looks at as many A bits as were set; kMostTests at most.
template <bool ClearNewcomer = true>
class Clock : public detail::NewcomerQueue<Clock<ClearNewcomer>, ClearNewcomer> {
 public:
  using PageState = detail::HarmlessState<Clock>;
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    this->clear_newcomer(view);
    for (unsigned tests = 0; tests < kMostTests; ++tests) {
      PageState* p = detail::first_free(this->queue_, view);
      if (p == nullptr || !view.test_and_clear_accessed(*p)) return p;
      this->make_newest(*p);
    }
    return detail::first_free(this->queue_, view);
  }
};
static_assert(Reclaim<Clock<>>);

}  // namespace shadowmmu::reclaim
