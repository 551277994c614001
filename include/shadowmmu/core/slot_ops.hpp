// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <new>

#include "shadowmmu/core/mmio.hpp"
#include "shadowmmu/core/notifier.hpp"
#include "shadowmmu/core/reader.hpp"
#include "shadowmmu/core/zap.hpp"

/// Memslots come and go: a new snapshot is published, readers of the old one are waited for, then its memory goes.
namespace shadowmmu::core {

template <class S>
[[nodiscard]] SlotsOf<S>* new_snapshot(S& s) noexcept {
  void* frame = Magazine::fresh(s.host, FrameKind::Metadata);
  return frame == nullptr ? nullptr : ::new (frame) SlotsOf<S>;
}
template <class S>
void free_snapshot(S& s, const SlotsOf<S>* snapshot) noexcept {
  if (snapshot != &kNoSlots<typename S::Memory>) s.host.free_frame(s.host.to_phys(snapshot));
}

/// Effects: faults see `next` from now on; those under way with another snapshot find out under the lock and retry.
/// Returns: the snapshot that was; its memory may go after wait_readers. Requires: the slots lock.
template <class S>
[[nodiscard]] const SlotsOf<S>* publish(S& s, ExclusiveGuard<S>&, SlotsOf<S>* next) noexcept {
  const SlotsOf<S>* old = s.snapshot;
  next->follow(*old);
  S::Memory::template store<Order::Release>(s.snapshot, next);
  return old;
}

/// Returns: the least limit that can work: what one instruction of each vCPU may need at once, sixteen paths with only
/// the root in common. 49 for one vCPU under four levels, 98 for two, 392 for eight.
template <class S>
[[nodiscard]] std::uint32_t least_limit(const S& s) noexcept {
  return (s.vcpu_count == 0 ? 1U : s.vcpu_count) * decltype(S::Vcpu::holding)::kPages;
}
/// Effects: the limit is what was asked for, or a fiftieth of the memory where nothing was; never less than the least.
template <class S>
void apply_limit(S& s) noexcept {
  std::uint64_t n = s.wanted_limit;
  if (n == 0) {
    for (unsigned i = 0; i < s.snapshot->count(); ++i) n += s.snapshot->at(i)->pages();
    n = max_of(n / 50, std::uint64_t{S::Config::kMinLimit});
  }
  constexpr std::uint64_t kMost = (1U << kPageIndexBits) - 1;
  s.limit = static_cast<std::uint32_t>(max_of(min_of(n, kMost), std::uint64_t{least_limit(s)}));
}

/// Effects: at most n shadow pages from now on, or the least that can work; what is beyond goes, the lock let go
/// between slices. Returns: that least. Complexity: O(pages beyond).
template <class S>
[[nodiscard]] std::uint32_t set_limit(S& s, std::uint32_t n) noexcept {
  std::uint32_t beyond = 0;
  {
    const ExclusiveGuard<S> g(s);
    s.wanted_limit = n == 0 ? 1 : n;
    apply_limit(s);
    beyond = s.used > s.limit ? s.used - s.limit : 0U;
  }
  while (beyond != 0) {
    ExclusiveGuard<S> g(s);
    const std::uint32_t freed = evict(s, g, 0, kEvictAtOnce);
    g.settle_for_good();
    if (freed == 0) break;
    beyond -= min_of(freed, beyond);
  }
  const ExclusiveGuard<S> g(s);
  return least_limit(s);
}

[[nodiscard]] constexpr bool bad_range(Gfn first, std::uint64_t pages) noexcept {
  return pages == 0 || pages > kMaxGfn || first.value() > kMaxGfn - pages;
}

/// Effects: faults see `fresh` beside the other slots of `now` from here on; MMIO entries made before are not believed
/// any more. vCPUs reload, since a root that was nowhere may now be memory. Requires: the slots lock; `next` is new.
template <class S>
void publish_slot(S& s, SlotsOf<S>* next, const SlotsOf<S>& rest, SlotOf<S>* fresh) noexcept {
  next->copy_with(rest, fresh);
  MmioGeneration<S>::begin(s);
  {
    ExclusiveGuard<S> g(s);
    static_cast<void>(publish(s, g, next));
    apply_limit(s);
    request_reload(s, g.held());
  }
  MmioGeneration<S>::end(s);
}

/// Effects: a new slot. Errors: BadRange (empty, wrapping, beyond 2^32 gfns), Overlap, TooManySlots, OutOfMemory; then
/// nothing changed.
template <class S>
[[nodiscard]] Result<SlotId> add_slot(S& s, Gfn first, std::uint64_t pages, SlotFlags flags) noexcept {
  if (bad_range(first, pages)) return Error::BadRange;
  const SlotsScope<S> scope(s);
  const SlotsOf<S>* now = s.snapshot;
  if (now->overlaps(first, pages)) return Error::Overlap;
  if (now->count() == kMaxSlots) return Error::TooManySlots;
  const SlotId id{s.next_slot};
  SlotOf<S>* slot = SlotOf<S>::create(s.host, id, first, pages, flags);
  if (slot == nullptr) return Error::OutOfMemory;
  SlotsOf<S>* next = new_snapshot(s);
  if (next == nullptr) {
    slot->destroy(s.host);
    return Error::OutOfMemory;
  }
  s.next_slot += 1;
  publish_slot(s, next, *now, slot);
  wait_readers(s);
  free_snapshot(s, now);
  return id;
}

/// Effects: zaps the shadow pages of guest tables that lie in [first, reached) of the slot. They are found by the
/// slot's own counts: a direct page, whose gfn is rounded down to what it covers, has none. Flush: by the guard.
template <class S>
RegionWork zap_tables_in(S& s, ExclusiveGuard<S>& g, SlotOf<S>& slot, Gfn first, Gfn end) noexcept {
  RegionWork w{first, 0};
  if (!slot.has_track(first)) return {end, 0};
  const TrackCount* count = &slot.track_cell(first);  // those of a region lie side by side in one frame
  for (; w.reached < end && w.pages < S::Config::kYieldPages; w.reached = w.reached + 1, ++count) {
    while (count->upper != 0 || count->leaf != 0) {
      typename S::Page* found = nullptr;
      for (auto& p : s.hash.bucket(w.reached))
        if (p.gfn == w.reached && !p.role.direct()) found = &p;
      if (found == nullptr) break;
      static_cast<void>(prepare_zap(s, g, *found));
      w.pages += 1;
    }
  }
  return w;
}

/// Effects: the slot's own entries go, and nothing else: leaves that map it, shadow pages of guest tables in it. The
/// lock is let go on the way. Requires: the slots lock. Flush: by the guards. Complexity: O(pages of the slot that ever
/// were mapped or held tables + entries).
template <class S>
void zap_slot_entries(S& s, const SlotOf<S>& slot) noexcept {
  ExclusiveGuard<S> g(s);
  for_each_region(s, g, slot.first(), slot.pages(), [&](SlotOf<S>& at, Gfn lo, Gfn hi) noexcept {
    const RegionWork leaves = zap_leaves(s, g, at, lo, hi);
    const RegionWork tables = zap_tables_in(s, g, at, lo, leaves.reached);
    return RegionWork{tables.reached, leaves.pages + tables.pages};
  });
}

/// Effects: faults stop seeing the slot; then no entry maps it, and no page shadows a table in it, any more: by a new
/// generation (All) or by its own entries (Targeted). Requires: the slots lock; `retiring` is a new snapshot.
template <class S>
void retire_slot(S& s, SlotOf<S>& slot, SlotsOf<S>* retiring) noexcept {
  retiring->copy_retiring(*s.snapshot, &slot);
  {
    ExclusiveGuard<S> g(s);
    static_cast<void>(publish(s, g, retiring));
    if constexpr (S::Config::kSlotRemoval == config::SlotRemoval::All) Generations<S>::begin(s, g);
  }
  if constexpr (S::Config::kSlotRemoval == config::SlotRemoval::All) {
    Generations<S>::cover(s);
    Generations<S>::finish(s);
  } else {
    zap_slot_entries(s, slot);
  }
}

/// Two new snapshots, or none.
template <class S>
[[nodiscard]] bool new_snapshots(S& s, SlotsOf<S>*& a, SlotsOf<S>*& b) noexcept {
  a = new_snapshot(s);
  b = a == nullptr ? nullptr : new_snapshot(s);
  if (b != nullptr) return true;
  if (a != nullptr) free_snapshot(s, a);
  return false;
}

/// Effects: the slot is gone and nothing maps it. Its arrays go last, when no entry, of whatever generation, is on
/// them. Errors: NoSuchSlot, OutOfMemory (nothing changed). Flush: done.
template <class S>
[[nodiscard]] Status remove_slot(S& s, SlotId id) noexcept {
  const SlotsScope<S> scope(s);
  SlotOf<S>* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  SlotsOf<S>* retiring = nullptr;
  SlotsOf<S>* next = nullptr;
  if (!new_snapshots(s, retiring, next)) return Error::OutOfMemory;
  const SlotsOf<S>* old = s.snapshot;
  next->copy_without(*old, slot);
  retire_slot(s, *slot, retiring);
  {
    ExclusiveGuard<S> g(s);
    if (slot->log() != DirtyMethod::Off) s.logs -= 1;
    static_cast<void>(publish(s, g, next));
    apply_limit(s);
  }
  wait_readers(s);
  free_snapshot(s, old);
  free_snapshot(s, retiring);
  slot->destroy(s.host);
  return Unit{};
}

/// Effects: the slot, id and flags kept, is [first, first + pages) from now on. Faults on what moves are answered Retry
/// until it has arrived. Errors: NoSuchSlot, LogActive, BadRange, Overlap, OutOfMemory; then nothing changed. Flush:
/// done.
template <class S>
[[nodiscard]] Status place_slot(S& s, SlotId id, Gfn first, std::uint64_t pages) noexcept {
  const SlotsScope<S> scope(s);
  SlotOf<S>* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  if (pages == 0) pages = slot->pages();
  if (slot->log() != DirtyMethod::Off) return Error::LogActive;
  if (bad_range(first, pages)) return Error::BadRange;
  const SlotsOf<S>* old = s.snapshot;
  if (old->overlaps(first, pages, slot)) return Error::Overlap;
  SlotOf<S>* fresh = SlotOf<S>::create(s.host, id, first, pages, SlotFlags{slot->read_only()});
  if (fresh == nullptr) return Error::OutOfMemory;
  SlotsOf<S>* retiring = nullptr;
  SlotsOf<S>* next = nullptr;
  SlotsOf<S>* rest = new_snapshot(s);
  if (rest == nullptr || !new_snapshots(s, retiring, next)) {
    if (rest != nullptr) free_snapshot(s, rest);
    fresh->destroy(s.host);
    return Error::OutOfMemory;
  }
  rest->copy_without(*old, slot);
  retire_slot(s, *slot, retiring);
  publish_slot(s, next, *rest, fresh);
  wait_readers(s);
  free_snapshot(s, old);
  free_snapshot(s, retiring);
  free_snapshot(s, rest);
  slot->destroy(s.host);
  return Unit{};
}

/// Effects: the slot's own entries are gone; faults may make them anew meanwhile. Errors: NoSuchSlot. Flush: done.
template <class S>
[[nodiscard]] Status zap_slot(S& s, SlotId id) noexcept {
  const SlotsScope<S> scope(s);
  const SlotOf<S>* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  zap_slot_entries(s, *slot);
  return Unit{};
}

/// Effects: the slot has other flags; what was derived from the old ones is zapped. Errors: NoSuchSlot. Flush: done.
template <class S>
[[nodiscard]] Status set_slot_flags(S& s, SlotId id, SlotFlags flags) noexcept {
  const SlotsScope<S> scope(s);
  SlotOf<S>* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  {
    const ExclusiveGuard<S> g(s);
    slot->set_flags(flags);
    slot->set_settling(true);
    S::Memory::template store<Order::Release>(s.invalidate_seq, S::Memory::plain(s.invalidate_seq) + 1);
  }
  zap_slot_entries(s, *slot);
  const ExclusiveGuard<S> g(s);
  slot->set_settling(false);
  return Unit{};
}

}  // namespace shadowmmu::core
