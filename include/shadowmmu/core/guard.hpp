// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <utility>

#include "shadowmmu/concepts/lock.hpp"
#include "shadowmmu/core/batch.hpp"
#include "shadowmmu/flush.hpp"

namespace shadowmmu::core {

/// Holds the Mmu's lock and what the critical section owes: a flush, and pages to be freed after it. Settles both
/// before it unlocks or yields, so that neither can be forgotten on any path. A function that takes the guard itself
/// may yield; one that takes a Held cannot.
template <class S>
class ExclusiveGuard : Mint<typename S::Lock> {
  using Lock = typename S::Lock;

 public:
  explicit ExclusiveGuard(S& s) noexcept : state_(s), debt_(s) { state_.lock.lock(); }
  ExclusiveGuard(const ExclusiveGuard&) = delete;
  ~ExclusiveGuard() {
    if (flush_.needed() || !debt_.empty() || !state_.dropped.empty()) settle();
    state_.lock.unlock();
  }
  [[nodiscard]] Held<Lock, Cap::Structure> held() const& noexcept {
    return this->template mint<Cap::Structure>(state_.lock);
  }
  void held() && = delete;

  /// Effects: the flush will be done before the lock is released.
  void owe(FlushOwed f) noexcept { flush_ |= f; }
  /// Where zapped pages go.
  [[nodiscard]] Batch<S, Stage::Zapped>& debt() noexcept { return debt_; }
  /// Effects: does the flush that is owed so far, all of it, now; pages in the debt wait for their own. For whoever is
  /// about to read guest tables that no CPU may write unseen: also what an earlier step of the same section took away.
  void discharge() noexcept {
    if (flush_.needed()) state_.flush(std::exchange(flush_, FlushOwed::none()));
  }
  /// Effects: flushes and frees now, still under the lock. Flush: done.
  void settle() noexcept {
    if (!debt_.empty() || !state_.dropped.empty()) {
      flush_ = FlushOwed::none();  // the batch's own flush covers it
      Batch<S, Stage::Zapped> due(std::move(debt_));
      Disposal<S>::commit(state_, this->template mint<Cap::Structure>(state_.lock), std::move(due));
    } else if (flush_.needed()) {
      state_.flush(std::exchange(flush_, FlushOwed::none()));
    }
  }
  /// Effects: where somebody waits for the lock, settles, lets it go and takes it again. Returns: whether it did.
  bool yield() noexcept {
    if (!state_.lock.contended()) return false;
    settle();
    state_.lock.unlock();
    state_.lock.lock();
    return true;
  }

 private:
  S& state_;
  Batch<S, Stage::Zapped> debt_;
  FlushOwed flush_;
};

template <class S>
using Structure = Held<typename S::Lock, Cap::Structure>;
template <class S>
using Entries = Held<typename S::Lock, Cap::Entries>;
template <class S>
using RmapHeld = Held<typename S::Lock, Cap::Rmap>;

}  // namespace shadowmmu::core
