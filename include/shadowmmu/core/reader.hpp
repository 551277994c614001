// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/host.hpp"
#include "shadowmmu/core/state.hpp"

namespace shadowmmu::core {

/// A section in which a vCPU's thread reads the slot snapshot without the lock. Whoever replaces the snapshot waits for
/// it to end before memory of the old one is freed. Cost: one exchange and one store on the vCPU's own line.
template <class S>
class SlotSection {
 public:
  SlotSection(S& s, typename S::Vcpu& v) noexcept : vcpu_(v) {
    // The mark before the read of the pointer: one locked exchange does both.
    S::Memory::template exchange<memory::Order::SeqCst>(v.section, v.section + 1);
    snapshot_ = S::Memory::template load<memory::Order::SeqCst>(s.snapshot);
  }
  SlotSection(const SlotSection&) = delete;
  ~SlotSection() { S::Memory::template store<memory::Order::Release>(vcpu_.section, vcpu_.section + 1); }
  [[nodiscard]] const SlotSnapshot& operator*() const noexcept { return *snapshot_; }
  [[nodiscard]] const SlotSnapshot* get() const noexcept { return snapshot_; }

 private:
  typename S::Vcpu& vcpu_;
  const SlotSnapshot* snapshot_;
};

/// Effects: waits until every vCPU that was inside a section has left it. Locking: the Mmu's lock must not be held (a
/// section may wait for it).
template <class S>
void wait_slot_readers(S& s) noexcept {
  S::Memory::template fence<memory::Order::SeqCst>();
  for (auto& v : s.vcpus) {
    const std::uint64_t seen = S::Memory::template load<memory::Order::Acquire>(v.section);
    if (seen % 2 == 0) continue;
    while (S::Memory::template load<memory::Order::Acquire>(v.section) == seen) S::Memory::pause();
  }
}

/// Guest memory as the walker sees it: only frames that a slot owns, one under removal included: the Host's memory is
/// there until the removal returns.
template <class S>
class GuestReader {
 public:
  GuestReader(S& s, const SlotSnapshot& slots, unsigned& hint) noexcept : state_(s), slots_(slots), hint_(hint) {}
  /// A guest's tables mostly lie in one slot: the last one's bounds are kept at hand.
  [[nodiscard]] const void* page(Gfn g) noexcept {
    if (g.value() - first_ >= pages_) {
      const Slot* slot = slots_.find_readable(g, hint_);
      if (slot == nullptr) return nullptr;
      first_ = slot->first().value();
      pages_ = slot->pages();
    }
    return state_.host.guest_page(g);
  }
  template <class T>
  [[nodiscard]] std::uint64_t load(const T* p) const noexcept {
    return S::Memory::template load<memory::Order::Relaxed>(*p);
  }
  [[nodiscard]] GuestExchange exchange(Gpa a, unsigned bytes, std::uint64_t old, std::uint64_t now) noexcept {
    const GuestExchange x = state_.host.guest_exchange(a, bytes, old, now);
    if (x == GuestExchange::Done)
      if (Slot* slot = slots_.find_any(frame_of(a))) slot->template mark_dirty<typename S::Memory>(frame_of(a));
    return x;
  }
  /// Returns: entry `index` of a guest table of `bytes`-wide entries, or 0 outside memory.
  [[nodiscard]] std::uint64_t entry(Gfn table, unsigned index, unsigned bytes) noexcept {
    const void* p = page(table);
    if (p == nullptr) return 0;
    return bytes == 4 ? load(static_cast<const std::uint32_t*>(p) + index)
                      : load(static_cast<const std::uint64_t*>(p) + index);
  }

 private:
  S& state_;
  const SlotSnapshot& slots_;
  unsigned& hint_;
  std::uint64_t first_ = 0, pages_ = 0;
};

}  // namespace shadowmmu::core
