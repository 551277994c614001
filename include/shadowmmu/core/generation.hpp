// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/config.hpp"
#include "shadowmmu/core/zap.hpp"

/// Zapping all pages: a new generation makes them obsolete at once; they are freed afterwards, in batches, by the one
/// deletion path, with yields.
namespace shadowmmu::core {

/// The slots lock as a scope: memslot updates and generation changes serialize on it. Taken before, never inside, the
/// Mmu's lock.
template <class S>
class SlotsScope {
 public:
  explicit SlotsScope(S& s) noexcept : lock_(s.slots_lock) { lock_.lock(); }
  SlotsScope(const SlotsScope&) = delete;
  ~SlotsScope() { lock_.unlock(); }

 private:
  typename S::Lock& lock_;
};

template <class S>
class Generations {
 public:
  /// Effects: a new generation: every linked page becomes obsolete in O(1), readers find no root any more and every
  /// vCPU is asked to reload its own, in one critical section, so that none sees the new generation without. A value
  /// that some page still bears is not used again: such pages go first. Complexity: O(vCPUs). Requires: the slots lock.
  static void begin(S& s, ExclusiveGuard<S>& g) noexcept {
    const auto next = static_cast<typename S::Generation>(s.generation + 1U);
    while (!s.obsolete.empty() && s.obsolete.front().generation == next)
      static_cast<void>(prepare_zap(s, g, s.obsolete.front()));
    s.generation = next;
    s.generations += 1;
    s.stats.add(&Counters::generations);
    s.obsolete.take_over(s.live);
    s.epoch += 1;
    for (auto& v : s.vcpus) hide_root<S>(v);
    request_reload(s, g.held());
  }
  /// Effects: every vCPU leaves its old root and forgets its translations; what is freed of earlier generations from
  /// now on owes no flush. The kick comes first: a vCPU still in the guest could refill its TLB after a flush.
  /// Requires: the slots lock; the Mmu's lock not held. Complexity: O(vCPUs).
  static void cover(S& s) noexcept {
    s.host.kick_and_wait(kAllVcpus);
    s.flush_unlocked(FlushOwed::all());
    const ExclusiveGuard<S> g(s);
    s.covered = s.generations;
  }
  /// Effects: zaps and frees every obsolete page, yielding the lock on the way. Requires: the slots lock, so that the
  /// list only shrinks.
  static void finish(S& s) noexcept {
    ExclusiveGuard<S> g(s);
    Progress walk(s.obsolete);
    unsigned waiting = 0;
    while (!s.obsolete.empty()) {
      const unsigned cost = zap_cost<S>(s.obsolete.front());
      prepare_zap(s, g, s.obsolete.front());
      if (++waiting % kFreeAtOnce == 0) g.free_unseen();
      g.yield_after(walk, cost);
    }
  }
  /// Pages that are freed together: a waiter for the lock must not find a long queue of them.
  static constexpr unsigned kFreeAtOnce = 16;
};

/// Effects: every shadow page is obsolete from here on and freed when this returns; roots in use as soon as their vCPU
/// has loaded another, which each does before it enters again. Flush: one, after one kick.
template <class S>
void zap_all_fast(S& s) noexcept {
  const SlotsScope<S> scope(s);
  {
    ExclusiveGuard<S> g(s);
    Generations<S>::begin(s, g);
  }
  Generations<S>::cover(s);
  Generations<S>::finish(s);
}

/// Effects: the first half of zap_all_fast only: the pages are left to reclaim, which takes them before any other.
template <class S>
void obsolete_all(S& s) noexcept {
  const SlotsScope<S> scope(s);
  ExclusiveGuard<S> g(s);
  Generations<S>::begin(s, g);
}

/// Effects: zaps obsolete pages, oldest first, until `budget` of them are to be freed, or as many as make one critical
/// section. Returns: how many are to be freed; roots in use, which only their vCPUs can let go, do not count.
template <class S>
std::uint32_t zap_obsolete(S& s, ExclusiveGuard<S>& g, std::uint32_t budget) noexcept {
  std::uint32_t n = 0;
  for (unsigned cost = 0; n < budget && !s.obsolete.empty() && cost < S::Config::kYieldPages;) {
    cost += zap_cost<S>(s.obsolete.front());
    n += prepare_zap(s, g, s.obsolete.front()) ? 1U : 0U;
  }
  return n;
}
/// Effects: frees up to `budget` obsolete pages, the lock let go between slices. Returns: how many. Flush: done.
template <class S>
std::uint32_t reclaim_obsolete(S& s, std::uint32_t budget) noexcept {
  std::uint32_t freed = 0;
  for (bool more = true; more && freed < budget;) {
    ExclusiveGuard<S> g(s);
    freed += zap_obsolete(s, g, budget - freed);
    g.settle_for_good();
    more = !s.obsolete.empty();
  }
  return freed;
}

/// Effects: gives obsolete pages, and zapped ones that wait (for readers, too), back to the Host. Returns: whether
/// there were any: a Host that had no frame may have one now. Locking: takes the lock.
template <class S>
[[nodiscard]] bool relieve(S& s) noexcept {
  ExclusiveGuard<S> g(s);
  if (s.obsolete.empty() && s.dropped.empty() && s.deferred.count() == 0) return false;
  static_cast<void>(zap_obsolete(s, g, Generations<S>::kFreeAtOnce));
  g.settle_for_good();
  return true;
}
/// Returns: a zeroed frame; nullptr only where the Host has none and no obsolete page is left. Locking: none held.
template <class S>
[[nodiscard]] void* fresh_frame(S& s, FrameKind kind) noexcept {
  for (;;) {
    void* p = Magazine::fresh(s.host, kind);
    if (p != nullptr || !relieve(s)) return p;
  }
}

/// Effects: the VM ends: every page is zapped and freed. Requires: no vCPU is in the guest, nor enters it meanwhile.
template <class S>
void release_all(S& s) noexcept {
  if constexpr (S::Config::kTeardown == config::Teardown::Yield) {
    zap_all_fast(s);
    ExclusiveGuard<S> g(s);
    g.settle_for_good();
  } else {
    const SlotsScope<S> scope(s);
    ExclusiveGuard<S> g(s);
    Generations<S>::begin(s, g);
    s.flush(FlushOwed::all());
    s.covered = s.generations;
    while (!s.obsolete.empty()) {
      static_cast<void>(zap_obsolete(s, g, Generations<S>::kFreeAtOnce));
      g.free_unseen();
    }
    g.settle_for_good();
  }
}

}  // namespace shadowmmu::core
