// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstdint>

#include "shadowmmu/core/slot_ops.hpp"

/// Dirty logging: which gfns of a slot were written since they were last asked about. A bit a gfn; set by the first
/// write after write protection, read out of D bits, or drained from a buffer that hardware fills.
namespace shadowmmu::core {

/// Effects: the next write to a page that the leaf maps will be seen: W goes, or D; large leaves always lose W, so that
/// a write splits them. The Host hears of a D that goes; the log need not, its bit having been taken. Flush: owed.
template <class S>
FlushOwed rearm_leaf(S& s, Entries<S> h, typename S::Page& p, unsigned i, DirtyMethod m) noexcept {
  const bool by_w = m == DirtyMethod::WriteProtect || p.role.level() > Level{1};
  std::uint64_t e = S::Memory::template load<Order::Relaxed>(p.table[i]);
  std::uint64_t now = 0;
  h.verify(s.lock);
  do {
    now = S::Arch::without_dirty(s.caps, e);
    if (by_w) now = S::Arch::without_write(now);
    if (now == e) return FlushOwed::none();
  } while (!S::Memory::template compare_exchange<Order::AcqRel>(p.table[i], e, now));
  if (S::Arch::dirty(s.caps, e)) s.host.wrote(s.leaf_gfn(p, i), p.role.level().frames());
  return flush_for(s, p, i);
}

/// Effects: as rearm_leaf for every leaf of one rmap word.
template <class S>
FlushOwed rearm_head(S& s, Entries<S> h, std::uint32_t head, DirtyMethod m) noexcept {
  FlushOwed owed;
  HandleList::for_each(s.cells, head, [&](EntryHandle e) { owed |= rearm_leaf(s, h, s.page(e.page()), e.entry(), m); });
  return owed;
}

/// Returns: whether a 4 KiB leaf of the word has D set. What D bits say is brought into the log before it is read.
template <class S>
[[nodiscard]] bool head_dirty(S& s, std::uint32_t head) noexcept {
  bool dirty = false;
  HandleList::for_each(s.cells, head, [&](EntryHandle e) {
    dirty =
        dirty || S::Arch::dirty(s.caps, S::Memory::template load<Order::Relaxed>(s.page(e.page()).table[e.entry()]));
  });
  return dirty;
}

/// Effects: waits for whoever may have found the log before it was taken away: under the lock, or in a section.
template <class S>
void wait_log_writers(S& s) noexcept {
  { const ExclusiveGuard<S> g(s); }
  wait_slot_readers(s);
}

/// Effects: the slot's writes are logged. Where a CPU keeps no D bits, DirtyBit is the same as WriteProtect. Errors:
/// NoSuchSlot, LogActive, OutOfMemory; then nothing changed. Flush: done. Allocates: 36 KiB a started GiB of the slot.
template <class S>
[[nodiscard]] Status start_dirty_log(S& s, SlotId id, DirtyMethod m) noexcept {
  using Memory = typename S::Memory;
  if constexpr (requires { s.caps.accessed_dirty; })
    if (!s.caps.accessed_dirty) m = DirtyMethod::WriteProtect;
  const SlotsScope<S> scope(s);
  Slot* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  if (slot->log() != DirtyMethod::Off) return Error::LogActive;
  if (m == DirtyMethod::Off) return Unit{};
  if (!slot->template make_log<Memory>(s.host)) {
    slot->template drop_log<Memory>(s.host, [&s]() noexcept { wait_log_writers(s); });
    return Error::OutOfMemory;
  }
  ExclusiveGuard<S> g(s);
  slot->set_log(m);
  s.logs += 1;
  for_each_region(s, g, slot->first(), slot->pages(), [&](Slot& at, Gfn lo, Gfn hi) noexcept {
    const unsigned heads = for_each_head(
        at, lo, hi, [&](std::uint32_t head) noexcept { g.owe(rearm_head(s, Entries<S>(g.held()), head, m)); });
    return RegionWork{hi, 1 + heads / 32};
  });
  return Unit{};
}

/// Effects: no log any more. 4 KiB leaves of direct pages go where a large one may take their place, to be mapped anew
/// as such. Errors: NoSuchSlot, LogInactive. Flush: done.
template <class S>
[[nodiscard]] Status stop_dirty_log(S& s, SlotId id) noexcept {
  using Memory = typename S::Memory;
  const SlotsScope<S> scope(s);
  Slot* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  if (slot->log() == DirtyMethod::Off) return Error::LogInactive;
  {
    ExclusiveGuard<S> g(s);
    slot->set_log(DirtyMethod::Off);
    s.logs -= 1;
    for_each_region(s, g, slot->first(), slot->pages(),
                    [&](Slot& at, Gfn lo, Gfn hi) noexcept { return collapse_region(s, g, at, lo, hi); });
  }
  slot->template drop_log<Memory>(s.host, [&s]() noexcept { wait_log_writers(s); });
  return Unit{};
}

/// Effects: drops the 4 KiB leaves in direct pages of a region that the Host backs by a large page and nothing forbids
/// to map as one. Returns: work done. Flush: by the guard.
template <class S>
RegionWork collapse_region(S& s, ExclusiveGuard<S>& g, Slot& slot, Gfn first, Gfn end) noexcept {
  if (!slot.has_heads(first) || slot.large(first, Level{2}).disallow != 0) return {end, 1};
  const Backing b = s.host.backing(first, false);
  if (b.kind != Backing::Kind::Memory || b.level == Level{1}) return {end, 1};
  for (Gfn gfn = first; gfn < end; gfn = gfn + 1) {
    std::uint32_t& head = *slot.rmap(gfn, Level{1});
    for (bool again = true; again;) {
      again = false;
      EntryHandle found;
      HandleList::for_each(s.cells, head, [&](EntryHandle e) {
        if (s.page(e.page()).role.direct()) found = e;
      });
      if (found == EntryHandle{}) continue;
      g.owe(drop_leaf(s, Entries<S>(g.held()), s.page(found.page()), found.entry()));
      again = true;
    }
  }
  return {end, 8};
}

/// Effects: what the D bits of 64 gfns say is in word i of the log; with `rearm`, the gfns of `mask` that are set there
/// are cleared and their next writes will be seen. Returns: the word, as it was. Flush: by the guard.
template <class S>
std::uint64_t take_log_word(S& s, ExclusiveGuard<S>& g, Slot& slot, std::uint64_t i, std::uint64_t mask,
                            bool rearm) noexcept {
  using Memory = typename S::Memory;
  const Gfn first = slot.first() + i * 64;
  const unsigned count = slot.end() - first < 64 ? static_cast<unsigned>(slot.end() - first) : 64U;
  std::uint64_t* word = slot.template log_word<Memory>(i);
  if (slot.log() == DirtyMethod::DirtyBit)
    for (unsigned n = 0; n < count; ++n) {
      if (!slot.has_heads(first + n)) continue;
      if (head_dirty(s, *slot.rmap(first + n, Level{1}))) slot.template mark_dirty<Memory>(first + n);
    }
  std::uint64_t old = Memory::template load<Order::Relaxed>(*word);
  if (!rearm || (old & mask) == 0) return old;
  while (!Memory::template compare_exchange<Order::AcqRel>(*word, old, old & ~mask)) {
  }
  for (std::uint64_t bits = old & mask; bits != 0; bits &= bits - 1) {
    const Gfn gfn = first + static_cast<unsigned>(std::countr_zero(bits));
    for (unsigned l = 1; l <= S::Arch::kMaxLeafLevel; ++l)
      if (const std::uint32_t* head = slot.rmap(gfn, Level{l}); head != nullptr)
        g.owe(rearm_head(s, Entries<S>(g.held()), *head, slot.log()));
  }
  return old;
}

/// Effects: calls visit(word index) for words [first, first + count) of the slot's log, as far as there are, letting
/// the lock go on the way. Errors: NoSuchSlot, LogInactive.
template <class S, class F>
[[nodiscard]] Status for_each_log_word(S& s, SlotId id, std::uint64_t first, std::uint64_t count, F&& visit) noexcept {
  const SlotsScope<S> scope(s);
  Slot* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  if (slot->log() == DirtyMethod::Off) return Error::LogInactive;
  if (first > slot->log_words() || count > slot->log_words() - first) return Error::BadRange;
  ExclusiveGuard<S> g(s);
  GfnCursor at{Gfn{first}, Gfn{first + count}};
  Progress walk(at);
  for (; at.next < at.end; at.next = at.next + 1) {
    visit(*slot, g, at.next.value());
    walk.add(1);
    g.yield(walk);
  }
  return Unit{};
}

/// Effects: words [first, first + count) of the log into `out`; with `rearm` they are cleared and later writes will be
/// seen. Whoever copies the pages named after this returns misses no write. Flush: done.
template <class S>
[[nodiscard]] Status fetch_dirty_log(S& s, SlotId id, std::uint64_t first, std::uint64_t count, std::uint64_t* out,
                                     bool rearm) noexcept {
  return for_each_log_word(s, id, first, count, [&](Slot& slot, ExclusiveGuard<S>& g, std::uint64_t i) noexcept {
    out[i - first] = take_log_word(s, g, slot, i, ~std::uint64_t{0}, rearm);
  });
}
template <class S>
[[nodiscard]] Status clear_dirty_log(S& s, SlotId id, std::uint64_t word, std::uint64_t mask) noexcept {
  return for_each_log_word(s, id, word, 1, [&](Slot& slot, ExclusiveGuard<S>& g, std::uint64_t i) noexcept {
    static_cast<void>(take_log_word(s, g, slot, i, mask, true));
  });
}

/// Effects: hardware says that these gpas were written (PML): notes them in the logs of their slots.
template <class S>
void drain_dirty_buffer(S& s, const std::uint64_t* gpas, std::uint64_t count) noexcept {
  const ExclusiveGuard<S> g(s);
  for (std::uint64_t n = 0; n < count; ++n)
    if (Slot* slot = s.snapshot->find_any(frame_of(Gpa{gpas[n]}))) {
      slot->template mark_dirty<typename S::Memory>(frame_of(Gpa{gpas[n]}));
    }
}

}  // namespace shadowmmu::core
