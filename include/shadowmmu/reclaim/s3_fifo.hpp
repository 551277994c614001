// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/clock.hpp"

namespace shadowmmu::reclaim {

namespace detail {
/// Remembers the last `Size` identities in 4 bytes each, in a ring that is searched by hash: what has been pushed out,
/// or overwritten by another of the same hash, is forgotten early. Invariant: a slot of `at_` is a hint, `ring_`
/// decides.
template <unsigned Size>
class Ghosts {
  static_assert((Size & (Size - 1)) == 0);

 public:
  void add(std::uint64_t identity) noexcept {
    const std::uint32_t h = hash(identity);
    ring_[next_ % Size] = h;
    at_[h % Size] = next_ % Size;
    ++next_;
  }
  /// Returns: whether it was among the last `most`.
  [[nodiscard]] bool holds(std::uint64_t identity, std::uint32_t most) const noexcept {
    const std::uint32_t h = hash(identity);
    const std::uint32_t at = at_[h % Size];
    return ring_[at] == h && (next_ - 1U - at) % Size < most;
  }

 private:
  /// Never 0, which is what an unused slot holds.
  [[nodiscard]] static std::uint32_t hash(std::uint64_t identity) noexcept {
    return static_cast<std::uint32_t>(identity * 0x9e37'79b9'7f4a'7c15U >> 32U) | 1U;
  }
  std::uint32_t ring_[Size] = {};
  std::uint32_t at_[Size] = {};
  std::uint32_t next_ = 0;
};
}  // namespace detail

struct S3FifoState : ListHook<struct S3FifoQueue> {
  std::uint32_t identity = 0;
  bool strands = false;
  bool main = false;
};
/// New pages go into a small queue, a tenth of all; those whose A bit is set when they come to its end move on to the
/// main queue, which is a Clock; the others are evicted and remembered, and return to the main queue at once.
/// Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, with one A bit for its counter.
/// Cost: 24 bytes a page, 8 bytes a ghost (`Remembered`); as Clock's.
template <unsigned Remembered = 1024>
class S3Fifo : public detail::Harmless<S3Fifo<Remembered>, S3FifoState> {
 public:
  using PageState = S3FifoState;
  void on_create(PageState& p, PageFacts f) noexcept {
    p.identity = static_cast<std::uint32_t>(f.identity >> 32U ^ f.identity * 0x9e37'79b1U);
    p.main = ghosts_.holds(p.identity, main_pages_);
    detail::Harmless<S3Fifo, S3FifoState>::on_create(p, f);
  }
  void enter(PageState& p, detail::Entry how) noexcept {
    auto& queue = p.main ? main_ : small_;
    (p.main ? main_pages_ : small_pages_) += 1;
    if (how == detail::Entry::New)
      queue.push_back(p);
    else
      queue.push_front(p);
  }
  void leave(PageState& p) noexcept {
    (p.main ? main_pages_ : small_pages_) -= 1;
    small_.erase(small_.s_iterator_to(p));
  }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    for (unsigned tests = 0; tests < kMostTests; ++tests) {
      const bool small_first = small_pages_ * 10 >= small_pages_ + main_pages_;
      PageState* p = detail::first_free(small_first ? small_ : main_, view);
      if (p == nullptr) p = detail::first_free(small_first ? main_ : small_, view);
      if (p == nullptr) return nullptr;
      if (!view.test_and_clear_accessed(*p)) return give_up(*p);
      leave(*p);
      p->main = true;
      enter(*p, detail::Entry::New);
    }
    PageState* p = detail::first_free(small_, view);
    if (p == nullptr) p = detail::first_free(main_, view);
    return p == nullptr ? nullptr : give_up(*p);
  }

 private:
  [[nodiscard]] PageState* give_up(PageState& p) noexcept {
    if (!p.main) ghosts_.add(p.identity);
    return &p;
  }
  List<PageState, S3FifoQueue> small_;
  List<PageState, S3FifoQueue> main_;
  std::uint32_t small_pages_ = 0;
  std::uint32_t main_pages_ = 0;
  detail::Ghosts<Remembered> ghosts_;
};
static_assert(Reclaim<S3Fifo<>>);

}  // namespace shadowmmu::reclaim
