// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <utility>

#include "shadowmmu/concepts/lock.hpp"
#include "shadowmmu/core/batch.hpp"
#include "shadowmmu/flush.hpp"

namespace shadowmmu::core {

class Sync;

/// A range of gfns that a walk goes through once, upwards.
struct GfnCursor {
  Gfn next{};
  Gfn end{};
};

/// What a walk that others may undo tries so often, and then no more.
struct Attempts {
  unsigned left = 0;
};

/// Proof that a walk which lets the lock go ends all the same: it takes from a list to which nothing is added, moves a
/// cursor upwards, leaves its number on what it has taken, or counts its attempts. Counts the work since the last
/// yield. A walk over live pages need not end, since vCPUs add to them at every yield: it has no Progress.
class Progress {
 public:
  template <class Page>
  explicit Progress(const ObsoletePages<Page>&) noexcept {}
  explicit Progress(const GfnCursor&) noexcept {}
  explicit Progress(const Sync&) noexcept {}
  explicit Progress(const Attempts&) noexcept {}
  template <class Page>
  explicit Progress(const LivePages<Page>&) = delete;
  /// Effects: so many more pages (or their like in work) are done; childless ones count.
  void add(unsigned pages) noexcept { since_ += pages; }
  [[nodiscard]] unsigned since_yield() const noexcept { return since_; }
  void yielded() noexcept { since_ = 0; }

 private:
  unsigned since_ = 0;
};

/// Holds the Mmu's lock and what the critical section owes: a flush, and pages to be freed after it. Settles both
/// before it unlocks or yields, so that neither can be forgotten on any path. A function that takes the guard itself
/// may yield; one that takes a Held cannot.
template <class S>
class ExclusiveGuard : Mint<typename S::Lock> {
  using Lock = typename S::Lock;

 public:
  explicit ExclusiveGuard(S& s) noexcept : state_(s), debt_(s), unseen_(s) { state_.lock.lock(); }
  ExclusiveGuard(const ExclusiveGuard&) = delete;
  ~ExclusiveGuard() {
    if (flush_.needed() || pages_wait()) settle();
    state_.lock.unlock();
  }
  [[nodiscard]] Held<Lock, Cap::Structure> held() const& noexcept {
    return this->template mint<Cap::Structure>(state_.lock);
  }
  void held() && = delete;

  /// Effects: the flush will be done before the lock is released.
  void owe(FlushOwed f) noexcept { flush_ |= f; }
  /// Effects: the zapped page will be freed: after a flush, or without one where no hardware can see it.
  void dispose(typename S::Page& p, bool unseen) noexcept {
    p.life = PageLife::Zapped;
    if (unseen)
      Disposal<S>::push_unseen(state_, held(), unseen_, p);
    else
      debt_.push(p);
  }
  /// Effects: does the flush that is owed so far, all of it, now; pages in the debt wait for their own. For whoever is
  /// about to read guest tables that no CPU may write unseen: also what an earlier step of the same section took away.
  void discharge() noexcept {
    if (flush_.needed()) state_.flush(std::exchange(flush_, FlushOwed::none()));
  }
  /// Effects: frees the pages that owe no flush. Flush: none.
  void free_unseen() noexcept {
    if (unseen_.empty()) return;
    Batch<S, Stage::Flushed> due(std::move(unseen_));
    Disposal<S>::retire(state_, held(), std::move(due), true);
  }
  /// Effects: flushes and frees now, still under the lock. Flush: done where owed.
  void settle() noexcept {
    free_unseen();
    if (!debt_.empty() || !state_.dropped.empty()) {
      flush_ = FlushOwed::none();  // the batch's own flush covers it
      Batch<S, Stage::Zapped> due(std::move(debt_));
      Disposal<S>::commit(state_, this->template mint<Cap::Structure>(state_.lock), std::move(due));
    } else if (flush_.needed()) {
      state_.flush(std::exchange(flush_, FlushOwed::none()));
    }
  }
  /// Effects: settles where pages have been zapped: they are room that nobody else need be evicted for.
  void free_zapped() noexcept {
    if (pages_wait()) settle();
  }
  /// Effects: settles; what waits for readers is freed too, once they are through.
  void settle_for_good() noexcept {
    settle();
    Disposal<S>::complete(state_, held());
  }
  /// Effects: `pages` more pages (or their like in work) are done. After enough of them, where somebody waits for the
  /// lock or the Host asks, settles, lets the lock go and takes it again. Returns: whether it did; then whatever is not
  /// pinned by another lock may have changed.
  bool yield_after(Progress& walk, unsigned pages) noexcept {
    walk.add(pages);
    if (walk.since_yield() < S::Config::kYieldPages) return false;
    if (!state_.lock.contended() && !state_.host.should_yield()) return false;
    settle();
    state_.stats.add(&Counters::yields);
    state_.lock.unlock();
    state_.lock.lock();
    walk.yielded();
    return true;
  }

 private:
  [[nodiscard]] bool pages_wait() const noexcept {
    return !debt_.empty() || !unseen_.empty() || !state_.dropped.empty();
  }
  S& state_;
  Batch<S, Stage::Zapped> debt_;
  Batch<S, Stage::Flushed> unseen_;
  FlushOwed flush_;
};

template <class S>
using Structure = Held<typename S::Lock, Cap::Structure>;
template <class S>
using Entries = Held<typename S::Lock, Cap::Entries>;
template <class S>
using RmapHeld = Held<typename S::Lock, Cap::Rmap>;

}  // namespace shadowmmu::core
