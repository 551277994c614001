// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/zap.hpp"

/// Host invalidation: the Host takes frames back. Faults snapshot the sequence before they ask for a frame and check
/// range and sequence under the lock, so that none installs what was taken meanwhile.
namespace shadowmmu::core {

/// How far a piece of work on a range of gfns got, and how many shadow pages' worth it was.
struct RegionWork {
  Gfn reached{};
  unsigned pages = 0;
};
/// `reached` of work that wants no more.
inline constexpr Gfn kEverywhere{~std::uint64_t{0}};

/// Returns: the end of `pages` gfns from `first`; a range that wraps ends at the last gfn.
[[nodiscard]] constexpr Gfn range_end(Gfn first, std::uint64_t pages) noexcept {
  return first + min_of(pages, ~std::uint64_t{0} - first.value());
}

/// Part of a slot that lies in one 2 MiB region.
template <class S>
struct Region {
  SlotOf<S>* slot = nullptr;  ///< none: there is no more
  Gfn first{}, end{};
};
/// Returns: the first part of a slot in [first, end).
template <class S>
[[nodiscard]] Region<S> next_region(const SlotsOf<S>& slots, Gfn first, Gfn end) noexcept {
  if (!(first < end)) return {};
  SlotOf<S>* slot = slots.find_from(first);
  if (slot == nullptr || slot->first() >= end) return {};
  const Gfn at = max_of(first, slot->first());
  const Gfn region_end{(at.value() / Level{2}.frames() + 1) * Level{2}.frames()};
  return {slot, at, min_of(min_of(region_end, slot->end()), end)};
}

/// Calls work(slot, first, end) for the part of each slot that lies in [first, first + pages), in pieces of one 2 MiB
/// region at most, upwards; work that has done enough for one critical section stops short of the end and is called
/// again from there. The lock may be let go between two calls, so the slot is looked up anew for each.
template <class S, class F>
void for_each_region(S& s, ExclusiveGuard<S>& g, Gfn first, std::uint64_t pages, F&& work) noexcept {
  GfnCursor at{first, range_end(first, pages)};
  Progress walk(at);
  for (;;) {
    const Region<S> r = next_region<S>(*s.snapshot, at.next, at.end);
    if (r.slot == nullptr) return;
    const RegionWork done = work(*r.slot, r.first, r.end);
    at.next = done.reached;
    g.yield_after(walk, done.pages);
  }
}

/// Calls visit(rmap word) for every word that holds leaves of [first, end), large ones that overlap it included.
/// Returns: how many. Requires: the range lies in one 2 MiB region of the slot. Complexity: O(1) where no head was
/// made, else a look at each gfn's word.
template <class S, class F>
unsigned for_each_head(SlotOf<S>& slot, Gfn first, Gfn end, F&& visit) noexcept {
  unsigned n = 0;
  const auto look = [&](const std::uint32_t& head) noexcept {
    if (S::Rmap::empty(head)) return;
    n += 1;
    visit(head);
  };
  for (const Level l : kLargeLevels) look(slot.large(first, l).rmap);
  if (!slot.has_heads(first)) return n;
  // The words of a region lie side by side in one frame.
  std::uint32_t* const heads = slot.rmap(first, Level{1});
  for (std::uint64_t i = 0; i < end - first; ++i) look(heads[i]);
  return n;
}

/// Effects: drops every leaf that maps a gfn of [first, reached). Flush: by the guard.
template <class S>
RegionWork zap_leaves(S& s, ExclusiveGuard<S>& g, SlotOf<S>& slot, Gfn first, Gfn end) noexcept {
  unsigned leaves = 0;
  const auto zap = [&](std::uint32_t& head) noexcept {
    if (S::Rmap::empty(head)) return;
    leaves += S::Rmap::length(s.cells, head);
    g.owe(rmap_zap_head(s, Entries<S>(g.held()), head));
  };
  for (const Level l : kLargeLevels) zap(slot.large(first, l).rmap);
  if (!slot.has_heads(first)) return {end, 1 + leaves / kEntriesAPage};
  std::uint32_t* const heads = slot.rmap(first, Level{1});
  std::uint64_t i = 0;
  while (i < end - first && leaves < S::Config::kYieldPages * kEntriesAPage) zap(heads[i++]);
  return {first + i, 1 + leaves / kEntriesAPage};
}

template <class S>
void invalidate_begin(S& s, Gfn first, std::uint64_t pages) noexcept {
  ExclusiveGuard<S> g(s);
  const Gfn end = range_end(first, pages);
  if (S::Memory::plain(s.invalidating) == 0) {
    s.invalidate_first = first;
    s.invalidate_end = end;
  } else {
    s.invalidate_first = min_of(s.invalidate_first, first);
    s.invalidate_end = max_of(s.invalidate_end, end);
  }
  S::Memory::plain(s.invalidating, S::Memory::plain(s.invalidating) + 1);
  // Nothing is installed in the range from here on: the lock may go on the way.
  for_each_region(s, g, first, pages,
                  [&](SlotOf<S>& slot, Gfn lo, Gfn hi) noexcept { return zap_leaves(s, g, slot, lo, hi); });
}

template <class S>
void invalidate_end(S& s) noexcept {
  const ExclusiveGuard<S> g(s);
  const bool begun = S::Memory::plain(s.invalidating) != 0;
  shadowmmu::detail::require(begun, "shadowmmu: invalidate_end without invalidate_begin");
  if (!begun) return;
  S::Memory::template store<Order::Release>(s.invalidate_seq, S::Memory::plain(s.invalidate_seq) + 1);
  S::Memory::plain(s.invalidating, S::Memory::plain(s.invalidating) - 1);
}

}  // namespace shadowmmu::core
