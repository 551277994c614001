// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/notifier.hpp"

/// Guest tables written by somebody whom the shadow does not see: the embedder tells, the entries concerned go.
namespace shadowmmu::core {

/// Effects: zaps the entries of p that the bytes [offset, offset + bytes) of its guest table feed. A 4-byte directory
/// entry covers 4 MiB and so feeds two shadow entries. Flush: owed by the caller.
template <class S>
FlushOwed zap_written(S& s, Structure<S> h, typename S::Page& p, unsigned offset, unsigned bytes) noexcept {
  FlushOwed owed;
  const unsigned width = p.role.gpte_bytes();
  for (unsigned j = offset / width; j <= (offset + bytes - 1) / width; ++j) {
    if (width == 8) {
      owed |= zap_entry(s, h, p, j);
    } else if (p.role.level() == Level{1}) {
      if (j / kEntriesPerTable == p.role.quadrant()) owed |= zap_entry(s, h, p, j % kEntriesPerTable);
    } else if (j / 256 == p.role.quadrant()) {
      owed |= zap_entry(s, h, p, j % 256 * 2);
      owed |= zap_entry(s, h, p, j % 256 * 2 + 1);
    }
  }
  return owed;
}

/// Returns: whether a write of this shape hints that the frame is no table any more: misaligned, or narrower than an
/// entry (a lone aligned byte is how A and D are cleared).
[[nodiscard]] constexpr bool odd_write(unsigned offset, unsigned bytes, unsigned width) noexcept {
  if (bytes == 1) return false;
  return bytes < 4 || offset % min_of(bytes, width) != 0;
}

/// Effects: guest memory [offset, offset + bytes) of gfn was written. Entries concerned are zapped; a page written
/// oddly, or an upper table written kFloodWrites times since it was last walked, is zapped whole. Flush: by the guard.
template <class S>
void note_write(S& s, ExclusiveGuard<S>& g, Gfn gfn, unsigned offset, unsigned bytes) noexcept {
  SlotOf<S>* slot = s.snapshot->find_any(gfn);
  if (slot == nullptr) return;
  const TrackCount t = slot->track(gfn);
  if (t.upper == 0 && t.leaf == 0) return;
  s.stats.add(&Counters::tracked_writes);
  s.epoch += 1;  // the next fault walks the whole path, which is what ends a flood
  bool zap_some = false;
  for (auto& p : s.hash.bucket(gfn)) {
    if (p.gfn != gfn || p.role.direct()) continue;
    const bool upper = p.role.level() > Level{1};
    if (upper && p.flood < S::Config::kFloodWrites) p.flood = static_cast<std::uint8_t>(p.flood + 1U);
    if (odd_write(offset, bytes, p.role.gpte_bytes()) || (upper && p.flood >= S::Config::kFloodWrites)) {
      p.flood = 255;
      zap_some = true;
    } else {
      g.owe(zap_written(s, g.held(), p, offset, bytes));
    }
  }
  while (zap_some) {
    zap_some = false;
    for (auto& p : s.hash.bucket(gfn)) {
      if (p.gfn != gfn || p.role.direct() || p.flood != 255) continue;
      s.stats.add(&Counters::pages_flooded);
      prepare_zap(s, g, p);
      zap_some = true;
      break;
    }
  }
}

/// Effects: acts on a write of `bytes` bytes at gpa, page by page where there are slots; a wrapping range ends at the
/// last address. Flush: by the guard. The lock may be let go between pages.
template <class S>
void guest_wrote(S& s, Gpa gpa, std::uint64_t bytes) noexcept {
  if (bytes == 0) return;
  const std::uint64_t room = ~std::uint64_t{0} - gpa.value();
  const std::uint64_t last = gpa.value() + (bytes - 1 < room ? bytes - 1 : room);
  ExclusiveGuard<S> g(s);
  // The write came before; a mark that is set already is only looked at.
  if constexpr (S::kLockless)
    if (s.logs != 0) S::Memory::template fence<Order::SeqCst>();
  for_each_region(s, g, frame_of(gpa), (last >> kPageShift) - frame_of(gpa).value() + 1,
                  [&](SlotOf<S>& slot, Gfn lo, Gfn) noexcept {
                    const std::uint64_t first = address_of(lo).value();
                    const std::uint64_t from = max_of(gpa.value(), first);
                    const std::uint64_t to = first + min_of(last - first, std::uint64_t{kPageMask});
                    slot.mark_dirty(lo);
                    note_write(s, g, lo, static_cast<unsigned>(from - first), static_cast<unsigned>(to - from + 1));
                    return RegionWork{lo + 1, 1};
                  });
}

}  // namespace shadowmmu::core
