// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/core/spte.hpp"

/// The one way to delete a shadow page: prepare here, commit in Disposal. Slot removal, reclaim, zap-all, flooding and
/// teardown all come through it.
namespace shadowmmu::core {

/// Effects: `p` has one own child more or fewer.
template <class S>
void count_own_child([[maybe_unused]] S& s, typename S::Page& p, bool more) noexcept {
  p.own_children = static_cast<std::uint16_t>(more ? p.own_children + 1U : p.own_children - 1U);
  if constexpr (wants(S::Reclaim::kHooks, Hook::Strand))
    if (p.own_children == (more ? 1U : 0U)) s.reclaim.on_strands(p, more);
}
/// Effects: the policy learns what it asks for of a link that is about to be made (`linked`) or has just gone, between
/// `parent` and `child`. Requires: the entry is not among child.parents. Complexity: O(1).
template <class S>
void tell_of_link(S& s, typename S::Page& parent, typename S::Page& child, bool linked) noexcept {
  if constexpr (wants(S::Reclaim::kHooks, Hook::Strand)) {
    if (S::Parents::empty(child.parents))
      count_own_child(s, parent, linked);
    else if (S::Parents::single(s.cells, child.parents))
      count_own_child(s, s.page(S::Parents::any(s.cells, child.parents).page()), !linked);
  }
  if constexpr (wants(S::Reclaim::kHooks, Hook::Orphan))
    if (S::Parents::empty(child.parents)) s.reclaim.on_orphan(child, !linked);
  if constexpr (wants(S::Reclaim::kHooks, Hook::Link))
    if (linked) s.reclaim.on_link(parent, child);
  if constexpr (wants(S::Reclaim::kHooks, Hook::Unlink))
    if (!linked) s.reclaim.on_unlink(parent, child);
}

/// Effects: entry i of `parent` no longer points at its child. The subtree below stays hashed and counted (it will be
/// linked again or reclaimed). Flush: owed by the caller (paging structures).
template <class S>
FlushOwed unlink_child(S& s, Entries<S> h, typename S::Page& parent, unsigned i) noexcept {
  h.verify(s.lock);
  auto* const linked = child_of(s, parent, i);
  if (linked == nullptr) return FlushOwed::none();
  auto& child = *linked;
  S::Memory::template store<Order::Relaxed>(parent.table[i], 0);  // what waits for readers, or flushes, orders it
  parent.live = static_cast<std::uint16_t>(parent.live - 1U);
  S::Parents::remove(s.cells, child.parents, EntryHandle(parent.index, i));
  clear_unsync_child(s, parent, i);
  s.epoch += 1;
  tell_of_link(s, parent, child, false);
  return FlushOwed::all();
}

/// Effects: clears entry i, which is an MMIO entry. Flush: none, since no TLB holds what faults.
template <class S>
void drop_mmio(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  h.verify(s.lock);
  S::Memory::template store<Order::Relaxed>(p.table[i], 0);
  p.live = static_cast<std::uint16_t>(p.live - 1U);
  S::Memory::plain(s.mmio_entries, S::Memory::plain(s.mmio_entries) - 1);
}

/// Effects: clears whatever entry i holds. Flush: owed by the caller.
template <class S>
FlushOwed zap_entry(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  const std::uint64_t e = entry<S>(p, i);
  if (!S::Arch::present(e)) {
    if (e != 0) drop_mmio(s, h, p, i);
    return FlushOwed::none();
  }
  return is_leaf<S>(p, e) ? drop_leaf(s, h, p, i) : unlink_child(s, h, p, i);
}

/// Effects: no entry points at `child` any more. Flush: owed by the caller. Complexity: O(parents).
template <class S>
FlushOwed drop_parents(S& s, Entries<S> h, typename S::Page& child) noexcept {
  FlushOwed owed;
  while (!S::Parents::empty(child.parents)) {
    const EntryHandle e = S::Parents::any(s.cells, child.parents);
    owed |= unlink_child(s, h, s.page(e.page()), e.entry());
  }
  return owed;
}

template <class S>
void unaccount_shadowed(S& s, typename S::Page& p) noexcept {
  SlotOf<S>* slot = s.snapshot->find_any(p.gfn);
  if (slot == nullptr || !slot->has_track(p.gfn)) return;
  TrackCount& t = slot->track_cell(p.gfn);
  if (p.role.level() > Level{1})
    t.upper = static_cast<std::uint16_t>(t.upper - 1U);
  else
    t.leaf = static_cast<std::uint16_t>(t.leaf - 1U);
  if (t.upper == 0 && t.leaf == 0)
    for (const Level l : kLargeLevels) slot->large(p.gfn, l).disallow -= 1;
}

/// Effects: readers find the vCPU's root no more. Locking: the Mmu's lock, or the vCPU's own thread.
template <class S>
void hide_root([[maybe_unused]] typename S::Vcpu& v) noexcept {
  if constexpr (S::kShowsVcpus)
    for (std::uint64_t& cell : v.shown_root) S::Memory::template store<Order::Relaxed>(cell, 0);
}
/// Effects: asks every vCPU to drop its root and load a fresh one before it runs guest code again. Whoever needs that
/// to have happened kicks the vCPU, and that orders the request before its next entry.
template <class S>
void request_reload(S& s, Structure<S>) noexcept {
  for (auto& v : s.vcpus) S::Memory::template store<Order::Relaxed>(v.reload, 1);
}

/// So many entries cost about what a page of few does. What counts pages for a critical section counts these too.
inline constexpr unsigned kEntriesAPage = 32;
template <class S>
[[nodiscard]] unsigned zap_cost(const typename S::Page& p) noexcept {
  return 1U + p.live / kEntriesAPage;
}

/// Effects: unlinks p from hash, rmaps, parents, children, counts and lists, and hands it to the guard to be freed; a
/// root that a vCPU uses is marked invalid instead and follows when the last reference drops. Returns: whether it will
/// be freed when the guard settles. Requires: p.life == Linked. Flush: structures, by the guard; none for a page of an
/// earlier generation that no hardware can see. Complexity: O(entries of p + parents).
template <class S>
bool prepare_zap(S& s, ExclusiveGuard<S>& g, typename S::Page& p) noexcept {
  const Structure<S> h = g.held();
  const bool obsolete = p.generation != s.generation;
  FlushOwed owed = FlushOwed::all();
  for (unsigned i = 0; i < kEntriesPerTable && p.live != 0; ++i)
    if (entry<S>(p, i) != 0) owed |= zap_entry(s, h, p, i);
  owed |= drop_parents(s, h, p);
  const bool unseen = obsolete && s.obsolete_unseen();
  if (!unseen) g.owe(owed);
  s.hash.erase(p);
  if (!p.role.direct()) unaccount_shadowed(s, p);
  s.reclaim.on_remove(p);
  if (obsolete) {
    s.obsolete.erase(p);
    s.stats.add(&Counters::pages_obsolete);
  } else {
    s.live.erase(s.live.iterator_to(p));
  }
  s.stats.add(&Counters::pages_zapped);
  if (p.roots != 0) {
    p.life = PageLife::Invalid;
    s.invalid.push_back(p);
    // Readers that still find it find no entry. A change of generation has asked for the reload already.
    if (!obsolete) request_reload(s, h);
    return false;
  }
  g.dispose(p, unseen);
  return true;
}

/// Effects: one vCPU uses p as a root no more. An invalid page is freed with its last reference, once.
template <class S>
void release_root(S& s, ExclusiveGuard<S>& g, typename S::Page& p) noexcept {
  p.roots -= 1;
  if (p.roots != 0 || p.life != PageLife::Invalid) return;
  s.invalid.erase(s.invalid.iterator_to(p));
  g.dispose(p, p.generation != s.generation && s.obsolete_unseen());
}

}  // namespace shadowmmu::core
