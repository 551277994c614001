// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/guard.hpp"
#include "shadowmmu/core/state.hpp"

/// Single entries: set, drop, protect; and the rmap that goes with every leaf.
namespace shadowmmu::core {

using memory::Order;

// gcc at -O1 calls a template that does not ask to be inline, and the audit reads every entry by this.
template <class S>
[[nodiscard]] inline std::uint64_t entry(const typename S::Page& p, unsigned i) noexcept {
  return S::Memory::plain(p.table[i]);
}
template <class S>
[[nodiscard]] bool is_leaf(const typename S::Page& p, std::uint64_t e) noexcept {
  return S::Arch::leaf(e, p.role.level());
}

/// Returns: the rmap word of the leaf at entry i of p; nullptr only if bookkeeping is broken.
template <class S>
[[nodiscard]] std::uint32_t* rmap_of(S& s, const typename S::Page& p, unsigned i) noexcept {
  const Gfn g = leaf_gfn<S>(p, i, entry<S>(p, i));
  SlotOf<S>* slot = s.snapshot->find_any(g);
  return slot == nullptr ? nullptr : slot->rmap(g, p.role.level());
}

/// Effects: notes that the guest may have written the pages of a leaf that is losing its D mark: in the slot's log
/// where it is on, and to the Host. Complexity: O(1), O(frames) where a log is on.
template <class S>
void note_written(S& s, Gfn first, Level l) noexcept {
  s.host.wrote(first, l.frames());
  if (s.logs == 0) return;
  SlotOf<S>* slot = s.snapshot->find_any(first);
  if (slot == nullptr || slot->log() == DirtyMethod::Off) return;
  for (std::uint64_t n = 0; n < l.frames(); ++n) slot->mark_dirty(first + n);
}

/// Effects: clears a present leaf whose rmap entry is gone already. Uses an exchange, since hardware may set D
/// meanwhile, but where none can see the page any more; a D that was set is noted (for which the exchange is
/// sequentially consistent, see Slot::mark_dirty). Flush: owed by the caller.
template <class S>
FlushOwed clear_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  h.verify(s.lock);
  std::uint64_t was = 0;
  if (p.generation != s.generation && s.obsolete_unseen()) {
    was = entry<S>(p, i);
    S::Memory::plain(p.table[i], 0);
  } else {
    was = S::Memory::template exchange<Order::SeqCst>(p.table[i], 0);
  }
  if (S::Arch::dirty(s.caps, was)) note_written(s, leaf_gfn<S>(p, i, was), p.role.level());
  p.live = static_cast<std::uint16_t>(p.live - 1U);
  return flush_for<S>(p, i, was);
}
/// Effects: clears a present leaf and removes its rmap entry. Flush: owed by the caller. Complexity: O(rmap length /
/// 14).
template <class S>
FlushOwed drop_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  if (std::uint32_t* head = rmap_of(s, p, i); head != nullptr) S::Rmap::remove(s.cells, *head, EntryHandle(p.index, i));
  return clear_leaf(s, h, p, i);
}

/// The flush that changed leaves of gfns owe: by address where the hardware tags entries with the gfn, else everything.
template <class S>
[[nodiscard]] FlushOwed flush_for_gfns(Gfn first, std::uint64_t pages) noexcept {
  if constexpr (!S::Arch::kGuests.indirect())
    return FlushOwed::range(first.value(), pages);
  else
    return FlushOwed::all();
}
/// The flush that a changed leaf owes; `e`: a leaf that was read there.
template <class S>
[[nodiscard]] FlushOwed flush_for(const typename S::Page& p, unsigned i, std::uint64_t e) noexcept {
  return flush_for_gfns<S>(leaf_gfn<S>(p, i, e), p.role.level().frames());
}

/// Effects: replaces the leaf by change(leaf), a D mark that goes being noted, as in clear_leaf. Returns: whether it
/// differs now.
template <class S, class F>
bool change_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i, F&& change) noexcept {
  h.verify(s.lock);
  std::uint64_t e = S::Memory::template load<Order::Relaxed>(p.table[i]);
  std::uint64_t now = 0;
  do {
    now = change(e);
    if (now == e) return false;
  } while (!S::Memory::template compare_exchange<Order::SeqCst>(p.table[i], e, now));
  if (S::Arch::dirty(s.caps, e) && !S::Arch::dirty(s.caps, now)) note_written(s, leaf_gfn<S>(p, i, e), p.role.level());
  return true;
}

/// Effects: takes W from the leaf. Flush: owed where an mmu-writable entry loses it.
template <class S>
FlushOwed protect_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  std::uint64_t was = 0;
  const bool lost = change_leaf(s, h, p, i, [&was](std::uint64_t e) {
    was = e;
    return S::Arch::mmu_writable(e) ? S::Arch::without_write(e) : e;
  });
  return lost ? flush_for<S>(p, i, was) : FlushOwed::none();
}

/// Effects: takes W from every leaf that maps g, at each level. Flush: owed by the caller.
template <class S>
FlushOwed rmap_protect(S& s, Entries<S> h, SlotOf<S>& slot, Gfn g) noexcept {
  FlushOwed owed;
  for (unsigned l = 1; l <= S::Arch::kMaxLeafLevel; ++l) {
    const std::uint32_t* head = slot.rmap(g, Level{l});
    if (head == nullptr) continue;
    S::Rmap::for_each(s.cells, *head, [&](EntryHandle e) { owed |= protect_leaf(s, h, s.page(e.page()), e.entry()); });
  }
  return owed;
}

/// Effects: drops every leaf on one rmap word. Flush: owed by the caller.
template <class S>
FlushOwed rmap_zap_head(S& s, Entries<S> h, std::uint32_t& head) noexcept {
  FlushOwed owed;
  S::Rmap::drain(s.cells, head, [&](EntryHandle e) { owed |= clear_leaf(s, h, s.page(e.page()), e.entry()); });
  return owed;
}

/// Effects: drops every leaf that maps g, at each level. Flush: owed by the caller.
template <class S>
FlushOwed rmap_zap(S& s, Entries<S> h, SlotOf<S>& slot, Gfn g) noexcept {
  FlushOwed owed;
  for (unsigned l = 1; l <= S::Arch::kMaxLeafLevel; ++l)
    if (std::uint32_t* head = slot.rmap(g, Level{l}); head != nullptr) owed |= rmap_zap_head(s, h, *head);
  return owed;
}

}  // namespace shadowmmu::core
