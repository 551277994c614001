// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstdint>
#include <utility>

#include "shadowmmu/core/slot_ops.hpp"

/// Dirty logging: which gfns of a slot were written since they were last asked about. A bit a gfn; set by the first
/// write after write protection, read out of D bits, or drained from a buffer that hardware fills.
namespace shadowmmu::core {

/// Effects: the next write to a page that the leaf maps will be seen: W goes, or D; large leaves always lose W, so that
/// a write splits them. What they said is in the log; the Host hears of a D that goes. Without the lock the entry may
/// be another gfn's by now: then W goes alone, which costs that one a fault. `exact`: it is not, by the lock or because
/// p is direct, whose entries map one gfn for life. Requires: exact where D is the method. Flush: owed.
template <class S>
FlushOwed rearm_leaf(S& s, const typename S::Page& p, unsigned i, DirtyMethod m, bool exact) noexcept {
  const bool by_w = m == DirtyMethod::WriteProtect || p.role.level() > Level{1};
  std::uint64_t e = S::Memory::template load<Order::Relaxed>(p.table[i]);
  std::uint64_t now = 0;
  do {
    if (!S::Arch::present(e) || !is_leaf<S>(p, e)) return FlushOwed::none();
    now = exact ? S::Arch::without_dirty(s.caps, e) : e;
    if (by_w) now = S::Arch::write_protected(now);
    // Nothing to take away does not mean that nothing is owed: a reader of an earlier log may have taken it and may not
    // have flushed yet.
    if (now == e) return S::Arch::mmu_writable(e) ? flush_for<S>(p, i, e) : FlushOwed::none();
  } while (!S::Memory::template compare_exchange<Order::Relaxed>(p.table[i], e, now));
  if (S::Arch::dirty(s.caps, e) && !S::Arch::dirty(s.caps, now))
    s.host.wrote(leaf_gfn<S>(p, i, e), p.role.level().frames());
  return flush_for<S>(p, i, e);
}

/// Effects: as rearm_leaf for every leaf of one rmap word.
template <class S>
FlushOwed rearm_head(S& s, Entries<S> h, const std::uint32_t& head, DirtyMethod m) noexcept {
  h.verify(s.lock);
  FlushOwed owed;
  S::Rmap::for_each(s.cells, head, [&](EntryHandle e) { owed |= rearm_leaf(s, s.page(e.page()), e.entry(), m, true); });
  return owed;
}

/// Effects: gfns of word i whose 4 KiB leaves have D set are in the log.
template <class S>
void harvest_d_bits(S& s, Entries<S> h, SlotOf<S>& slot, std::uint64_t i) noexcept {
  h.verify(s.lock);
  const Gfn first = slot.first() + i * 64;
  const Gfn end = slot.end() - first < 64 ? slot.end() : first + 64;
  for (Gfn gfn = first; gfn < end; gfn = gfn + 1) {
    const std::uint32_t* head = slot.rmap(gfn, Level{1});
    if (head == nullptr) continue;
    bool dirty = false;
    S::Rmap::for_each(s.cells, *head, [&](EntryHandle e) {
      const std::uint64_t leaf = S::Memory::template load<Order::Relaxed>(s.page(e.page()).table[e.entry()]);
      dirty = dirty || S::Arch::dirty(s.caps, leaf);
    });
    if (dirty) slot.mark_dirty(gfn);
  }
}

/// The leaves of a slot's gfns, as the lock's holder finds them.
template <class S>
class LogByLock {
 public:
  LogByLock(S& s, ExclusiveGuard<S>& g) noexcept : s_(s), g_(g) {}
  void rearm(SlotOf<S>& slot, Gfn gfn) noexcept {
    for (unsigned l = 1; l <= S::Arch::kMaxLeafLevel; ++l)
      if (const std::uint32_t* head = slot.rmap(gfn, Level{l}); head != nullptr)
        g_.owe(rearm_head(s_, Entries<S>(g_.held()), *head, slot.log()));
  }

 private:
  S& s_;
  ExclusiveGuard<S>& g_;
};

/// The same as a reader finds them, in a section, for a log by write protection. What it cannot tell for sure it leaves
/// to the lock's holder. Source: X. Guangrong, "KVM: MMU: locklessly write-protect page" (2013).
template <class S>
class LogByReader {
 public:
  LogByReader(S& s, FlushOwed& owed) noexcept : s_(s), owed_(owed) {}
  void rearm(SlotOf<S>& slot, Gfn gfn) noexcept {
    for (unsigned l = 1; l <= S::Arch::kMaxLeafLevel; ++l) {
      const std::uint32_t* head = slot.rmap_for_reader(gfn, Level{l});
      if (head == nullptr) continue;
      typename S::Rmap::Seen seen;
      S::Rmap::look(s_.cells, *head, seen);
      for (unsigned n = 0; n < seen.count; ++n) {
        const auto& p = s_.page(seen[n].page());
        owed_ |= rearm_leaf(s_, p, seen[n].entry(), DirtyMethod::WriteProtect, p.role.direct());
      }
      if (!seen.whole) left_ |= std::uint64_t{1} << ((gfn - slot.first()) & 63U);
    }
  }
  /// Returns: which gfns of the word are left, a bit each.
  [[nodiscard]] std::uint64_t left() const noexcept { return left_; }

 private:
  S& s_;
  FlushOwed& owed_;
  std::uint64_t left_ = 0;
};

/// Effects: waits for whoever may have found the log before it was taken away: under the lock, or in a section.
template <class S>
void wait_log_writers(S& s) noexcept {
  { const ExclusiveGuard<S> g(s); }
  wait_readers(s);
}

/// Effects: the slot's writes are logged. Where a CPU keeps no D bits, DirtyBit is the same as WriteProtect. Errors:
/// NoSuchSlot, LogActive, OutOfMemory; then nothing changed. Flush: done. Allocates: 36 KiB a started GiB of the slot.
template <class S>
[[nodiscard]] Status start_dirty_log(S& s, SlotId id, DirtyMethod m) noexcept {
  if constexpr (requires { s.caps.accessed_dirty; })
    if (!s.caps.accessed_dirty) m = DirtyMethod::WriteProtect;
  const SlotsScope<S> scope(s);
  SlotOf<S>* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  if (slot->log() != DirtyMethod::Off) return Error::LogActive;
  if (m == DirtyMethod::Off) return Unit{};
  if (!slot->make_log(s.host)) {
    slot->drop_log(s.host, [&s]() noexcept { wait_log_writers(s); });
    return Error::OutOfMemory;
  }
  {
    const ExclusiveGuard<S> g(s);
    slot->set_log(m);
    s.logs += 1;
  }
  // Faults without the lock that still think that nothing is logged end before the first leaf is protected.
  if constexpr (S::kLockless) wait_readers(s);
  ExclusiveGuard<S> g(s);
  for_each_region(s, g, slot->first(), slot->pages(), [&](SlotOf<S>& at, Gfn lo, Gfn hi) noexcept {
    const unsigned heads = for_each_head<S>(
        at, lo, hi, [&](const std::uint32_t& head) noexcept { g.owe(rearm_head(s, Entries<S>(g.held()), head, m)); });
    return RegionWork{hi, 1 + heads / 32};
  });
  return Unit{};
}

/// Effects: no log any more. 4 KiB leaves of direct pages go where a large one may take their place, to be mapped anew
/// as such. Errors: NoSuchSlot, LogInactive. Flush: done.
template <class S>
[[nodiscard]] Status stop_dirty_log(S& s, SlotId id) noexcept {
  const SlotsScope<S> scope(s);
  SlotOf<S>* slot = s.snapshot->by_id(id);
  if (slot == nullptr) return Error::NoSuchSlot;
  if (slot->log() == DirtyMethod::Off) return Error::LogInactive;
  {
    ExclusiveGuard<S> g(s);
    slot->set_log(DirtyMethod::Off);
    s.logs -= 1;
    for_each_region(s, g, slot->first(), slot->pages(),
                    [&](SlotOf<S>& at, Gfn lo, Gfn hi) noexcept { return collapse_region(s, g, at, lo, hi); });
  }
  slot->drop_log(s.host, [&s]() noexcept { wait_log_writers(s); });
  return Unit{};
}

/// Effects: drops the 4 KiB leaves in direct pages of a region that the Host backs by a large page and nothing forbids
/// to map as one. Returns: work done. Flush: by the guard.
template <class S>
RegionWork collapse_region(S& s, ExclusiveGuard<S>& g, SlotOf<S>& slot, Gfn first, Gfn end) noexcept {
  if (!slot.has_heads(first) || slot.large(first, Level{2}).disallow != 0) return {end, 1};
  const Backing b = s.host.backing(first, false);
  if (b.kind != Backing::Kind::Memory || b.level == Level{1}) return {end, 1};
  for (Gfn gfn = first; gfn < end; gfn = gfn + 1) {
    std::uint32_t& head = *slot.rmap(gfn, Level{1});
    for (bool again = true; again;) {
      again = false;
      EntryHandle found;
      S::Rmap::for_each(s.cells, head, [&](EntryHandle e) {
        if (s.page(e.page()).role.direct()) found = e;
      });
      if (found == EntryHandle{}) continue;
      g.owe(drop_leaf(s, Entries<S>(g.held()), s.page(found.page()), found.entry()));
      again = true;
    }
  }
  return {end, 8};
}

/// Effects: with `rearm`, the gfns of `mask` that are set in word i are cleared, then their next writes will be seen:
/// in this order. Returns: the word, as it was. Flush: owed by `by`.
template <class S, class By>
std::uint64_t take_log_word(SlotOf<S>& slot, std::uint64_t i, std::uint64_t* word, std::uint64_t mask, bool rearm,
                            By& by) noexcept {
  using Memory = typename S::Memory;
  std::uint64_t old = Memory::template load<Order::Relaxed>(*word);
  if (!rearm || (old & mask) == 0) return old;
  while (!Memory::template compare_exchange<Order::Relaxed>(*word, old, old & ~mask)) {
  }
  Memory::template fence<Order::SeqCst>();  // pairs with mark_dirty: the leaves are looked at after the marks went
  for (std::uint64_t bits = old & mask; bits != 0; bits &= bits - 1)
    by.rearm(slot, slot.first() + i * 64 + static_cast<unsigned>(std::countr_zero(bits)));
  return old;
}

/// Which words of which slot's log, and what to do with them.
struct LogRequest {
  SlotId slot;
  std::uint64_t first, count;
  std::uint64_t mask = ~std::uint64_t{0};
  bool rearm = false;
  std::uint64_t* out = nullptr;  ///< `count` words, or none
};

/// Returns: the slot, if it has those words of a log.
template <class S>
[[nodiscard]] Result<SlotOf<S>*> logged_slot(const SlotsOf<S>& slots, const LogRequest& r) noexcept {
  SlotOf<S>* slot = slots.by_id(r.slot);
  if (slot == nullptr) return Error::NoSuchSlot;
  if (slot->log() == DirtyMethod::Off) return Error::LogInactive;
  if (r.first > slot->log_words() || r.count > slot->log_words() - r.first) return Error::BadRange;
  return slot;
}

/// Effects: carries the request out under the lock, which is let go on the way.
template <class S>
[[nodiscard]] Status take_log(S& s, const LogRequest& r) noexcept {
  const SlotsScope<S> scope(s);
  const Result<SlotOf<S>*> slot = logged_slot<S>(*s.snapshot, r);
  if (!slot) return slot.error();
  ExclusiveGuard<S> g(s);
  GfnCursor at{Gfn{r.first}, Gfn{r.first + r.count}};
  Progress walk(at);
  for (; at.next < at.end; at.next = at.next + 1) {
    const std::uint64_t i = at.next.value();
    if (slot.value()->log() == DirtyMethod::DirtyBit) harvest_d_bits(s, Entries<S>(g.held()), *slot.value(), i);
    LogByLock<S> by(s, g);
    const std::uint64_t word = take_log_word<S>(*slot.value(), i, slot.value()->log_word(i), r.mask, r.rearm, by);
    if (r.out != nullptr) r.out[i - r.first] = word;
    g.yield_after(walk, 1);
  }
  return Unit{};
}

/// Effects: carries out up to 8 words of the request from word i on, in one section, and moves i behind them. What a
/// reader could not find for sure is done under the lock afterwards: rmaps of many leaves, or such as change all the
/// time. The rest of a log by D bits is all done so: while the lock's holder drops a leaf, neither D nor the mark is
/// there for a moment.
template <class S>
[[nodiscard]] Status take_log_words(S& s, typename S::Reader& reader, const LogRequest& r, std::uint64_t& i,
                                    FlushOwed& owed) noexcept {
  const std::uint64_t first = std::exchange(i, r.first + r.count - i < 8 ? r.first + r.count : i + 8);
  std::uint64_t left[8] = {};
  bool any = false;
  bool by_d = false;
  {
    // A log that is off or by D bits by now cannot be back by write protection before the section ends.
    const ReadSection<S> section(s, reader);
    const Result<SlotOf<S>*> slot = logged_slot<S>(section.slots(), r);
    if (!slot) return slot.error();
    by_d = slot.value()->log() == DirtyMethod::DirtyBit;
    for (std::uint64_t n = first; n < i && !by_d; ++n) {
      std::uint64_t* cell = slot.value()->log_word(n);
      if (cell == nullptr) return Error::LogInactive;
      LogByReader<S> by(s, owed);
      const std::uint64_t word = take_log_word<S>(*slot.value(), n, cell, r.mask, r.rearm, by);
      if (r.out != nullptr) r.out[n - r.first] = word;
      // Where a mark was taken CPUs may know the page as writable though no leaf says so: the lock's holder may have
      // taken it, and not flushed yet.
      if (r.rearm && (word & r.mask) != 0) owed |= flush_for_gfns<S>(slot.value()->first() + n * 64, 64);
      left[n - first] = by.left();
      any = any || by.left() != 0;
    }
  }
  if (by_d) {
    i = r.first + r.count;
    LogRequest rest = r;
    rest.first = first;
    rest.count = i - first;
    if (r.out != nullptr) rest.out = r.out + (first - r.first);
    return take_log(s, rest);
  }
  if (!any) return Unit{};
  ExclusiveGuard<S> g(s);
  SlotOf<S>* slot = s.snapshot->by_id(r.slot);
  // Where the slot or its log has gone its entries have, too; it may have come back smaller.
  if (slot == nullptr || slot->log() == DirtyMethod::Off) return Unit{};
  LogByLock<S> by(s, g);
  for (std::uint64_t n = first; n < i; ++n)
    for (std::uint64_t bits = left[n - first]; bits != 0; bits &= bits - 1) {
      const Gfn gfn = slot->first() + n * 64 + static_cast<unsigned>(std::countr_zero(bits));
      if (slot->contains(gfn)) by.rearm(*slot, gfn);
    }
  return Unit{};
}

/// Effects: carries the request out as a reader, a section for 8 words, and flushes once.
template <class S>
[[nodiscard]] Status take_log(S& s, [[maybe_unused]] typename S::Reader& reader, const LogRequest& r) noexcept {
  if constexpr (!S::kLockless) {
    return take_log(s, r);
  } else {
    FlushOwed owed;
    Status status = Unit{};
    std::uint64_t i = r.first;
    do {  // once even for no word at all: to say what is wrong with the request
      status = take_log_words(s, reader, r, i, owed);
    } while (status.ok() && i < r.first + r.count);
    s.flush_unlocked(owed);
    return status;
  }
}

/// Effects: hardware says that these gpas were written (PML): notes them in the logs of their slots.
template <class S>
void drain_dirty_buffer(S& s, const std::uint64_t* gpas, std::uint64_t count) noexcept {
  const ExclusiveGuard<S> g(s);
  for (std::uint64_t n = 0; n < count; ++n)
    if (SlotOf<S>* slot = s.snapshot->find_any(frame_of(Gpa{gpas[n]}))) {
      slot->mark_dirty(frame_of(Gpa{gpas[n]}));
    }
}

}  // namespace shadowmmu::core
