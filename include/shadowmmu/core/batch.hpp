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
  /// Effects: waits until no lockless reader can hold a pointer into b. Readers of tables take the lock in this
  /// version's lock policies, so holding it is the proof.
  [[nodiscard]] static B<Stage::Quiet> wait_readers(S&, B<Stage::Flushed>&& b) noexcept {
    return B<Stage::Quiet>{std::move(b)};
  }
  /// Effects: frees table frames and metadata. Complexity: O(pages in b).
  static void release(S& s, B<Stage::Quiet>&& b) noexcept {
    while (!b.pages_.empty()) {
      auto& p = b.pages_.front();
      b.pages_.pop_front();
      s.free_page(p);
    }
    s.stats.trough(&Counters::pages_used_lowest, s.used);
  }
  static void commit(S& s, Structure h, B<Stage::Zapped>&& b) noexcept {
    release(s, wait_readers(s, flush(s, h, std::move(b))));
  }
};

}  // namespace shadowmmu::core
