// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/spte.hpp"

/// Host invalidation: the Host takes frames back. Faults snapshot the sequence before they ask for a frame and check
/// range and sequence under the lock, so that none installs what was taken meanwhile.
namespace shadowmmu::core {

/// Effects: drops every leaf that maps a gfn of [first, first + pages). Flush: owed by the caller. Complexity: O(gfns
/// whose rmap heads exist + entries).
template <class S>
FlushOwed unmap_range(S& s, Entries<S> h, Gfn first, std::uint64_t pages) noexcept {
  FlushOwed owed;
  const std::uint64_t end = first.value() + pages;
  for (unsigned i = 0; i < s.snapshot->count(); ++i) {
    Slot& slot = *s.snapshot->at(i);
    const std::uint64_t lo = slot.first().value() > first.value() ? slot.first().value() : first.value();
    const std::uint64_t hi = slot.end().value() < end ? slot.end().value() : end;
    for (std::uint64_t f = lo; f < hi;) {
      const Gfn gfn{f};
      if (f == lo || f % Level{2}.frames() == 0) {
        owed |= rmap_zap_head(s, h, slot.large(gfn, Level{3}).rmap);
        owed |= rmap_zap_head(s, h, slot.large(gfn, Level{2}).rmap);
      }
      if (!slot.has_heads(gfn)) {
        f = (f / Level{2}.frames() + 1) * Level{2}.frames();
        continue;
      }
      owed |= rmap_zap_head(s, h, *slot.rmap(gfn, Level{1}));
      f += 1;
    }
  }
  return owed;
}

template <class S>
void invalidate_begin(S& s, Gfn first, std::uint64_t pages) noexcept {
  ExclusiveGuard<S> g(s);
  if (pages > ~std::uint64_t{0} - first.value()) pages = ~std::uint64_t{0} - first.value();
  const Gfn end = first + pages;
  if (S::Memory::plain(s.invalidating) == 0) {
    s.invalidate_first = first;
    s.invalidate_end = end;
  } else {
    if (first < s.invalidate_first) s.invalidate_first = first;
    if (s.invalidate_end < end) s.invalidate_end = end;
  }
  S::Memory::plain(s.invalidating, S::Memory::plain(s.invalidating) + 1);
  g.owe(unmap_range(s, Entries<S>(g.held()), first, pages));
}

template <class S>
void invalidate_end(S& s) noexcept {
  const ExclusiveGuard<S> g(s);
  // The sequence first: whoever no longer sees the range in progress must see the new sequence.
  S::Memory::template store<Order::Release>(s.invalidate_seq, s.invalidate_seq + 1);
  S::Memory::template store<Order::Release>(s.invalidating, s.invalidating - 1);
}

}  // namespace shadowmmu::core
