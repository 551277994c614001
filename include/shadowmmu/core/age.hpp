// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/notifier.hpp"
#include "shadowmmu/core/reader.hpp"

/// Ageing: which guest frames were used of late. Read and cleared without a TLB flush, so a use by a translation that
/// a TLB still holds may go unseen; where the CPU keeps no A bits an aged entry rests until a fault wakes it.
namespace shadowmmu::core {

/// Effects: with `clear`, leaves of the range look unused from now on. Returns: whether one was used since they last
/// did. Flush: none.
template <class S>
bool age_range(S& s, Gfn first, std::uint64_t pages, bool clear) noexcept {
  ExclusiveGuard<S> g(s);
  bool young = false;
  for_each_region(s, g, first, pages, [&](SlotOf<S>& slot, Gfn lo, Gfn hi) noexcept {
    const unsigned heads = for_each_head<S>(slot, lo, hi, [&](const std::uint32_t& head) noexcept {
      S::Rmap::for_each(s.cells, head, [&](EntryHandle e) {
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

/// Returns: whether a leaf of the range was used since it was last aged. Locking: sections of a reader, one a 2 MiB
/// region; the lock for what a reader cannot find for sure. Flush: none.
template <class S>
[[nodiscard]] bool young_range(S& s, [[maybe_unused]] typename S::Reader& reader, Gfn first,
                               std::uint64_t pages) noexcept {
  if constexpr (!S::kLockless) {
    return age_range(s, first, pages, false);
  } else {
    const Gfn end = range_end(first, pages);
    bool unsure = false;
    for (Gfn at = first;;) {
      const ReadSection<S> section(s, reader);
      const Region<S> r = next_region<S>(section.slots(), at, end);
      if (r.slot == nullptr) break;
      // From above: a split moves a page's leaf down.
      for (unsigned l = S::Arch::kMaxLeafLevel; l != 0; --l)
        for (Gfn g = r.first; g < r.end; g = g + Level{l}.frames()) {
          const std::uint32_t* head = r.slot->rmap_for_reader(g, Level{l});
          if (head == nullptr) break;
          typename S::Rmap::Seen seen;
          S::Rmap::look(s.cells, *head, seen);
          unsure = unsure || !seen.whole;
          for (unsigned n = 0; n < seen.count; ++n) {
            const auto& p = s.page(seen[n].page());
            // Acquire: who finds that a leaf was split finds the lists of what it was split into next.
            const auto e = S::Memory::template load<Order::Acquire>(p.table[seen[n].entry()]);
            if (S::Arch::present(e) && is_leaf<S>(p, e) && S::Arch::accessed(s.caps, e)) return true;
          }
        }
      at = r.end;
    }
    return unsure && age_range(s, first, pages, false);
  }
}

}  // namespace shadowmmu::core
