// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/reader.hpp"
#include "shadowmmu/core/roots.hpp"

/// The fault without the lock: a write to a page that only a dirty log keeps from being written.
namespace shadowmmu::core {

/// Whether the fault may be one that needs no lock: a write, refused by a present entry, of a guest without tables of
/// its own (an entry that follows a guest's table stands for its D bit and its tracking, too).
template <class S>
[[nodiscard]] bool may_be_fast(const typename S::Vcpu& v, AccessRequest request, std::uint32_t error_code) noexcept {
  if constexpr (!S::kLockless) return false;
  const GuestMode m = v.paging.mode();
  return request.write && !request.fetch && (m == GuestMode::Direct || m == GuestMode::NonPaging) &&
         (error_code & (pferr::kPresent | pferr::kReserved)) == pferr::kPresent;
}

/// Effects: the leaf of `a` may be written again, and the slot's log says so. The mark comes after the leaf, as in
/// set_leaf. Never a large leaf while the slot's writes are logged: start_dirty_log waits for sections that have not
/// seen the log yet. Returns: whether the fault is answered; false after four lost exchanges. Locking: a section.
/// Source: KVM, "fast page fault" (2012).
template <class S>
[[nodiscard]] bool fast_fault(S& s, typename S::Vcpu& v, const ReadSection<S>& section, Gva a) noexcept {
  using Memory = typename S::Memory;
  using Arch = typename S::Arch;
  constexpr unsigned kTries = 4;
  const Gfn gfn{a.value() >> kPageShift};
  for (unsigned tries = 0; tries < kTries; ++tries) {
    const ShadowWalk<S> w(s, v, a);
    if (!w.leaf) return false;
    std::uint64_t e = w.entry;
    const bool writable = Arch::writable(e);
    if (!writable && !Arch::restorable(e)) return false;
    SlotOf<S>* slot = section.slots().find(gfn, v.slot_hint);
    if (slot == nullptr || slot->read_only() || (w.level > 1 && slot->log() != DirtyMethod::Off)) return false;
    if (writable) {
      slot->mark_dirty(gfn);  // somebody else's fault was faster, and may not have come to its mark yet
      return true;
    }
    // Sequentially consistent, since mark_dirty may only look at a mark that is set.
    if (!Memory::template compare_exchange<Order::SeqCst>(*w.cell, e, Arch::restored(s.caps, e))) continue;
    slot->mark_dirty(gfn);
    return true;
  }
  return false;
}

}  // namespace shadowmmu::core
