// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/dirty_log.hpp"
#include "shadowmmu/core/map.hpp"

/// Large leaves split ahead of need, and the 4 KiB entries that code has forced made large again.
namespace shadowmmu::core {

/// Effects: `role` is that of the direct child that a read fault would put under entry i of p, as large page. Returns:
/// false where the guest's entry says no such page any more.
template <class S>
[[nodiscard]] bool granted_by(S& s, const typename S::Page& p, unsigned i, Role& role) noexcept {
  role = p.role.with_level(p.role.level().down()).with_direct(true).with_quadrant(0);
  if (p.role.direct()) return true;
  if constexpr (S::Arch::kGuests.indirect()) {
    std::uint64_t gpte = 0;
    if (!large_gpte_of(s, p, i, gpte)) return false;
    const guest::Paging paging = paging_of(s, p.role);
    const Access granted = p.role.access() & paging.grants(gpte);
    const bool rom = (granted.write() || !paging.wp()) && keeps_bits(s, *s.snapshot->find_any(p.gfn), p.gfn);
    const bool clean = (gpte & guest::kEntryDirty) == 0 && !rom;
    role = role.with_access(clean ? granted.without(Access::kWrite) : granted).with_clean(clean);
    return (gpte & guest::kEntryPresent) != 0 && paging.maps_page(gpte, p.role.level().value());
  }
  return false;
}

/// Effects: the large leaf at entry i of p gives way to a table of 512 smaller ones, filled before it is linked. A D
/// mark is noted and not handed on. Where pages, cells or frames lack nothing changes. Returns: whether it was split.
/// Flush: by the guard.
template <class S>
[[nodiscard]] bool split_leaf(S& s, ExclusiveGuard<S>& g, Magazine& m, SlotOf<S>& slot, typename S::Page& p,
                              unsigned i) noexcept {
  using Arch = typename S::Arch;
  const auto take = [&m]() noexcept { return m.take_meta(); };
  Role role;
  // What cannot be handed down goes: the leaf of an obsolete page, one whose guest entry is another or grants less by
  // now (its writer has not reported yet), an aged one.
  const Access rights = Arch::rights(entry<S>(p, i));
  if (s.obsolete_page(p) || !granted_by(s, p, i, role) || (rights.bits() & ~role.access().bits()) != 0 ||
      rights == Access{}) {
    g.owe(drop_leaf(s, Entries<S>(g.held()), p, i));
    return true;
  }
  const WeakPage self{p.index, p.serial};
  if (available_pages(s) <= kPagesAhead || !reserve_metadata(s, g, m)) return false;
  while (s.cells.available() < kEntriesPerTable + kCellsOfFault && !s.cells.full() && m.meta() > 6)
    s.cells.template grow<typename S::Memory>(take);
  if (s.cells.available() < kEntriesPerTable + kCellsOfFault || m.meta() < 4) return false;
  if (s.strong(self) != &p || !Arch::present(entry<S>(p, i))) return true;  // room was made of this very page
  const std::uint64_t e = entry<S>(p, i);
  const Gfn first = leaf_gfn<S>(p, i, e);
  const Level down = role.level();
  auto* child = get_page(s, g, first, role, m);
  if (child == nullptr) return false;
  if (down == Level{1} && !slot.has_heads(first)) slot.give_heads(first, m.take_meta());
  const std::uint64_t clean =
      Arch::without_dirty(s.caps, slot.log() == DirtyMethod::Off ? e : Arch::write_protected(e));
  for (unsigned n = 0; n < kEntriesPerTable; ++n) {
    if (entry<S>(*child, n) != 0) continue;  // the child was there already
    S::Rmap::add(s.cells, *slot.rmap(first + n * down.frames(), down), EntryHandle(child->index, n));
    child->live = static_cast<std::uint16_t>(child->live + 1U);
    S::Memory::template store<Order::Relaxed>(child->table[n], Arch::split(clean, down, n));
  }
  g.owe(drop_leaf(s, Entries<S>(g.held()), p, i));
  if (!link_child(s, g, p, i, *child)) return false;  // no direct page is unsync: it never is
  s.stats.add(&Counters::splits);
  return true;
}

/// Effects: splits the large leaves that map the slot down to 4 KiB, as far as shadow pages below the limit and frames
/// reach: eagerly, that no write under a dirty log need do it. Errors: NoSuchSlot, OutOfMemory (some are split).
/// Locking: slots lock; the Mmu's for one split at a time. Flush: done.
template <class S>
[[nodiscard]] Status split_large_pages(S& s, SlotId id) noexcept {
  const SlotsScope<S> scope(s);
  SlotOf<S>* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  Magazine m;
  Status status = Unit{};
  for (unsigned l = S::Arch::kMaxLeafLevel; l >= 2 && status.ok(); --l) {
    const Level level{l};
    const std::uint64_t first = slot->first().value() / level.frames() * level.frames();
    for (std::uint64_t f = first; f < slot->end().value() && status.ok(); f += level.frames()) {
      const Gfn at = Gfn{f} < slot->first() ? slot->first() : Gfn{f};
      // Leaves of a word are split one by one; each split takes one off.
      for (bool more = true; more && status.ok();) {
        if (!m.fill(s.host)) {
          status = Error::OutOfMemory;
          break;
        }
        ExclusiveGuard<S> g(s);
        const std::uint32_t& head = slot->large(at, level).rmap;
        more = !S::Rmap::empty(head);
        if (!more) break;
        const EntryHandle e = S::Rmap::any(s.cells, head);
        if (!split_leaf(s, g, m, *slot, s.page(e.page()), e.entry())) status = Error::OutOfMemory;
      }
    }
  }
  m.drain(s.host);
  return status;
}

/// Returns: whether code has split a 2 MiB region of the GiB around gfn: a GiB mapped large over it would take the
/// code's entries away again and again.
template <class S>
[[nodiscard]] bool exec_split_within(SlotOf<S>& slot, Gfn gfn) noexcept {
  const std::uint64_t gib = gfn.value() / Level{3}.frames() * Level{3}.frames();
  for (std::uint64_t f = gib; f < gib + Level{3}.frames(); f += Level{2}.frames())
    if ((slot.large(Gfn{f}, Level{2}).disallow & LargeRegion::kExecSplit) != 0) return true;
  return false;
}

/// Effects: up to `budget` regions that code had split (`Caps::nx_huge`) may be mapped large again; their 4 KiB leaves
/// go, to come back as the next use asks. Goes round all slots, from where it stopped. Returns: how many regions.
/// Flush: done. Complexity: O(regions looked at), the lock being let go on the way.
template <class S>
std::uint32_t recover_exec_splits(S& s, std::uint32_t budget) noexcept {
  if (!s.caps.nx_huge) return 0;
  std::uint32_t n = 0;
  ExclusiveGuard<S> g(s);
  const auto visit = [&](SlotOf<S>& slot, Gfn lo, Gfn hi) noexcept {
    if (n == budget) return RegionWork{kEverywhere, 0};
    LargeRegion& r = slot.large(lo, Level{2});
    if ((r.disallow & LargeRegion::kExecSplit) == 0) return RegionWork{hi, 1};
    n += 1;
    r.disallow &= ~LargeRegion::kExecSplit;
    if (!exec_split_within<S>(slot, lo)) slot.large(lo, Level{3}).disallow &= ~LargeRegion::kExecSplit;
    s.exec_cursor = hi;
    RegionWork w{lo, 0};
    while (w.reached < hi) {
      const RegionWork more = zap_leaves(s, g, slot, w.reached, hi);
      w = {more.reached, w.pages + more.pages};
    }
    return w;
  };
  const Gfn from = s.exec_cursor;
  for_each_region(s, g, from, kMaxGfn, visit);
  if (n < budget) {
    s.exec_cursor = Gfn{0};
    for_each_region(s, g, Gfn{0}, from.value(), visit);
  }
  return n;
}

}  // namespace shadowmmu::core
