// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <utility>

#include "shadowmmu/concepts/lock.hpp"
#include "shadowmmu/core/page.hpp"
#include "shadowmmu/flush.hpp"
#include "shadowmmu/stats.hpp"

namespace shadowmmu::core {

/// Where zapped pages stand: unlinked, then no TLB names them, then no reader does. Only Quiet pages are released.
enum class Stage : std::uint8_t { Zapped, Flushed, Quiet };

/// Pages that no TLB knows any more and a reader may still look at, until a grace period has passed. In two lots: the
/// period of one is under way while the other fills, so that readers are looked at once in half of
/// Config::kDeferredPages pages.
template <class Pages>
struct Deferred {
  Pages waiting;  ///< for `period` to pass
  Pages filling;
  std::uint64_t period = 0;
  std::uint32_t waits = 0;  ///< pages of `waiting`
  std::uint32_t fills = 0;  ///< pages of `filling`
  [[nodiscard]] std::uint32_t count() const noexcept { return waits + fills; }
};

/// Pages on their way out. The stage is in the type, so that a page cannot be freed before its flush. A batch that is
/// dropped is not lost: its pages go back to the Mmu's debt, as Zapped, to be flushed by whoever settles next.
/// `S` is core::State.
template <class S, Stage G>
class [[nodiscard]] Batch {
 public:
  using Pages = PageList<typename S::Page>;

  explicit Batch(S& s) noexcept requires(G != Stage::Quiet) : state_(&s) {}
  Batch(Batch&& o) noexcept : state_(o.state_) { pages_.swap(o.pages_); }
  Batch& operator=(Batch&&) = delete;
  ~Batch() {
    if (!pages_.empty()) state_->dropped.splice(state_->dropped.end(), pages_);
  }
  /// Effects: takes over o's pages. O(1).
  void absorb(Batch&& o) noexcept { pages_.splice(pages_.end(), o.pages_); }
  [[nodiscard]] bool empty() const noexcept { return pages_.empty(); }
  /// Requires: p is unlinked from every structure and on no list.
  void push(typename S::Page& p) noexcept requires(G == Stage::Zapped) { pages_.push_back(p); }

 private:
  template <class, Stage>
  friend class Batch;
  template <class>
  friend class Disposal;
  template <Stage F>
  explicit Batch(Batch<S, F>&& o) noexcept : state_(o.state_) {
    pages_.swap(o.pages_);
  }
  S* state_;
  Pages pages_;
};

/// The transitions, and the only way to release a shadow page.
template <class S>
class Disposal {
 public:
  template <Stage G>
  using B = Batch<S, G>;
  using Structure = Held<typename S::Lock, Cap::Structure>;

  /// Effects: one flush of paging structures for all of b and whatever was dropped before; it starts after the last
  /// unlink, since b is complete. Flush: done. Locking: the Mmu's lock is held.
  [[nodiscard]] static B<Stage::Flushed> flush(S& s, Structure h, B<Stage::Zapped>&& b) noexcept {
    h.verify(s.lock);
    b.pages_.splice(b.pages_.end(), s.dropped);
    if (!b.pages_.empty()) s.flush(FlushOwed::all());
    return B<Stage::Flushed>{std::move(b)};
  }
  /// Effects: puts a page of an earlier generation behind the flush at once. Requires: s.obsolete_unseen(): one reload
  /// and one flush of every vCPU, begun after the generation changed, serve all of its pages.
  static void push_unseen(S& s, Structure h, B<Stage::Flushed>& b, typename S::Page& p) noexcept {
    h.verify(s.lock);
    b.pages_.push_back(p);
  }
  /// Effects: waits until no reader can hold a pointer into b. Where readers of tables take the lock, holding it is
  /// the proof; where a flush waits for them, the flush is, if it came after the unlinking (`unseen` pages had theirs
  /// before).
  [[nodiscard]] static B<Stage::Quiet> wait_readers(S& s, Structure h, B<Stage::Flushed>&& b, bool unseen) noexcept {
    h.verify(s.lock);
    if constexpr (S::kLockless) {
      if constexpr (!S::Grace::kByFlush)
        s.grace.wait();
      else if (unseen)
        s.flush(FlushOwed::all());
    }
    return B<Stage::Quiet>{std::move(b)};
  }
  /// Effects: frees table frames and metadata. Complexity: O(pages in b).
  static void release(S& s, B<Stage::Quiet>&& b) noexcept {
    while (!b.pages_.empty()) {
      auto& p = b.pages_.front();
      b.pages_.pop_front();
      s.free_page(p);
    }
  }
  /// Effects: b will be released, here or by a later call: a grace period is begun for as many pages as make it worth
  /// while. Where more than Config::kDeferredPages would wait, all of them are waited for, now. Complexity: O(pages of
  /// b and of those that are released); O(readers) once in kDeferredPages / 2 pages.
  static void retire(S& s, Structure h, B<Stage::Flushed>&& b, bool unseen) noexcept {
    const auto n = static_cast<std::uint32_t>(b.pages_.size());
    s.used -= n;
    s.stats.set(&Counters::pages_used, s.used);
    s.stats.trough(&Counters::pages_used_lowest, s.used);
    if constexpr (!kDefers) {
      release(s, wait_readers(s, h, std::move(b), unseen));
    } else {
      auto& d = s.deferred;
      constexpr std::uint32_t kMost = S::Config::kDeferredPages;
      s.stats.add(&Counters::pages_deferred, n);
      // Looked at before anybody waits; a lot that falls due in several retirements is looked at again in each.
      const bool due = 2 * (d.fills + n) >= kMost || d.count() + n > kMost;
      if (d.waits != 0 && due && s.grace.passed(d.period)) release(s, take_waiting(s));
      if (d.count() + n > kMost) {
        s.stats.add(&Counters::reader_waits);
        complete(s, h, std::move(b));
        return;
      }
      d.filling.splice(d.filling.end(), b.pages_);
      d.fills += n;
      if (d.waits == 0 && 2 * d.fills >= kMost) {
        d.waiting.swap(d.filling);
        d.waits = std::exchange(d.fills, 0U);
        d.period = s.grace.begin();
      }
      s.stats.set(&Counters::pages_deferred_now, d.count());
      s.stats.peak(&Counters::pages_deferred_highest, d.count());
    }
  }
  /// Effects: waits for readers where pages wait for them, those of `all` included, and releases these. Locking: the
  /// Mmu's lock is held.
  static void complete(S& s, Structure h) noexcept { complete(s, h, B<Stage::Flushed>(s)); }
  static void complete(S& s, Structure h, B<Stage::Flushed>&& all) noexcept {
    if constexpr (kDefers) {
      auto& d = s.deferred;
      if (d.count() == 0 && all.pages_.empty()) return;
      all.pages_.splice(all.pages_.end(), d.waiting);
      all.pages_.splice(all.pages_.end(), d.filling);
      d.waits = d.fills = 0;
      release(s, wait_readers(s, h, std::move(all), false));
      s.stats.set(&Counters::pages_deferred_now, 0);
    }
  }
  static void commit(S& s, Structure h, B<Stage::Zapped>&& b) noexcept {
    retire(s, h, flush(s, h, std::move(b)), false);
  }

 private:
  static constexpr bool kDefers = S::kLockless && !S::Grace::kByFlush;
  /// Requires: their period has passed.
  [[nodiscard]] static B<Stage::Quiet> take_waiting(S& s) noexcept {
    B<Stage::Flushed> b(s);
    b.pages_.swap(s.deferred.waiting);
    s.deferred.waits = 0;
    return B<Stage::Quiet>{std::move(b)};
  }
};

}  // namespace shadowmmu::core
