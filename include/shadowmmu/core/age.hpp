// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/notifier.hpp"

/// Ageing: which guest frames were used of late. Read and cleared without a TLB flush, so a use by a translation that
/// a TLB still holds may go unseen; where the CPU keeps no A bits an aged entry rests until a fault wakes it.
namespace shadowmmu::core {

/// Effects: with `clear`, leaves of the range look unused from now on. Returns: whether one was used since they last
/// did. Flush: none.
template <class S>
bool age_range(S& s, Gfn first, std::uint64_t pages, bool clear) noexcept {
  ExclusiveGuard<S> g(s);
  bool young = false;
  for_each_region(s, g, first, pages, [&](Slot& slot, Gfn lo, Gfn hi) noexcept {
    const unsigned heads = for_each_head(slot, lo, hi, [&](std::uint32_t head) noexcept {
      HandleList::for_each(s.cells, head, [&](EntryHandle e) {
        auto& p = s.page(e.page());
        const std::uint64_t leaf = S::Memory::template load<Order::Relaxed>(p.table[e.entry()]);
        if (!S::Arch::accessed(s.caps, leaf)) return;
        young = true;
        if (clear)
          change_leaf(s, Entries<S>(g.held()), p, e.entry(),
                      [&s](std::uint64_t old) { return S::Arch::aged(s.caps, old); });
      });
    });
    return RegionWork{hi, 1 + heads / 64};
  });
  return young;
}

}  // namespace shadowmmu::core
