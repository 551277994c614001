// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/generation.hpp"
#include "shadowmmu/core/holding.hpp"

/// The page limit: who goes when it is reached. Obsolete pages always go before the policy is asked.
namespace shadowmmu::core {

/// Pages that one fault or root load may take.
inline constexpr unsigned kPagesAhead = 5;

/// Whether eviction must pass the page by. What is held serves nobody once no entry leads to it.
template <class S>
[[nodiscard]] bool not_now(const typename S::Page& p) noexcept {
  return p.roots != 0 || p.walked || (p.held != 0 && !S::Parents::empty(p.parents));
}

/// What a policy may learn about a page.
template <class S>
class EvictionView {
 public:
  using State = typename S::Reclaim::PageState;
  explicit EvictionView(S& s) noexcept : state_(s) {}
  /// Whether a vCPU uses it as a root or holds it, or the fault under way has walked through it.
  [[nodiscard]] bool pinned(State& p) const noexcept { return not_now<S>(page(p)); }
  [[nodiscard]] unsigned live(State& p) const noexcept { return page(p).live; }
  [[nodiscard]] Level level(State& p) const noexcept { return page(p).role.level(); }
  /// Effects: clears A in the parents' entries that point at p. Returns: whether any was set; false where entries have
  /// no A bit (EPT without A/D, PDPTEs). Flush: none (allowed; may under-report). Complexity: O(parents).
  [[nodiscard]] bool test_and_clear_accessed(State& p) const noexcept {
    bool seen = false;
    state_.stats.add(&Counters::accessed_tests);
    S::Parents::for_each(state_.cells, page(p).parents, [&](EntryHandle e) {
      std::uint64_t& cell = state_.page(e.page()).table[e.entry()];
      std::uint64_t old = S::Memory::template load<Order::Relaxed>(cell);
      const auto cleared = [&]() noexcept { return S::Arch::without_accessed(state_.caps, old); };
      if (!S::Arch::accessed(state_.caps, old) || cleared() == old) return;
      seen = true;
      while (!S::Memory::template compare_exchange<Order::Relaxed>(cell, old, cleared())) {
      }
    });
    return seen;
  }

 private:
  [[nodiscard]] static typename S::Page& page(State& p) noexcept { return static_cast<typename S::Page&>(p); }
  S& state_;
};

/// How room is made: the policy's plan, or the configuration's.
template <class S>
[[nodiscard]] constexpr EvictionPlan plan_of([[maybe_unused]] const S& s) noexcept {
  if constexpr (ReclaimPlans<typename S::Reclaim>)
    return s.reclaim.kPlan;
  else
    return S::Config::kEviction;
}

/// Keeps the pages that a fault or a root load goes through from being evicted by what it creates.
template <class S>
class WalkedPages {
 public:
  WalkedPages() noexcept = default;
  WalkedPages(const WalkedPages&) = delete;
  ~WalkedPages() {
    while (count_ != 0) pages_[--count_]->walked = false;
  }
  void add(typename S::Page& p) noexcept {
    if (p.walked) return;
    p.walked = true;
    pages_[count_++] = &p;
  }
  template <class F>
  void each(F&& f) const noexcept {
    for (unsigned i = 0; i < count_; ++i) f(*pages_[i]);
  }

 private:
  typename S::Page* pages_[4];
  unsigned count_ = 0;
};

template <class S>
[[nodiscard]] std::uint32_t available_pages(const S& s) noexcept {
  return s.used >= s.limit ? 0U : s.limit - s.used;
}

/// Whether the fault under way may evict for a page that it lacks, or may have done so before its walk.
template <class S>
[[nodiscard]] bool near_limit(const S& s) noexcept {
  const EvictionPlan plan = plan_of(s);
  const std::uint32_t before = plan.when == EvictionPlan::When::BeforeWalk ? plan.wanted(s.limit) : 0U;
  return s.limit < s.used + kPagesAhead + before;
}

/// Effects: zaps a victim as the plan says, its children with it or not. Returns: how many pages will be freed.
/// Complexity: that of prepare_zap for each.
template <class S>
std::uint32_t evict_page(S& s, ExclusiveGuard<S>& g, typename S::Page& p, EvictionPlan::Children children) noexcept {
  std::uint32_t freed = 0;
  const bool directory = p.role.level() > Level{1};
  s.stats.add(&Counters::pages_recycled);
  s.stats.add(directory ? &Counters::recycled_directories : &Counters::recycled_entries, directory ? 1 : p.live);
  if (directory) {
    for (unsigned i = 0; i < kEntriesPerTable && p.live != 0; ++i) {
      auto* const linked = child_of(s, p, i);
      if (linked == nullptr) continue;
      auto& child = *linked;
      g.owe(unlink_child(s, g.held(), p, i));
      if (!S::Parents::empty(child.parents)) continue;
      if (children == EvictionPlan::Children::Recursive && !not_now<S>(child))
        freed += evict_page(s, g, child, children);
      else
        s.stats.add(&Counters::recycled_orphans);
    }
  }
  return freed + (prepare_zap(s, g, p) ? 1U : 0U);
}

/// Effects: zaps pages until `want` are available under the limit: obsolete ones, then the policy's victims; settles,
/// so that they are free. A slice ends after `most` of them (more where victims take their children along), or as many
/// as make one critical section. Returns: how many were freed. Flush: one for all, by the guard.
template <class S>
std::uint32_t evict(S& s, ExclusiveGuard<S>& g, std::uint64_t want, std::uint32_t most = ~0U) noexcept {
  std::uint32_t freed = 0;
  unsigned cost = 0;
  const auto enough = [&]() noexcept {
    const bool slice = most != ~0U && (freed >= most || cost >= S::Config::kYieldPages);
    return (slice && freed != 0) || std::uint64_t{s.used - freed} + want <= s.limit;
  };
  while (!enough() && !s.obsolete.empty()) {
    cost += zap_cost<S>(s.obsolete.front());
    freed += zap_obsolete(s, g, 1);
  }
  const EvictionView<S> view(s);
  while (!enough()) {
    auto* victim = s.reclaim.victim(view);
    if (victim == nullptr) break;
    cost += zap_cost<S>(static_cast<typename S::Page&>(*victim));
    freed += evict_page(s, g, static_cast<typename S::Page&>(*victim), plan_of(s).children);
  }
  g.settle();
  return freed;
}

/// Pages evicted in one critical section where more are asked for.
inline constexpr std::uint32_t kEvictAtOnce = 8;

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

/// Effects: zapped pages that wait for their release go. Under a BeforeWalk plan, where fewer than its `low` are
/// available, refills. Returns: false only if not one page can be had then; under DuringWalk that shows when it is
/// needed.
template <class S>
[[nodiscard]] bool make_pages_available(S& s, ExclusiveGuard<S>& g) noexcept {
  const EvictionPlan plan = plan_of(s);
  const auto low = [&]() noexcept { return s.limit < s.used + plan.low; };
  if (low()) g.free_zapped();
  if (!low() || plan.when == EvictionPlan::When::DuringWalk) return true;
  evict(s, g, plan.wanted(s.limit));
  return available_pages(s) != 0 || s.holders != 0;  // what is held fits; the limit is soft by a path
}

/// Effects: as the page is needed that the limit has no room for: makes it, if the plan leaves that to this moment.
/// Returns: whether a page may be created.
template <class S>
[[nodiscard]] bool room_for_page(S& s, ExclusiveGuard<S>& g) noexcept {
  const EvictionPlan plan = plan_of(s);
  if (s.used < s.limit || plan.when == EvictionPlan::When::BeforeWalk) return true;
  g.free_zapped();
  if (s.used >= s.limit && evict(s, g, plan.wanted(s.limit)) == 0 && s.holders != 0) {
    for (auto& v : s.vcpus) let_go(s, v);  // what a guest's own changes left of held paths fills the limit
    evict(s, g, plan.wanted(s.limit));
  }
  return s.used < s.limit;
}

}  // namespace shadowmmu::core
