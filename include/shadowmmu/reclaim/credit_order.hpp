// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstdint>

#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/intrusive.hpp"
#include "shadowmmu/reclaim/clock.hpp"
#include "shadowmmu/reclaim/harmless.hpp"

/// GreedyDual (Young, 1994) for shadow pages: what its policies have in common.
namespace shadowmmu::reclaim::detail {

/// Returns: the largest integer whose square is at most n.
[[nodiscard]] constexpr std::uint32_t square_root(std::uint32_t n) noexcept {
  std::uint32_t root = 0;
  for (std::uint32_t bit = std::uint32_t{1} << 15U; bit != 0; bit >>= 1U)
    if ((root | bit) * (root | bit) <= n) root |= bit;
  return root;
}
static_assert(square_root(0) == 0 && square_root(15) == 3 && square_root(16) == 4 && square_root(~0U) == 65535);

/// Where a page stands, and what it is worth. 24 bytes.
template <class Policy>
struct CreditState : ListHook<Policy> {
  enum Place : std::uint32_t { Nowhere, Empty, Credit, Orphan };
  std::uint32_t due = 0;  ///< the level at which its credit is used up, modulo 2^32
  std::uint32_t place : 2 = Nowhere;
  std::uint32_t strands : 1 = 0;
  std::uint32_t filled : 1 = 0;     ///< had a fault, or was loaded as a root, since its credit was last reckoned
  std::uint32_t frequency : 5 = 1;  ///< times that it was found accessed, and 1
  std::uint32_t lead : 11 = 0;      ///< where `filled`: due minus the level at that time
};

/// Pages by the level at which their credit ends, in a ring of queues: no page is further than `Worth::kMost` ahead.
/// Complexity: O(1) for all but `lowest`, which looks at kMost / 64 words.
template <class State, class Policy, std::uint32_t Most>
class CreditQueue {
  static constexpr std::uint32_t kRing = std::bit_ceil(Most + 1);

 public:
  [[nodiscard]] std::uint32_t level() const noexcept { return level_; }
  void insert(State& p, std::uint32_t credit) noexcept {
    p.due = level_ + (credit > Most ? Most : credit);
    const std::uint32_t at = p.due % kRing;
    ring_[at].push_back(p);
    used_[at / 64] |= std::uint64_t{1} << at % 64;
  }
  void erase(State& p) noexcept {
    const std::uint32_t at = p.due % kRing;
    ring_[at].erase(ring_[at].s_iterator_to(p));
    if (ring_[at].empty()) used_[at / 64] &= ~(std::uint64_t{1} << at % 64);
  }
  /// Returns: the page whose credit ends first, of those the one that has stood longest; or nullptr.
  [[nodiscard]] State* lowest() noexcept {
    const std::uint32_t start = level_ % kRing;
    for (std::uint32_t n = 0; n <= kWords; ++n) {
      const std::uint32_t word = (start / 64 + n) % kWords;
      std::uint64_t used = used_[word];
      if (n == 0) used &= ~std::uint64_t{0} << start % 64;
      if (used != 0) return &ring_[word * 64 + static_cast<std::uint32_t>(std::countr_zero(used))].front();
    }
    return nullptr;
  }
  /// Effects: the level rises to where p's credit ends. Requires: p is the lowest.
  void advance(const State& p) noexcept { level_ = p.due; }
  /// Returns: the first page for which f says so, or nullptr. Complexity: O(pages).
  template <class F>
  [[nodiscard]] State* find(F&& f) noexcept {
    for (std::uint32_t n = 0; n < kRing; ++n)
      for (State& p : ring_[(level_ + n) % kRing])
        if (f(p)) return &p;
    return nullptr;
  }

 private:
  static constexpr std::uint32_t kWords = kRing / 64;
  static_assert(kRing % 64 == 0 && kRing <= 2048, "`lead` has eleven bits");
  std::uint32_t level_ = 0;
  std::uint64_t used_[kWords] = {};
  List<State, Policy> ring_[kRing];
};

/// GreedyDual: a page has credit for what it is worth, which ends when the level has risen by so much; the page whose
/// credit ends first goes, and the level rises to it. A page found accessed then, or filled by a fault before, has its
/// credit renewed. Before all others go
/// - orphans: a guest that takes a table out of its tree is done with it as a rule. Evicting one makes its children
///   orphans, so that what is left of a process that has ended goes first, from the top;
/// - empty pages: a fault below one happens anyway.
/// `Worth`: kMost, kMostFrequency, and `of(live entries, frequency, whether any page has been found accessed yet)`:
/// where tables have no A bits, none ever is. `Abit`: A bits renew; `Fill`: faults do.
template <class Policy, class Worth, bool Abit, bool Fill>
class CreditOrder {
 public:
  using PageState = CreditState<Policy>;
  static constexpr Hook kHooks = Hook::Entry | Hook::RootLoad | Hook::Strand | Hook::Orphan;

  void on_create(PageState& p, PageFacts f) noexcept {
    if (f.level == Level{1})
      insert(p, 1);
    else
      append(empty_, p, PageState::Empty);
  }
  void on_remove(PageState& p) noexcept { leave(p); }
  void on_strands(PageState& p, bool yes) noexcept {
    p.strands = yes ? 1U : 0U;
    if (p.place == PageState::Orphan) return;
    leave(p);
    if (!yes) append(empty_, p, PageState::Empty);  // or so it seems: see empty_page
  }
  void on_orphan(PageState& p, bool yes) noexcept {
    leave(p);
    if (yes)
      append(orphans_, p, PageState::Orphan);
    else if (p.strands == 0)
      append(empty_, p, PageState::Empty);
  }
  void on_entry(PageState& p, unsigned) noexcept {
    if (p.place == PageState::Empty) {
      leave(p);
      insert(p, 1);
    }
    if constexpr (Fill) used(p);
  }
  void on_root_load(PageState& p) noexcept { used(p); }
  template <ReclaimView<PageState> View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    if (PageState* p = first_free(orphans_, view)) return p;
    if (PageState* p = empty_page(view)) return p;
    for (unsigned tests = 0; tests < kMostTests; ++tests) {
      PageState* p = queue_.lowest();
      if (p == nullptr) return nullptr;
      queue_.advance(*p);
      const std::uint32_t worth = Worth::of(view.live(*p), p->frequency, bits_);
      if (view.pinned(*p)) {
        renew(*p, worth);
      } else if (p->filled != 0 && worth > p->lead) {
        renew(*p, worth - p->lead);
      } else if (Abit && view.test_and_clear_accessed(*p)) {
        if (p->frequency < Worth::kMostFrequency) p->frequency = (p->frequency + 1U) & 31U;
        bits_ = true;
        renew(*p, Worth::of(view.live(*p), p->frequency, bits_));
      } else {
        return p;
      }
    }
    return queue_.find([&view](PageState& p) noexcept { return !view.pinned(p); });
  }

 private:
  void insert(PageState& p, std::uint32_t credit) noexcept {
    p.place = PageState::Credit;
    p.filled = 0;
    queue_.insert(p, credit == 0 ? 1 : credit);
  }
  template <class Queue>
  void append(Queue& queue, PageState& p, std::uint32_t place) noexcept {
    p.place = place & 3U;
    queue.push_back(p);
  }
  void leave(PageState& p) noexcept {
    if (p.place == PageState::Credit)
      queue_.erase(p);
    else if (p.place != PageState::Nowhere)
      empty_.erase(empty_.s_iterator_to(p));  // of whichever list: unlinking needs none
    p.place = PageState::Nowhere;
  }
  void used(PageState& p) noexcept {
    if (p.place != PageState::Credit) return;
    p.filled = 1;
    p.lead = (p.due - queue_.level()) & 2047U;
  }
  void renew(PageState& p, std::uint32_t credit) noexcept {
    leave(p);
    insert(p, credit);
  }
  /// Returns: a page without entries that is not pinned, or nullptr. A page that strands no child any more may still
  /// have large leaves, or tables that it shares: it stands by its credit then.
  template <class View>
  [[nodiscard]] PageState* empty_page(const View& view) noexcept {
    for (auto at = empty_.begin(); at != empty_.end();) {
      PageState& p = *at++;
      if (view.live(p) != 0) {
        leave(p);
        insert(p, Worth::of(view.live(p), p.frequency, bits_));
      } else if (!view.pinned(p)) {
        return &p;
      }
    }
    return nullptr;
  }

  CreditQueue<PageState, Policy, Worth::kMost> queue_;
  List<PageState, Policy> empty_;
  List<PageState, Policy> orphans_;
  bool bits_ = false;
};

/// What it costs to fill a page again: its entries.
struct Entries {
  static constexpr std::uint32_t kMost = kEntriesPerTable;
  static constexpr std::uint32_t kMostFrequency = 1;
  [[nodiscard]] static constexpr std::uint32_t of(unsigned live, std::uint32_t, bool) noexcept { return live; }
};

}  // namespace shadowmmu::reclaim::detail
