// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstdint>

#include "shadowmmu/core/spte.hpp"

/// Leaf tables that the guest writes without faults: let go (unsync), remembered upwards, brought back (sync).
namespace shadowmmu::core {

/// Effects: entry i of p leads to an unsync page: bit and count there, and on every path up. Invariant: the bits of
/// all ancestors cover every unsync page below; extra bits may linger until the next sync clears them.
template <class S>
void mark_unsync_child(S& s, typename S::Page& p, unsigned i) noexcept {
  Cell& map = *s.cells.at(p.unsync_map);
  const std::uint64_t bit = std::uint64_t{1} << (i & 63U);
  const std::uint64_t had = S::Memory::plain(map.bits[i >> 6U]);
  if ((had & bit) != 0) return;
  S::Memory::plain(map.bits[i >> 6U], had | bit);
  p.unsync_children = static_cast<std::uint16_t>(p.unsync_children + 1U);
  if (p.unsync_children > 1) return;  // the ancestors know already
  mark_unsync_parents(s, p);
}
template <class S>
void mark_unsync_parents(S& s, typename S::Page& p) noexcept {
  S::Parents::for_each(s.cells, p.parents, [&](EntryHandle e) { mark_unsync_child(s, s.page(e.page()), e.entry()); });
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
/// tables and are, or may now become, unsync. The mark is made before the caller sets W; the fence between pairs with
/// the sync, which looks at the mark after its flush. Complexity: O(pages in the gfn's bucket); O(1) for other gfns.
template <class S>
[[nodiscard]] bool may_write(S& s, Entries<S>, SlotOf<S>& slot, Gfn gfn, bool can_unsync) noexcept {
  const TrackCount t = slot.track(gfn);
  if (t.upper != 0) return false;
  if (t.leaf == 0) return true;
  for (auto& p : s.hash.bucket(gfn)) {
    if (p.gfn != gfn || p.role.direct() || p.unsync || s.obsolete_page(p)) continue;
    if (!can_unsync) return false;
    p.unsync = true;
    s.stats.add(&Counters::pages_unsynced);
    mark_unsync_parents(s, p);
  }
  S::Memory::template fence<Order::Release>();
  return true;
}

/// Effects: zaps the unsync leaf pages of gfn, which is about to be shadowed as an upper table (whose frame takes no
/// unseen write). Flush: by the guard.
template <class S>
void zap_unsync_of(S& s, ExclusiveGuard<S>& g, Gfn gfn) noexcept {
  for (bool again = true; again;) {
    again = false;
    for (auto& p : s.hash.bucket(gfn)) {
      if (p.gfn != gfn || p.role.direct() || !p.unsync) continue;
      prepare_zap(s, g, p);
      again = true;
      break;
    }
  }
}

/// Calls visit(page) for every unsync leaf page below p, following the bitmaps, and clears their bits on the way. A
/// guest may share tables at every level, so that the paths outnumber the pages by far: a page is entered once, since
/// its bits are clear when a second path comes to it. visit must not free pages or change links. Complexity: O(pages
/// entered + bits that were set).
template <class S, class F>
void take_unsync(S& s, typename S::Page& p, F&& visit) noexcept {
  if (p.unsync_map == 0 || p.unsync_children == 0) return;
  Cell& map = *s.cells.at(p.unsync_map);
  for (unsigned w = 0; w < 8; ++w) {
    for (std::uint64_t bits = S::Memory::plain(map.bits[w]); bits != 0; bits &= bits - 1) {
      const unsigned i = w * 64 + static_cast<unsigned>(std::countr_zero(bits));
      if (auto* child = child_of(s, p, i); child != nullptr) {
        if (child->unsync)
          visit(*child);
        else
          take_unsync(s, *child, visit);
      }
      clear_unsync_child(s, p, i);
    }
  }
}

}  // namespace shadowmmu::core
