// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <new>

#include "shadowmmu/check.hpp"
#include "shadowmmu/core/batch.hpp"
#include "shadowmmu/core/memslots.hpp"
#include "shadowmmu/core/page.hpp"
#include "shadowmmu/core/page_hash.hpp"
#include "shadowmmu/core/rmap.hpp"
#include "shadowmmu/core/side.hpp"
#include "shadowmmu/core/vcpu_state.hpp"
#include "shadowmmu/flush.hpp"
#include "shadowmmu/grace/epochs.hpp"
#include "shadowmmu/stats.hpp"

namespace shadowmmu::core {

/// Whether shadow tables may be read beside the lock's holder, and how its grace periods pass. Where they may not,
/// grace periods serve memslots only.
template <class L>
struct Readership {
  static constexpr bool kTables = false;
  using Policy = grace::Epochs;
};
template <class L>
requires requires { typename L::GracePolicy; }
struct Readership<L> {
  static constexpr bool kTables = true;
  using Policy = typename L::GracePolicy;
};

/// All that one Mmu owns; the algorithms are free functions over it. Everything below `lock` is guarded by it, save
/// what is called a cell (written under it, read without) and `grace`.
template <class A, class L, class R, class H, class C>
struct State {
  using Arch = A;
  using Lock = L;
  using Memory = typename L::Memory;
  using Reclaim = R;
  using Host = H;
  using Config = C;
  using Generation = typename C::Generation;
  using Page = ShadowPage<R, Generation>;
  using Pages = PageList<Page>;
  /// Readers may walk shadow tables without the lock; pages are freed after a grace period.
  static constexpr bool kLockless = Readership<L>::kTables;
  /// Where there are several agents, vCPUs show their roots and registers in cells; else they are looked at as they
  /// are.
  static constexpr bool kShowsVcpus = Memory::kManyAgents;
  using Grace = typename Readership<L>::Policy::template Domain<Memory>;
  using Reader = typename Grace::Reader;
  using Vcpu = VcpuState<C, Reader, A::kRootLevel>;
  using Slot = core::Slot<Memory>;
  using Slots = SlotSnapshot<Memory>;
  using Rmap = HandleList<Memory, kLockless>;
  using Parents = HandleList<Memory, false>;
  using Caps = typename A::Caps;
  static_assert(sizeof(Page) <= 128 || sizeof(typename R::PageState) > 24, "the budget is two cache lines");

  State(H& h, const Caps& c) noexcept : host(h), caps(c) {}
  State(const State&) = delete;

  H& host;
  Caps caps;
  L slots_lock;  ///< serializes memslot updates and generation changes; taken before `lock`
  const Slots* snapshot = &kNoSlots<Memory>;  ///< cell
  std::uint32_t next_slot = 1;                ///< 0 names no slot: what a failed Result holds
  std::uint32_t wanted_limit = 0;             ///< what set_limit asked for; 0: a fiftieth of the slots

  alignas(64) L lock;
  std::uint64_t mmio_generation = 0;  ///< cell: see MmioGeneration; written without the lock
  std::uint64_t mmio_entries = 0;     ///< cell: MMIO entries in the tables; a hint where read without the lock
  std::uint64_t invalidate_seq = 0;   ///< cell: ends of host invalidations
  std::uint64_t invalidating = 0;     ///< cell: host invalidations in progress
  Gfn invalidate_first{}, invalidate_end{};
  Generation generation = 0;
  std::uint32_t serial = 0;
  std::uint64_t last_sync = 0;    ///< number of the sync that began last
  std::uint64_t generations = 0;  ///< changes so far, in full width
  std::uint64_t covered = 0;      ///< of them, those after which every vCPU has left its old root and flushed
  std::uint64_t epoch =
      0;  ///< advances whenever a link goes, and with a generation: what vCPUs remember of paths is void
  std::uint32_t limit = 0;  ///< shadow pages allowed: never less than what the vCPUs need
  std::uint32_t used = 0;   ///< shadow pages linked, invalid or waiting to be flushed
  IndexedPool<Page> pages;
  CellPool cells;
  PageHash<Page> hash;
  LivePages<Page> live;
  ObsoletePages<Page> obsolete;
  Pages invalid;  ///< unlinked roots that a vCPU still uses
  Pages dropped;  ///< zapped, unflushed, unfreed: the debt that outlived its guard
  Deferred<Pages> deferred;
  R reclaim;
  typename C::Stats stats;
  Gfn exec_cursor{};       ///< where recover_exec_splits goes on
  std::uint32_t logs = 0;  ///< slots whose dirty log is on
  VcpuList<Vcpu> vcpus;
  std::uint32_t vcpu_count = 0;
  std::uint32_t holders = 0;       ///< vCPUs that hold pages against eviction
  std::uint32_t readers = 0;       ///< Mmu::Reader objects
  std::uint64_t vcpu_numbers = 0;  ///< given out so far
  void* spare_sides = nullptr;     ///< frames of side words between two uses, chained through their first word
  std::uint32_t side_frames = 0;   ///< those in use and spare: never given back before the end (see SideAccess)
  std::uint32_t tables = 0;        ///< table frames that belong to shadow pages
  std::uint64_t window_owner =
      0;  ///< cell: number of the vCPU that has write windows open; others stay out of the guest
  std::uint64_t* dummy_root = nullptr;  ///< one zero table: the root of a guest whose root is nowhere
  Grace grace;                          ///< has cache lines of its own

  [[nodiscard]] bool obsolete_page(const Page& p) const noexcept {
    return p.generation != generation || p.life != PageLife::Linked;
  }
  /// Whether no hardware can see a page of an earlier generation any more: freeing one owes no flush.
  [[nodiscard]] bool obsolete_unseen() const noexcept { return covered == generations; }
  [[nodiscard]] Page& page(PageIndex i) noexcept { return *pages.at(i); }
  [[nodiscard]] Page* strong(WeakPage w) noexcept {
    if (w.index == kNoPage) return nullptr;
    Page& p = page(w.index);
    return p.serial == w.serial && p.life != PageLife::Free && p.life != PageLife::Zapped ? &p : nullptr;
  }
  [[nodiscard]] Hpa table_address(const Page& p) noexcept { return host.to_phys(p.table); }

  void flush(FlushOwed f, VcpuId who = kAllVcpus) noexcept {
    if (!f.needed()) return;
    stats.add(&Counters::flushes);
    host.flush(f.request(who));
  }
  /// The same without the lock, hence uncounted.
  void flush_unlocked(FlushOwed f) noexcept {
    if (f.needed()) host.flush(f.request(kAllVcpus));
  }
  /// Effects: every frame of metadata goes back to the Host. Requires: no page is left.
  void drain() noexcept {
    const auto free = [this](const void* p) noexcept { host.free_frame(host.to_phys(p)); };
    pages.drain(free);
    cells.drain(free);
    hash.drain(free);
    SideAccess<State>::drain(*this, free);
  }

 private:
  friend class Disposal<State>;
  /// Effects: returns table, side and metadata of a Quiet page. Only Disposal::release calls it.
  void free_page(Page& p) noexcept {
    host.free_frame(table_address(p));
    tables -= 1;
    SideAccess<State>::give(*this, p);
    if (p.unsync_map != 0) cells.template give<Memory>(p.unsync_map);
    const PageIndex i = p.index;
    p.~Page();
    // The pool's chain word must not look like a page to a stale WeakPage: life and serial lie behind it and stay.
    Page* dead = ::new (static_cast<void*>(pages.at(i))) Page;
    dead->life = PageLife::Free;
    pages.template give<Memory>(i);
  }
};

template <class S>
using SlotOf = typename S::Slot;
template <class S>
using SlotsOf = typename S::Slots;

}  // namespace shadowmmu::core
