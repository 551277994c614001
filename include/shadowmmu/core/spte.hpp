// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/guard.hpp"
#include "shadowmmu/core/state.hpp"

/// Single entries: set, drop, protect; and the rmap that goes with every leaf.
namespace shadowmmu::core {

using memory::Order;

template <class S>
[[nodiscard]] std::uint64_t entry(const typename S::Page& p, unsigned i) noexcept {
  return S::Memory::plain(p.table[i]);
}
template <class S>
[[nodiscard]] bool is_leaf(const typename S::Page& p, std::uint64_t e) noexcept {
  return S::Arch::leaf(e, p.role.level());
}

/// Returns: the rmap word of the leaf at entry i of p; nullptr only if bookkeeping is broken.
template <class S>
[[nodiscard]] std::uint32_t* rmap_of(S& s, const typename S::Page& p, unsigned i) noexcept {
  const Gfn g = s.leaf_gfn(p, i);
  Slot* slot = s.snapshot->find_any(g);
  return slot == nullptr ? nullptr : slot->rmap(g, p.role.level());
}

/// Effects: clears a present leaf whose rmap entry is gone already. Uses an exchange, since hardware may set D
/// meanwhile. Flush: owed by the caller.
template <class S>
FlushOwed clear_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  h.verify(s.lock);
  S::Memory::template exchange<Order::AcqRel>(p.table[i], 0);
  p.live = static_cast<std::uint16_t>(p.live - 1U);
  return flush_for(s, p, i);
}
/// Effects: clears a present leaf and removes its rmap entry. Flush: owed by the caller. Complexity: O(rmap length /
/// 14).
template <class S>
FlushOwed drop_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  if (std::uint32_t* head = rmap_of(s, p, i); head != nullptr)
    HandleList::remove(s.cells, *head, EntryHandle(p.index, i));
  return clear_leaf(s, h, p, i);
}

/// The flush that a changed leaf owes: by address where the hardware tags entries with the gfn, else everything.
template <class S>
[[nodiscard]] FlushOwed flush_for(S& s, const typename S::Page& p, unsigned i) noexcept {
  if constexpr (!S::Arch::kGuests.indirect())
    return FlushOwed::range(s.leaf_gfn(p, i).value(), p.role.level().frames());
  else
    return FlushOwed::all();
}

/// Effects: takes W from the leaf. Flush: owed where an mmu-writable entry loses it.
template <class S>
FlushOwed protect_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i) noexcept {
  h.verify(s.lock);
  std::uint64_t e = S::Memory::template load<Order::Relaxed>(p.table[i]);
  do {
    if (!S::Arch::writable(e)) return FlushOwed::none();
  } while (!S::Memory::template compare_exchange<Order::AcqRel>(p.table[i], e, S::Arch::without_write(e)));
  return flush_for(s, p, i);
}

/// Effects: takes W from every leaf that maps g, at each level. Flush: owed by the caller.
template <class S>
FlushOwed rmap_protect(S& s, Entries<S> h, Slot& slot, Gfn g) noexcept {
  FlushOwed owed;
  for (unsigned l = 1; l <= S::Arch::kMaxLeafLevel; ++l) {
    const std::uint32_t* head = slot.rmap(g, Level{l});
    if (head == nullptr) continue;
    HandleList::for_each(s.cells, *head,
                         [&](EntryHandle e) { owed |= protect_leaf(s, h, s.page(e.page()), e.entry()); });
  }
  return owed;
}

/// Effects: drops every leaf on one rmap word. Flush: owed by the caller.
template <class S>
FlushOwed rmap_zap_head(S& s, Entries<S> h, std::uint32_t& head) noexcept {
  FlushOwed owed;
  while (head != 0) {
    const EntryHandle e = HandleList::any(s.cells, head);
    HandleList::remove(s.cells, head, e);
    owed |= clear_leaf(s, h, s.page(e.page()), e.entry());
  }
  return owed;
}

/// Effects: drops every leaf that maps g, at each level. Flush: owed by the caller.
template <class S>
FlushOwed rmap_zap(S& s, Entries<S> h, Slot& slot, Gfn g) noexcept {
  FlushOwed owed;
  for (unsigned l = 1; l <= S::Arch::kMaxLeafLevel; ++l)
    if (std::uint32_t* head = slot.rmap(g, Level{l}); head != nullptr) owed |= rmap_zap_head(s, h, *head);
  return owed;
}

}  // namespace shadowmmu::core
