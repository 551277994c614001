// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/core/spte.hpp"

/// The one way to delete a shadow page: prepare here, commit in Disposal. Slot removal, reclaim, zap-all, flooding and
/// teardown all come through it.
namespace shadowmmu::core {

/// Effects: entry i of `parent` no longer points at its child. The subtree below stays hashed and counted (it will be
/// linked again or reclaimed). Flush: owed by the caller (paging structures).
template <class S>
FlushOwed unlink_child(S& s, Entries<S> h, typename S::Page& parent, unsigned i) noexcept {
  h.verify(s.lock);
  auto& child = s.child(parent, i);
  S::Memory::template store<Order::Release>(parent.table[i], 0);
  parent.live = static_cast<std::uint16_t>(parent.live - 1U);
  HandleList::remove(s.cells, child.parents, EntryHandle(parent.index, i));
  clear_unsync_child(s, parent, i);
  s.epoch += 1;
  if constexpr (wants(S::Reclaim::kHooks, Hook::Unlink)) s.reclaim.on_unlink(parent, child);
  return FlushOwed::all();
}

/// Effects: clears whatever entry i holds. Flush: owed by the caller.
template <class S>
FlushOwed zap_entry(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  const std::uint64_t e = entry<S>(p, i);
  if (!S::Arch::present(e)) return FlushOwed::none();
  return is_leaf<S>(p, e) ? drop_leaf(s, h, p, i) : unlink_child(s, h, p, i);
}

template <class S>
void unaccount_shadowed(S& s, typename S::Page& p) noexcept {
  Slot* slot = s.snapshot->find_any(p.gfn);
  if (slot == nullptr || !slot->has_track(p.gfn)) return;
  TrackCount& t = slot->track_cell(p.gfn);
  if (p.role.level() > Level{1})
    t.upper = static_cast<std::uint16_t>(t.upper - 1U);
  else
    t.leaf = static_cast<std::uint16_t>(t.leaf - 1U);
  if (t.upper == 0 && t.leaf == 0)
    for (const Level l : kLargeLevels) slot->large(p.gfn, l).disallow -= 1;
}

/// Effects: asks every vCPU to drop its root and load a fresh one before it runs guest code again.
template <class S>
void request_reload(S& s, Structure<S>) noexcept {
  for (auto& v : s.vcpus) S::Memory::template store<Order::Release>(v.reload, 1);
}

/// Effects: unlinks p from hash, rmaps, parents, children, counts and lists, and puts it into the batch; a root that a
/// vCPU uses is marked invalid instead and follows when the last reference drops. Requires: p.life == Linked.
/// Flush: structures, by the guard. Complexity: O(entries of p + parents + rmap lengths / 14).
template <class S>
void prepare_zap(S& s, ExclusiveGuard<S>& g, typename S::Page& p) noexcept {
  const Structure<S> h = g.held();
  FlushOwed owed = FlushOwed::all();
  for (unsigned i = 0; i < kEntriesPerTable && p.live != 0; ++i) owed |= zap_entry(s, h, p, i);
  while (p.parents != 0) {
    const EntryHandle e = HandleList::any(s.cells, p.parents);
    owed |= unlink_child(s, h, s.page(e.page()), e.entry());
  }
  g.owe(owed);
  s.hash.erase(p);
  if (!p.role.direct()) unaccount_shadowed(s, p);
  s.reclaim.on_remove(p);
  const bool is_live = p.generation == s.generation;
  auto& list = is_live ? s.live : s.obsolete;
  list.erase(list.iterator_to(p));
  s.stats.add(&Counters::pages_zapped);
  if (p.roots != 0) {
    s.epoch += 1;
    p.life = PageLife::Invalid;
    s.invalid.push_back(p);
    request_reload(s, h);
    return;
  }
  p.life = PageLife::Zapped;
  g.debt().push(p);
}

/// Effects: one vCPU uses p as a root no more. An invalid page is freed with its last reference, once.
template <class S>
void release_root(S& s, ExclusiveGuard<S>& g, typename S::Page& p) noexcept {
  p.roots -= 1;
  if (p.roots != 0 || p.life != PageLife::Invalid) return;
  s.invalid.erase(s.invalid.iterator_to(p));
  p.life = PageLife::Zapped;
  g.debt().push(p);
}

/// Effects: a new generation: every linked page becomes obsolete in O(1) and every vCPU reloads its root. The pages go
/// over to `obsolete`, where nothing else ever appends, so that a walk of that list ends.
/// Complexity: O(vCPUs). Locking: exclusive, and the slots lock.
template <class S>
void begin_generation(S& s, ExclusiveGuard<S>& g) noexcept {
  s.generation = static_cast<typename S::Generation>(s.generation + 1U);
  s.obsolete.splice(s.obsolete.end(), s.live);
  s.epoch += 1;
  request_reload(s, g.held());
}

/// Effects: zaps up to `budget` obsolete pages, oldest first. Returns: how many.
template <class S>
unsigned zap_obsolete(S& s, ExclusiveGuard<S>& g, unsigned budget) noexcept {
  unsigned n = 0;
  while (n < budget && !s.obsolete.empty()) {
    prepare_zap(s, g, s.obsolete.front());
    n += 1;
  }
  return n;
}

}  // namespace shadowmmu::core
