// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/generation.hpp"

/// The page limit: who goes when it is reached. Obsolete pages always go before the policy is asked.
namespace shadowmmu::core {

/// What a policy may learn about a page.
template <class S>
class EvictionView {
 public:
  using State = typename S::Reclaim::PageState;
  explicit EvictionView(S& s) noexcept : state_(s) {}
  [[nodiscard]] bool pinned(State& p) const noexcept { return page(p).roots != 0; }
  [[nodiscard]] unsigned live(State& p) const noexcept { return page(p).live; }
  [[nodiscard]] Level level(State& p) const noexcept { return page(p).role.level(); }
  /// Whether evicting it strands children: it is a directory with entries.
  [[nodiscard]] bool orphans(State& p) const noexcept { return page(p).role.level() > Level{1} && page(p).live != 0; }
  /// Effects: clears A in the parents' entries that point at p. Flush: none (allowed; may under-report).
  [[nodiscard]] bool test_and_clear_accessed(State& p) const noexcept {
    bool seen = false;
    S::Parents::for_each(state_.cells, page(p).parents, [&](EntryHandle e) {
      std::uint64_t& cell = state_.page(e.page()).table[e.entry()];
      std::uint64_t old = S::Memory::template load<Order::Relaxed>(cell);
      if (!S::Arch::accessed(state_.caps, old)) return;
      seen = true;
      while (!S::Memory::template compare_exchange<Order::Relaxed>(cell, old,
                                                                   S::Arch::without_accessed(state_.caps, old))) {
      }
    });
    return seen;
  }

 private:
  [[nodiscard]] static typename S::Page& page(State& p) noexcept { return static_cast<typename S::Page&>(p); }
  S& state_;
};

template <class S>
[[nodiscard]] std::uint32_t available_pages(const S& s) noexcept {
  return s.used >= s.limit ? 0U : s.limit - s.used;
}

/// Effects: zaps pages until `want` are available under the limit, `most` at most: obsolete ones, then the policy's
/// victims; settles, so that they are free. Returns: how many were freed. Flush: one for all, by the guard.
template <class S>
std::uint32_t evict(S& s, ExclusiveGuard<S>& g, std::uint64_t want, std::uint32_t most = ~0U) noexcept {
  std::uint32_t freed = 0;
  const auto enough = [&]() noexcept { return freed >= most || std::uint64_t{s.used - freed} + want <= s.limit; };
  while (!enough() && !s.obsolete.empty()) freed += zap_obsolete(s, g, 1);
  const EvictionView<S> view(s);
  while (!enough()) {
    auto* victim = s.reclaim.victim(view);
    if (victim == nullptr) break;
    freed += prepare_zap(s, g, static_cast<typename S::Page&>(*victim)) ? 1U : 0U;
    s.stats.add(&Counters::pages_recycled);
  }
  g.settle();
  return freed;
}

/// Pages evicted in one critical section where more are asked for.
inline constexpr std::uint32_t kEvictAtOnce = 64;

/// Effects: frees up to n pages, the lock let go between slices. Returns: how many.
template <class S>
std::uint32_t shrink_by(S& s, std::uint32_t n) noexcept {
  std::uint32_t freed = 0;
  while (freed < n) {
    ExclusiveGuard<S> g(s);
    const std::uint32_t slice = n - freed < kEvictAtOnce ? n - freed : kEvictAtOnce;
    const std::uint32_t now = evict(s, g, std::uint64_t{s.limit} + slice, slice);
    g.settle_for_good();
    freed += now;
    if (now == 0) break;
  }
  return freed;
}

/// Effects: where fewer than kLowPages are available, refills to kRefillPages (less under a small limit). Returns:
/// false only if not one page can be had. Zapped pages that wait for their release go first.
template <class S>
[[nodiscard]] bool make_pages_available(S& s, ExclusiveGuard<S>& g) noexcept {
  const std::uint32_t low = S::Config::kLowPages;
  if (s.limit >= s.used + low) return true;
  if (!s.dropped.empty()) g.settle();
  const std::uint32_t half = s.limit / 2 > low ? s.limit / 2 : low;
  evict(s, g, half < S::Config::kRefillPages ? half : S::Config::kRefillPages);
  return available_pages(s) != 0;
}

}  // namespace shadowmmu::core
