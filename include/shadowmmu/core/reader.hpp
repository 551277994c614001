// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/host.hpp"
#include "shadowmmu/core/state.hpp"

namespace shadowmmu::core {

/// A section in which a thread reads, without the lock, what writers replace: the slot snapshot and, where the lock
/// policy has readers, shadow tables. Nests. Whoever takes something out of sight waits for the sections that may have
/// seen it before its memory is freed: so a section must not ask for a lock of this Mmu, nor flush.
template <class S>
class ReadSection {
 public:
  ReadSection(S& s, typename S::Reader& r) noexcept : state_(s), reader_(r) {
    if constexpr (requires { s.lock.section_began(); }) {
      s.lock.section_began();
      s.slots_lock.section_began();
    }
    s.grace.enter(r);
  }
  ReadSection(const ReadSection&) = delete;
  ~ReadSection() {
    state_.grace.leave(reader_);
    if constexpr (requires { state_.lock.section_ended(); }) {
      state_.lock.section_ended();
      state_.slots_lock.section_ended();
    }
  }
  /// Returns: the memslots now. They stay until the section ends.
  [[nodiscard]] const SlotsOf<S>& slots() const noexcept {
    return *S::Memory::template load<memory::Order::Acquire>(state_.snapshot);
  }

 private:
  S& state_;
  typename S::Reader& reader_;
};

/// Effects: waits until every section that is open has ended. Locking: the slots lock or the Mmu's must be held; no
/// section may be open in the calling thread.
template <class S>
void wait_readers(S& s) noexcept {
  if constexpr (S::Grace::kByFlush)
    s.flush_unlocked(FlushOwed::all());
  else
    s.grace.wait();
}

/// Returns: whether the guest tables in `gfn` of the slot keep their A and D bits whatever the guest does: tables in
/// ROM. The slot's own flag answers before the Host is asked.
template <class S>
[[nodiscard]] bool keeps_bits(S& s, const SlotOf<S>& slot, Gfn gfn) noexcept {
  return slot.read_only() || s.host.backing(gfn, false).kind == Backing::Kind::ReadOnly;
}

/// Guest memory as the walker sees it: only frames that a slot owns, one under removal included: the Host's memory is
/// there until the removal returns.
template <class S>
class GuestReader {
 public:
  GuestReader(S& s, const SlotsOf<S>& slots, unsigned& hint) noexcept : state_(s), slots_(slots), hint_(hint) {}
  /// A guest's tables mostly lie in one slot: the last one's bounds are kept at hand.
  [[nodiscard]] const void* page(Gfn g) noexcept {
    if (g.value() - first_ >= pages_) {
      const SlotOf<S>* slot = slots_.find_readable(g, hint_);
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
    SlotOf<S>* slot = slots_.find_any(frame_of(a));
    if (slot != nullptr && slot->read_only()) return GuestExchange::ReadOnly;
    const GuestExchange x = state_.host.guest_exchange(a, bytes, old, now);
    if (x == GuestExchange::Done && slot != nullptr) slot->mark_dirty(frame_of(a));
    return x;
  }
  /// Returns: whether the table's entries never get their D bit.
  [[nodiscard]] bool keeps_bits(Gfn table) noexcept {
    const SlotOf<S>* slot = slots_.find_any(table);
    return slot != nullptr && core::keeps_bits(state_, *slot, table);
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
  const SlotsOf<S>& slots_;
  unsigned& hint_;
  std::uint64_t first_ = 0, pages_ = 0;
};

}  // namespace shadowmmu::core
