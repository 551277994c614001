// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <utility>

#include "shadowmmu/concepts/arch.hpp"
#include "shadowmmu/core/reader.hpp"
#include "shadowmmu/core/unsync.hpp"
#include "shadowmmu/core/zap.hpp"
#include "shadowmmu/guest/format.hpp"

/// Bringing shadow entries back to what the guest's table says now.
namespace shadowmmu::core {

/// The guest paging settings under which a page was made, rebuilt from its role: enough to judge its level-1 entries.
template <class S>
[[nodiscard]] guest::Paging paging_of(S& s, Role r) noexcept requires(S::Arch::kGuests.indirect()) {
  Controls c;
  c.cr0 = cr0::kPg | cr0::kPe | (r.wp() ? cr0::kWp : 0);
  c.cr4 = (r.pse() ? cr4::kPse : 0) | (r.mode() == GuestMode::Bits32 ? 0 : cr4::kPae);
  c.efer = (r.nxe() ? efer::kNxe : 0) | (r.mode() == GuestMode::Long4 ? efer::kLma | efer::kLme : 0);
  return guest::Paging(c, s.caps.guest_address_bits, s.caps.guest_1g);
}

/// Effects: entry i of leaf page p is dropped, narrowed or kept, to agree with gpte. Entries that agree are not
/// touched. Never adds rights to write (a fault does, with its checks). Flush: owed where something was taken away.
template <class S>
FlushOwed sync_entry(S& s, Structure<S> h, const guest::Paging& paging, typename S::Page& p, unsigned i,
                     std::uint64_t gpte) noexcept {
  const std::uint64_t e = entry<S>(p, i);
  if (e == 0) return FlushOwed::none();
  // An accessed bit that the guest cleared must be set again by a walk: the entry goes.
  constexpr std::uint64_t kUsed = guest::kEntryPresent | guest::kEntryAccessed;
  const Gfn gfn = p.role.gpte_bytes() == 4 ? guest::Bits32::frame(gpte) : guest::Long4::frame(gpte);
  if (S::Arch::mmio(e)) {
    const MmioSpec m = S::Arch::read_mmio(s.caps, e);
    const Access most = p.role.access() & paging.grants(gpte);
    const bool clean = (gpte & guest::kEntryDirty) == 0 && m.access.write();
    // U gives and takes: what the user may use, SMEP and SMAP may keep from the supervisor.
    if ((gpte & kUsed) != kUsed || paging.reserved_set(gpte, 1) || gfn != m.gfn || clean ||
        (m.access.bits() & ~most.bits()) != 0 || m.access.user() != most.user())
      drop_mmio(s, Entries<S>(h), p, i);
    return FlushOwed::none();
  }
  if ((gpte & kUsed) != kUsed || paging.reserved_set(gpte, 1) || gfn != leaf_gfn<S>(p, i, e)) {
    s.stats.add(&Counters::entries_resynced);
    return drop_leaf(s, h, p, i);
  }
  Access want = p.role.access() & paging.grants(gpte);
  if ((gpte & guest::kEntryDirty) == 0) want = want.without(Access::kWrite);
  const bool changed = change_leaf(s, Entries<S>(h), p, i, [want](std::uint64_t old) {
    const std::uint64_t now = S::Arch::with_rights(old, want);
    return S::Arch::writable(old) ? now : S::Arch::write_protected(now);
  });
  if (!changed) return FlushOwed::none();
  s.stats.add(&Counters::entries_resynced);
  return flush_for<S>(p, i, e);
}

template <class S>
[[nodiscard]] std::uint64_t gpte_of(const void* table, const typename S::Page& p, unsigned i) noexcept {
  if (p.role.gpte_bytes() == 4)
    return S::Memory::template load<Order::Relaxed>(
        static_cast<const std::uint32_t*>(table)[p.role.quadrant() * kEntriesPerTable + i]);
  return S::Memory::template load<Order::Relaxed>(static_cast<const std::uint64_t*>(table)[i]);
}

/// Effects: `gpte` is the guest's entry that entry i of the upper page p shadows, as it reads now. Returns: false where
/// the table is no memory any more.
template <class S>
[[nodiscard]] bool large_gpte_of(S& s, const typename S::Page& p, unsigned i, std::uint64_t& gpte) noexcept
    requires(S::Arch::kGuests.indirect()) {
  const void* table = s.snapshot->find_any(p.gfn) == nullptr ? nullptr : s.host.guest_page(p.gfn);
  if (table == nullptr) return false;
  // A 4-byte directory entry covers 4 MiB: two entries of ours.
  gpte = p.role.gpte_bytes() == 4
             ? S::Memory::template load<Order::Relaxed>(
                   static_cast<const std::uint32_t*>(table)[p.role.quadrant() * 256U + i / 2U])
             : S::Memory::template load<Order::Relaxed>(static_cast<const std::uint64_t*>(table)[i]);
  return true;
}

/// Effects: all entries of leaf page p agree with the guest's table; a page whose table is nowhere any more is zapped.
/// Flush: by the guard. Complexity: O(live entries), a scan of 512 words.
template <class S>
void sync_entries(S& s, ExclusiveGuard<S>& g, typename S::Page& p) noexcept requires(S::Arch::kGuests.indirect()) {
  const void* table = s.snapshot->find_any(p.gfn) == nullptr ? nullptr : s.host.guest_page(p.gfn);
  if (table == nullptr) {
    prepare_zap(s, g, p);
    return;
  }
  s.stats.add(&Counters::pages_synced);
  const guest::Paging paging = paging_of(s, p.role);
  unsigned left = p.live;
  for (unsigned i = 0; i < kEntriesPerTable && left != 0; ++i) {
    if (entry<S>(p, i) == 0) continue;
    left -= 1;
    g.owe(sync_entry(s, g.held(), paging, p, i, gpte_of<S>(table, p, i)));
  }
}

/// Effects: unsync leaf tables below the given pages, as many as fit a slice, are write-protected, marked synced and
/// brought up to date. In this order: protect all, flush, clear the marks, read the guest's entries; else a write could
/// slip in between. `each(f)` calls f on every page to start from until f returns false. Returns: whether the sync is
/// through. Flush: by the guard, and one before the tables are read. Complexity: O(SyncSlice::kCost), see there.
template <class S, class Each>
[[nodiscard]] bool sync_slice(S& s, ExclusiveGuard<S>& g, const Sync& sync, Each&& each) noexcept
    requires(S::Arch::kGuests.indirect()) {
  SyncSlice<S> slice;
  const bool through = each([&](typename S::Page& top) {
    return take_unsync(s, sync, slice, top, [&](typename S::Page& p) {
      p.synced = sync.now();
      unsigned leaves = 0;
      if (SlotOf<S>* slot = s.snapshot->find_any(p.gfn)) {
        if (const std::uint32_t* head = slot->rmap(p.gfn, Level{1})) leaves = S::Rmap::length(s.cells, *head);
        g.owe(rmap_protect(s, Entries<S>(g.held()), *slot, p.gfn));
      }
      slice.take(p, leaves);
    });
  });
  if (slice.count == 0) return through;
  g.discharge();
  for (unsigned n = 0; n < slice.count; ++n) {
    slice.table[n]->unsync = false;
    sync_entries(s, g, *slice.table[n]);
  }
  return through;
}
/// Effects: what is unsync below v's roots is brought back. Locking: the lock, let go between slices where somebody
/// waits; v's roots may be stale afterwards. Complexity: O(pages with unsync ones below + unsync tables * 512).
template <class S>
void sync_roots(S& s, ExclusiveGuard<S>& g, typename S::Vcpu& v) noexcept requires(S::Arch::kGuests.indirect()) {
  const Sync sync(s.last_sync);
  Progress slices(sync);
  const auto roots = [&](auto&& visit) {
    for (const WeakPage& w : v.root.page)
      if (auto* root = s.strong(w); root != nullptr && !visit(*root)) return false;
    return true;
  };
  while (!sync_slice(s, g, sync, roots)) {
    g.yield_after(slices, S::Config::kYieldPages);
  }
}

/// Effects: the entry for `a` below the given root is brought up to date where its page is unsync. Flush: the caller
/// flushes the address on its own CPU; the guard does where something was taken away.
template <class S>
void sync_address(S& s, ExclusiveGuard<S>& g, typename S::Page& root, Gva a) noexcept
    requires(S::Arch::kGuests.indirect()) {
  auto* p = &root;
  for (;;) {
    const unsigned i = p->role.level().index(a.value());
    const std::uint64_t e = entry<S>(*p, i);
    if (p->role.level() == Level{1}) {
      if (!p->unsync || e == 0) return;
      const void* table = s.snapshot->find_any(p->gfn) == nullptr ? nullptr : s.host.guest_page(p->gfn);
      if (table != nullptr) g.owe(sync_entry(s, g.held(), paging_of(s, p->role), *p, i, gpte_of<S>(table, *p, i)));
      return;
    }
    p = child_of(s, *p, i);
    if (p == nullptr) return;
  }
}

}  // namespace shadowmmu::core
