// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <new>

#include "shadowmmu/core/notifier.hpp"
#include "shadowmmu/core/reader.hpp"
#include "shadowmmu/core/zap.hpp"

/// Memslots come and go: a new snapshot is published, readers of the old one are waited for, then its memory goes.
namespace shadowmmu::core {

/// The slots lock as a scope; taken before, never inside, the Mmu's lock.
template <class S>
class SlotsScope {
 public:
  explicit SlotsScope(S& s) noexcept : lock_(s.slots_lock) { lock_.lock(); }
  SlotsScope(const SlotsScope&) = delete;
  ~SlotsScope() { lock_.unlock(); }

 private:
  typename S::Lock& lock_;
};

template <class S>
[[nodiscard]] SlotSnapshot* new_snapshot(S& s) noexcept {
  void* frame = Magazine::fresh(s.host, FrameKind::Metadata);
  return frame == nullptr ? nullptr : ::new (frame) SlotSnapshot;
}
template <class S>
void free_snapshot(S& s, const SlotSnapshot* snapshot) noexcept {
  if (snapshot != &kNoSlots) s.host.free_frame(s.host.to_phys(snapshot));
}

/// Effects: faults see `next` from now on; those under way with another snapshot find out under the lock and retry.
/// Returns: the snapshot that was; its memory may go after wait_slot_readers. Requires: the slots lock.
template <class S>
[[nodiscard]] const SlotSnapshot* publish(S& s, ExclusiveGuard<S>&, const SlotSnapshot* next) noexcept {
  const SlotSnapshot* old = s.snapshot;
  S::Memory::template store<Order::Release>(s.snapshot, next);
  return old;
}

/// Returns: the least limit that can work: four pinned directories a vCPU, three levels of a path, and the reserve.
template <class S>
[[nodiscard]] std::uint32_t least_limit(const S& s) noexcept {
  return s.vcpu_count * 4U + 3U + S::Config::kLowPages;
}
/// Effects: the limit is what was asked for, or a fiftieth of the memory where nothing was; never less than the least.
template <class S>
void apply_limit(S& s) noexcept {
  std::uint64_t n = s.wanted_limit;
  if (n == 0) {
    for (unsigned i = 0; i < s.snapshot->count(); ++i) n += s.snapshot->at(i)->pages();
    n = n / 50 < S::Config::kMinLimit ? S::Config::kMinLimit : n / 50;
  }
  constexpr std::uint64_t kMost = (1U << kPageIndexBits) - 1;
  if (n > kMost) n = kMost;
  s.limit = static_cast<std::uint32_t>(n < least_limit(s) ? least_limit(s) : n);
}

/// Effects: a new slot. Errors: BadRange (empty, wrapping, beyond 2^32 gfns), Overlap, TooManySlots, OutOfMemory; then
/// nothing changed. vCPUs reload, since a root that was nowhere may now be memory.
template <class S>
[[nodiscard]] Result<SlotId> add_slot(S& s, Gfn first, std::uint64_t pages, SlotFlags flags) noexcept {
  if (pages == 0 || pages > kMaxGfn || first.value() > kMaxGfn - pages) return Error::BadRange;
  const SlotsScope<S> scope(s);
  const SlotSnapshot* now = s.snapshot;
  if (now->overlaps(first, pages)) return Error::Overlap;
  if (now->count() == SlotSnapshot::kCapacity) return Error::TooManySlots;
  const SlotId id{s.next_slot};
  Slot* slot = Slot::create(s.host, id, first, pages, flags);
  if (slot == nullptr) return Error::OutOfMemory;
  SlotSnapshot* next = new_snapshot(s);
  if (next == nullptr) {
    slot->destroy(s.host);
    return Error::OutOfMemory;
  }
  s.next_slot += 1;
  next->copy_with(*now, slot);
  {
    ExclusiveGuard<S> g(s);
    now = publish(s, g, next);
    apply_limit(s);
    request_reload(s, g.held());
  }
  wait_slot_readers(s);
  free_snapshot(s, now);
  return id;
}

/// Effects: the slot is gone and nothing maps it. Faults stop seeing it first; then every page of the old generation
/// is zapped (policy All); only then do its arrays go. Errors: NoSuchSlot, OutOfMemory (nothing changed). Flush: done.
template <class S>
[[nodiscard]] Status remove_slot(S& s, SlotId id) noexcept {
  const SlotsScope<S> scope(s);
  Slot* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  SlotSnapshot* retiring = new_snapshot(s);
  SlotSnapshot* next = new_snapshot(s);
  if (retiring == nullptr || next == nullptr) {
    if (retiring != nullptr) free_snapshot(s, retiring);
    if (next != nullptr) free_snapshot(s, next);
    return Error::OutOfMemory;
  }
  retiring->copy_retiring(*s.snapshot, slot);
  next->copy_without(*s.snapshot, slot);
  const SlotSnapshot* old = nullptr;
  {
    ExclusiveGuard<S> g(s);
    old = publish(s, g, retiring);
    S::Memory::template store<Order::Release>(s.invalidate_seq, s.invalidate_seq + 1);
    begin_generation(s, g);
    while (zap_obsolete(s, g, 64) != 0) {
    }
    g.settle();
    static_cast<void>(publish(s, g, next));
    apply_limit(s);
  }
  wait_slot_readers(s);
  free_snapshot(s, old);
  free_snapshot(s, retiring);
  slot->destroy(s.host);
  return Unit{};
}

}  // namespace shadowmmu::core
