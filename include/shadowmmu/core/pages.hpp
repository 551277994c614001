// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <new>

#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/core/reclaim.hpp"
#include "shadowmmu/core/spte.hpp"
#include "shadowmmu/core/unsync.hpp"
#include "shadowmmu/core/zap.hpp"

/// Shadow pages: found, created, linked below a parent.
namespace shadowmmu::core {

/// Cells that one fault or root load may take; its pages are kPagesAhead. What is ahead beyond is for lists that become
/// long (HandleList::spread), several of them in one fault, and nothing fails without.
inline constexpr unsigned kCellsOfFault = 32, kCellsAhead = 96;

/// Returns: whether there is nothing to evict, to grow or to start before a fault. Complexity: six loads.
template <class S>
[[nodiscard]] inline bool well_supplied(const S& s) noexcept {
  const EvictionPlan plan = plan_of(s);
  const bool room = plan.when == EvictionPlan::When::DuringWalk || s.limit >= s.used + plan.low;
  return room && s.pages.available() >= kPagesAhead && s.cells.available() >= kCellsAhead && s.hash.ready() &&
         !s.hash.wants_growth();
}

/// Effects: makes sure that the pools can serve one fault or root load, evicting where they have reached their largest
/// size; takes frames from m only. Returns: whether they can. Requires: m is filled.
template <class S>
[[nodiscard]] bool reserve_metadata(S& s, ExclusiveGuard<S>& g, Magazine& m) noexcept {
  using Memory = typename S::Memory;
  const auto take = [&]() noexcept { return m.take_meta(); };
  if (s.pages.available() < kPagesAhead && !s.pages.full()) s.pages.template grow<Memory>(take);
  while (s.cells.available() < kCellsAhead && !s.cells.full() && (s.cells.available() < kCellsOfFault || m.meta() > 15))
    s.cells.template grow<Memory>(take);
  while (s.pages.available() < kPagesAhead || s.cells.available() < kCellsOfFault) {
    if (evict(s, g, available_pages(s) + 8) == 0) return false;
    g.settle_for_good();
  }
  if (!s.hash.ready()) {
    void* directory = take();
    s.hash.start(directory, take());
  } else if (s.hash.wants_growth() && (!s.hash.needs_frame() || m.meta() > 14)) {
    s.hash.grow(s.hash.needs_frame() ? take() : nullptr);
  }
  return true;
}

/// Returns: the valid page of (gfn, role), or nullptr. Obsolete and invalid pages are never returned.
template <class S>
[[nodiscard]] typename S::Page* find_page(S& s, Structure<S>, Gfn gfn, Role role) noexcept {
  for (auto& p : s.hash.bucket(gfn))
    if (p.gfn == gfn && p.role == role && !s.obsolete_page(p)) return &p;
  return nullptr;
}

/// Effects: notes that `p` shadows its guest table: no large mapping over it; an upper table's frame is write-tracked,
/// a leaf table's frame is write-protected. Flush: owed by the caller.
template <class S>
FlushOwed account_shadowed(S& s, Structure<S> h, typename S::Page& p, Magazine& m) noexcept {
  SlotOf<S>* slot = s.snapshot->find_any(p.gfn);
  if (slot == nullptr) return FlushOwed::none();
  if (!slot->has_track(p.gfn)) slot->give_track(p.gfn, m.take_meta());
  TrackCount& t = slot->track_cell(p.gfn);
  const bool first = t.upper == 0 && t.leaf == 0;
  if (p.role.level() > Level{1})
    t.upper = static_cast<std::uint16_t>(t.upper + 1U);
  else
    t.leaf = static_cast<std::uint16_t>(t.leaf + 1U);
  FlushOwed owed = rmap_protect(s, h, *slot, p.gfn);
  if (first) {
    for (const Level l : kLargeLevels) {
      LargeRegion& r = slot->large(p.gfn, l);
      r.disallow += 1;
      owed |= rmap_zap_head(s, h, r.rmap);
    }
  }
  return owed;
}

/// What a guest could make long without end is kept short as a page is made. Pages of one guest table: of one level at
/// most kMostOfTable, which are as many roles as hardly any guest has; obsolete ones, which nobody looks for, a few.
/// Parents of one page: kMostParents.
inline constexpr unsigned kMostOfTable = 128, kObsoleteOfTable = 4, kThinAtOnce = 8, kMostParents = 336;
static_assert(5 * kMostOfTable < 0xffff, "TrackCount counts them in 16 bits");

/// Effects: makes sure that few obsolete pages and fewer than kMostOfTable pages of this level shadow the gfn, roots in
/// use apart: zaps up to kThinAtOnce of them, fewer where they are full. A page of `level` is no part of the path of
/// whoever needs one of `level`. Flush: by the guard. Complexity: O(pages in the bucket), and that of prepare_zap.
template <class S>
void thin_chain(S& s, ExclusiveGuard<S>& g, Gfn gfn, Level level) noexcept {
  unsigned obsolete = 0;
  unsigned same = 0;
  for (auto& p : s.hash.bucket(gfn)) {
    if (p.gfn != gfn) continue;
    if (s.obsolete_page(p))
      obsolete += 1;
    else if (p.role.level() == level)
      same += 1;
  }
  if (obsolete <= kObsoleteOfTable && same < kMostOfTable) return;
  for (unsigned cost = 0; cost < kThinAtOnce;) {
    typename S::Page* old = nullptr;
    for (auto& p : s.hash.bucket(gfn)) {
      if (p.gfn != gfn) continue;
      const bool live = p.role.level() == level && same >= kMostOfTable && !not_now<S>(p);
      if (s.obsolete_page(p) || live) old = &p;  // the last of the chain is the oldest
    }
    if (old == nullptr) return;
    if (!s.obsolete_page(*old)) same -= 1;
    cost += zap_cost<S>(*old);
    prepare_zap(s, g, *old);
  }
}

/// What zap_unsync_of zaps in one critical section, in zap_cost: a full table, or up to this many of few entries.
inline constexpr unsigned kUnsyncZapped = 8;

/// Effects: zaps the unsync leaf pages of gfn, which is about to be shadowed as an upper table (whose frame takes no
/// unseen write): as many as kUnsyncZapped. Returns: whether none is left. Flush: by the guard.
template <class S>
[[nodiscard]] bool zap_unsync_of(S& s, ExclusiveGuard<S>& g, Gfn gfn) noexcept {
  for (unsigned cost = 0;;) {
    typename S::Page* found = nullptr;
    for (auto& p : s.hash.bucket(gfn))
      if (p.gfn == gfn && p.unsync) found = &p;
    if (found == nullptr) return true;
    if (cost >= kUnsyncZapped) return false;
    cost += zap_cost<S>(*found);
    prepare_zap(s, g, *found);
  }
}

/// Effects: a new, empty page; where the limit has no room for it, one is evicted that is not `walked`. Requires: the
/// magazine was filled, metadata is available. Flush: done where the guest
/// table's frame lost write access, before anybody reads the table: a CPU with the old rights in its TLB could else
/// write it between the reading and the flush, unseen for ever.
template <class S>
[[nodiscard]] typename S::Page* create_page(S& s, ExclusiveGuard<S>& g, Gfn gfn, Role role, Magazine& m) noexcept {
  thin_chain(s, g, gfn, role.level());
  if (!room_for_page(s, g) || s.pages.available() == 0 || !m.has_table()) return nullptr;
  const PageIndex i = s.pages.template take<typename S::Memory>();
  auto* p = ::new (static_cast<void*>(s.pages.at(i))) typename S::Page;
  p->table = static_cast<std::uint64_t*>(m.take_table());
  p->gfn = gfn;
  p->role = role;
  p->index = i;
  p->serial = ++s.serial;
  p->generation = s.generation;
  p->synced = s.last_sync;
  p->life = PageLife::Linked;
  s.tables += 1;
  s.used += 1;
  s.stats.add(&Counters::pages_created);
  s.stats.set(&Counters::pages_used, s.used);
  s.stats.peak(&Counters::pages_used_highest, s.used);
  if (!role.direct() || role.level() > Level{1}) SideAccess<S>::take(s, *p, m);
  if (!role.direct() && role.level() > Level{1}) {
    p->unsync_map = s.cells.template take<typename S::Memory>();
    for (std::uint64_t& bits : s.cells.at(p->unsync_map)->bits) S::Memory::plain(bits, 0);
  }
  s.hash.insert(*p);
  s.live.push_back(*p);
  s.reclaim.on_create(*p, PageFacts{role.level(), role.direct(), gfn.value() << 32U | role.bits()});
  if (!role.direct()) {
    // A fault has done this before it came here, in slices; so has a root load, unless other vCPUs made such pages as
    // fast as it took them: then what is left goes now.
    while (role.level() > Level{1} && !zap_unsync_of(s, g, gfn)) {
    }
    g.owe(account_shadowed(s, g.held(), *p, m));
    g.discharge();
  }
  return p;
}

/// Effects: finds or creates. A page that is found is brought up to date first, and so is what lies below it: a guest
/// need not flush for non-present -> present, and flushes while the page was unlinked passed it by. An unsync leaf page
/// stays unsync. Where more lies below than a slice of a sync looks at, the page gives way to a new one, and its
/// children are found one by one as they are needed. Flush: by the guard.
template <class S>
[[nodiscard]] typename S::Page* get_page(S& s, ExclusiveGuard<S>& g, Gfn gfn, Role role, Magazine& m) noexcept {
  if (auto* p = find_page(s, g.held(), gfn, role)) {
    if constexpr (S::Arch::kGuests.indirect()) {
      if (p->unsync) {
        sync_entries(s, g, *p);
        p->synced = s.last_sync;
      }
      if (p->unsync_children != 0 && !sync_slice(s, g, Sync(s.last_sync), [p](auto&& f) { return f(*p); }))
        prepare_zap(s, g, *p);
    }
    if (!s.obsolete_page(*p)) return p;
  }
  return create_page(s, g, gfn, role, m);
}

/// Effects: entry i of `parent` points at `child`. Requires: the entry is clear; child's entries are in place, which
/// the release store makes visible before the link. Where child has kMostParents already, these lose it. Returns:
/// false, with nothing changed, where child is unsync and that cannot be marked upwards (kMostMarks). Flush: none,
/// since a non-present entry becomes present; by the guard where others lose the child.
template <class S>
[[nodiscard]] bool link_child(S& s, ExclusiveGuard<S>& g, typename S::Page& parent, unsigned i,
                              typename S::Page& child) noexcept {
  unsigned marks = kMostMarks;
  if ((child.unsync || child.unsync_children != 0) && !mark_unsync_child(s, parent, i, marks)) return false;
  if (S::Parents::crowded(s.cells, child.parents, EntryHandle(parent.index, i), kMostParents)) {
    s.stats.add(&Counters::parents_dropped);
    g.owe(drop_parents(s, Entries<S>(g.held()), child));
  }
  SideAccess<S>::set_child(parent, i, child.index);
  tell_of_link(s, parent, child, true);
  if (S::Parents::add(s.cells, child.parents, EntryHandle(parent.index, i)))
    S::Parents::spread(s.cells, child.parents, kCellsOfFault);
  parent.live = static_cast<std::uint16_t>(parent.live + 1U);
  s.stats.add(&Counters::links);
  S::Memory::template store<Order::Release>(parent.table[i], S::Arch::make_table(s.caps, s.table_address(child)));
  if constexpr (wants(S::Reclaim::kHooks, Hook::Entry)) s.reclaim.on_entry(parent, parent.live);
  return true;
}

}  // namespace shadowmmu::core
