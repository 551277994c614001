// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstdint>

#include "shadowmmu/core/spte.hpp"

/// Leaf tables that the guest writes without faults: let go (unsync), remembered upwards, brought back (sync).
namespace shadowmmu::core {

/// Links to mark that one page may cost which becomes unsync. A guest may share tables so that paths are very many:
/// such a page stays write-protected.
inline constexpr unsigned kMostMarks = 1024;
/// Pages of one guest table that are unsync at most. In more roles than that it stays write-protected, since each of
/// them has to be looked at for each write, and to go where it becomes an upper table. A guest that tries every control
/// bit has some dozens; with four, a guest that writes its tables under changing controls was ten times slower.
inline constexpr unsigned kMostUnsyncOfTable = 64;

/// Effects: entry i of p leads to an unsync page: bit and count there, and on every path up. Invariant: the bits of
/// all ancestors cover every unsync page below; extra bits may linger until the next sync clears them. So the ancestors
/// are marked first: where `left` links do not suffice what was marked is extra. Returns: whether they sufficed.
/// Complexity: O(links that were not marked), `left` at most.
template <class S>
[[nodiscard]] bool mark_unsync_child(S& s, typename S::Page& p, unsigned i, unsigned& left) noexcept {
  Cell& map = *s.cells.at(p.unsync_map);
  const std::uint64_t bit = std::uint64_t{1} << (i & 63U);
  if ((S::Memory::plain(map.bits[i >> 6U]) & bit) != 0) return true;
  if (p.unsync_children == 0 && !mark_unsync_parents(s, p, left)) return false;  // else the ancestors know already
  S::Memory::plain(map.bits[i >> 6U], S::Memory::plain(map.bits[i >> 6U]) | bit);
  p.unsync_children = static_cast<std::uint16_t>(p.unsync_children + 1U);
  return true;
}
template <class S>
[[nodiscard]] bool mark_unsync_parents(S& s, typename S::Page& p, unsigned& left) noexcept {
  return S::Parents::all_of(s.cells, p.parents, [&](EntryHandle e) {
    if (left == 0) return false;
    left -= 1;
    return mark_unsync_child(s, s.page(e.page()), e.entry(), left);
  });
}
template <class S>
void clear_unsync_child(S& s, typename S::Page& p, unsigned i) noexcept {
  if (p.unsync_map == 0) return;
  Cell& map = *s.cells.at(p.unsync_map);
  const std::uint64_t bit = std::uint64_t{1} << (i & 63U);
  const std::uint64_t had = S::Memory::plain(map.bits[i >> 6U]);
  if ((had & bit) == 0) return;
  S::Memory::plain(map.bits[i >> 6U], had & ~bit);
  p.unsync_children = static_cast<std::uint16_t>(p.unsync_children - 1U);
}

/// Decides whether gfn may be mapped writable although it holds guest tables: yes where all its shadow pages are leaf
/// tables and are, or may now become, unsync. The mark is made before the caller sets W, and a sync looks at it under
/// the same lock, after its flush. Complexity: O(pages in the gfn's bucket + kMostMarks); O(1) for other gfns.
template <class S>
[[nodiscard]] bool may_write(S& s, Entries<S>, SlotOf<S>& slot, Gfn gfn, bool can_unsync) noexcept {
  const TrackCount t = slot.track(gfn);
  if (t.upper != 0) return false;
  if (t.leaf == 0) return true;
  unsigned left = kMostMarks;
  unsigned pages = 0;
  for (auto& p : s.hash.bucket(gfn)) {
    if (p.gfn != gfn || p.role.direct() || s.obsolete_page(p)) continue;
    if (++pages > kMostUnsyncOfTable) return false;
    if (p.unsync) continue;
    if (!can_unsync || !mark_unsync_parents(s, p, left)) return false;
    p.unsync = true;
    s.stats.add(&Counters::pages_unsynced);
  }
  return true;
}

/// A sync brings back what was unsync when it began, and ends although the lock is let go on the way and vCPUs go on to
/// write tables: it has a number, later ones have higher numbers, and each page bears that of the last which was
/// through with it (`ShadowPage::synced`). What bears this number or a higher one, new pages among them, is passed by.
class Sync {
 public:
  /// Effects: a new one begins. Locking: the Mmu's lock.
  explicit Sync(std::uint64_t& last) noexcept : number_(++last), last_(last) {}
  [[nodiscard]] bool through(std::uint64_t synced) const noexcept { return synced >= number_; }
  /// What a leaf table bears that is brought back now, and so serves all that have begun.
  [[nodiscard]] std::uint64_t now() const noexcept { return last_; }
  /// What an upper table bears below which this one was: others that have begun later have not.
  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }

 private:
  std::uint64_t number_;
  const std::uint64_t& last_;
};

/// The leaf tables that are brought back in one critical section, and what it may still cost to find and to read them:
/// entries, list nodes and pages. The last table may cost more than is left: twice its 512 entries, and the leaves that
/// map it.
template <class S>
struct SyncSlice {
  static constexpr unsigned kCost = 2048;
  static constexpr unsigned kTables = kCost / kEntriesPerTable;
  typename S::Page* table[kTables] = {};
  unsigned count = 0;
  unsigned left = kCost;

  void spend(unsigned n) noexcept { left = n < left ? left - n : 0; }
  /// Requires: something is left.
  void take(typename S::Page& p, unsigned leaves) noexcept {
    table[count++] = &p;
    spend(kEntriesPerTable + p.live + leaves);
  }
  [[nodiscard]] bool has(const typename S::Page& p) const noexcept {
    for (unsigned n = 0; n < count; ++n)
      if (table[n] == &p) return true;
    return false;
  }
};

/// Calls visit(page) for unsync leaf pages below p that the sync is not through with, following the bitmaps, and clears
/// their bits on the way; ends early where visits, which `take` what they are given, and the walk have used up the
/// slice. A guest may share tables at every level, so that the paths outnumber the pages by far: a page is entered once
/// a sync, but for those on the path to where a slice ended. visit must not free pages or change links. Returns:
/// whether it is through with p.
template <class S, class F>
[[nodiscard]] bool take_unsync(S& s, const Sync& sync, SyncSlice<S>& slice, typename S::Page& p, F&& visit) noexcept {
  if (p.unsync_map == 0 || p.unsync_children == 0 || sync.through(p.synced)) return true;
  slice.spend(8);
  Cell& map = *s.cells.at(p.unsync_map);
  for (unsigned w = 0; w < 8; ++w) {
    for (std::uint64_t bits = S::Memory::plain(map.bits[w]); bits != 0; bits &= bits - 1) {
      if (slice.left == 0) return false;
      slice.spend(1);
      const unsigned i = w * 64 + static_cast<unsigned>(std::countr_zero(bits));
      bool stays = false;  // below the entry is what became unsync again since it was brought back
      if (auto* child = child_of(s, p, i); child != nullptr) {
        if (child->unsync) {
          if (!sync.through(child->synced)) visit(*child);
          stays = !slice.has(*child);
        } else {
          if (!take_unsync(s, sync, slice, *child, visit)) return false;
          stays = child->unsync_children != 0;
        }
      }
      if (!stays) clear_unsync_child(s, p, i);
    }
  }
  p.synced = sync.number();
  return true;
}

}  // namespace shadowmmu::core
