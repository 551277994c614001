// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/fault.hpp"
#include "shadowmmu/core/write_track.hpp"

/// Write windows: a tracked frame is writable for one vCPU while the embedder single-steps one instruction; what the
/// instruction changed is found by comparison. Right for every instruction, whatever it does.
namespace shadowmmu::core {

/// Effects: opens a window for what `o` (kind Emulate) asks. Errors: WindowBusy, NotBacked, OutOfMemory. Locking:
/// takes the lock; other vCPUs are kicked out of the guest and kept out until end_windows.
template <class S>
[[nodiscard]] Status begin_window(S& s, typename S::Vcpu& v, const FaultOutcome& o) noexcept {
  WriteWindow* w = nullptr;
  for (WriteWindow& c : v.window)
    if (!c.open && w == nullptr) w = &c;
  if (w == nullptr) return Error::WindowBusy;
  if (w->before == nullptr) w->before = static_cast<std::uint64_t*>(fresh_frame(s, FrameKind::Metadata));
  if (w->before == nullptr) return Error::OutOfMemory;
  const std::uint64_t me = v.number;
  std::uint64_t owner = 0;
  // Relaxed, as all accesses of the owner: the kick orders the begin before an entry. At the end the frames' protection
  // is flushed first, which orders it before guest code; what the writes changed may be flushed after that, as the
  // guest's own invalidation would come later still.
  if (!S::Memory::template compare_exchange<Order::Relaxed>(s.window_owner, owner, me) && owner != me)
    return Error::WindowBusy;
  if (owner == 0) s.host.kick_and_wait(kAllVcpus);

  const ExclusiveGuard<S> g(s);
  const Gfn gfn = frame_of(o.gpa);
  unsigned hint = v.slot_hint;
  SlotOf<S>* slot = s.snapshot->find(gfn, hint);
  const void* page = slot == nullptr ? nullptr : s.host.guest_page(gfn);
  if (page == nullptr) {
    close_if_idle(s, v);
    return Error::NotBacked;
  }
  const TrackCount t = slot->track(gfn);
  w->gfn = gfn;
  w->address = Gva{o.address};
  w->supervisor_write = o.reason == EmulateReason::SupervisorWrite;
  w->tracked = t.upper != 0 || t.leaf != 0;
  w->open = true;
  for (unsigned i = 0; i < kEntriesPerTable; ++i)
    w->before[i] = S::Memory::template load<Order::Relaxed>(static_cast<const std::uint64_t*>(page)[i]);
  s.stats.add(&Counters::windows);
  return Unit{};
}

template <class S>
void close_if_idle(S& s, typename S::Vcpu& v) noexcept {
  for (const WriteWindow& w : v.window)
    if (w.open) return;
  std::uint64_t me = v.number;
  static_cast<void>(S::Memory::template compare_exchange<Order::Relaxed>(s.window_owner, me, 0));
}

/// Effects: closes the vCPU's windows: the frames are protected again, flushed, compared with what they were, and
/// every changed word is handled as a guest write. Complexity: 512 words a window. Locking: exclusive. Flush: done.
template <class S>
void end_windows(S& s, typename S::Vcpu& v) noexcept {
  ExclusiveGuard<S> g(s);
  for (WriteWindow& w : v.window) {
    if (!w.open) continue;
    w.open = false;
    SlotOf<S>* slot = s.snapshot->find_any(w.gfn);
    if (slot == nullptr) continue;
    g.owe(w.supervisor_write ? rmap_zap(s, Entries<S>(g.held()), *slot, w.gfn)
                             : rmap_protect(s, Entries<S>(g.held()), *slot, w.gfn));
    g.settle();  // nobody writes the frame unseen from here on
    const void* page = s.host.guest_page(w.gfn);
    if (page == nullptr) continue;
    bool changed = false;
    for (unsigned i = 0; i < kEntriesPerTable; ++i) {
      const std::uint64_t now = S::Memory::template load<Order::Relaxed>(static_cast<const std::uint64_t*>(page)[i]);
      if (now == w.before[i]) continue;
      changed = true;
      const std::uint64_t diff = now ^ w.before[i];
      // Report the half that changed: a 4-byte table has two entries here.
      const bool low = (diff & 0xffff'ffffU) != 0;
      const bool high = diff >> 32U != 0;
      note_write(s, g, w.gfn, i * 8 + (low ? 0 : 4), low && high ? 8 : 4);
    }
    // A write that changes nothing counts all the same: clearing a clear frame byte by byte is how tables end.
    if (!changed && w.tracked) note_write(s, g, w.gfn, static_cast<unsigned>(w.address.value() & 0xff8U), 8);
  }
  close_if_idle(s, v);
}

}  // namespace shadowmmu::core
