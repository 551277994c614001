// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <new>

#include "shadowmmu/core/magazine.hpp"
#include "shadowmmu/memory/order.hpp"
#include "shadowmmu/result.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu {

enum class SlotId : std::uint32_t {};
struct SlotFlags {
  bool read_only = false;  ///< guest writes are the embedder's business (ROM)
};
/// How a slot's writes are found out while its log is on.
enum class DirtyMethod : std::uint8_t {
  Off,
  WriteProtect,  ///< the first write to a page faults
  DirtyBit,      ///< hardware sets D; read out, or drained from a buffer that hardware fills (PML)
};

namespace core {

/// How many shadow pages shadow the guest table in a gfn. Zero for almost every gfn, so kept in frames made on demand.
struct TrackCount {
  std::uint16_t upper = 0;  ///< pages of level >= 2: guest writes to the frame must fault
  std::uint16_t leaf = 0;   ///< pages of level 1: may be let go unsync
};

/// State of one aligned region of 2 MiB or 1 GiB.
struct LargeRegion {
  std::uint32_t rmap = 0;      ///< cell: HandleList of the leaf entries of this level
  std::uint32_t disallow = 0;  ///< reasons against a large mapping: slot ends, shadowed tables inside, or kExecSplit
  /// Guest code runs in it: 4 KiB entries, that no executable entry be large (`Caps::nx_huge`).
  static constexpr std::uint32_t kExecSplit = 1U << 31U;
};

/// A memslot and everything kept per gfn of it, in single frames. Addressed by absolute gfn, so that 2 MiB and 1 GiB
/// regions are the naturally aligned ones. Directories exist from the start; the 4-byte rmap heads and the tracking
/// counts of 1024 gfns come when first needed.
template <class Memory>
class Slot {
 public:
  static constexpr unsigned kHeads = kPageSize / sizeof(std::uint32_t);
  struct Leaf {
    std::uint32_t* heads;  ///< cell: 1024 rmap words
    TrackCount* track;     ///< 1024 counts
  };
  /// A bit a gfn, 32768 in a frame.
  struct DirtyBits {
    std::uint64_t* frame[8];
  };
  struct Gib {
    Leaf* leaf;          ///< 256 of them
    LargeRegion* large;  ///< 512 of them
    LargeRegion huge;    ///< the GiB itself
    DirtyBits* dirty;    ///< cell: log of the GiB of this number counted from the slot's first gfn; or none
  };
  static constexpr unsigned kGibsPerFrame = kPageSize / sizeof(Gib);
  static_assert(sizeof(Gib) == 32 && sizeof(TrackCount) == 4);

  [[nodiscard]] bool contains(Gfn g) const noexcept { return g.value() - first_ < pages_; }
  [[nodiscard]] Gfn first() const noexcept { return Gfn{first_}; }
  [[nodiscard]] std::uint64_t pages() const noexcept { return pages_; }
  [[nodiscard]] Gfn end() const noexcept { return Gfn{first_ + pages_}; }
  /// Without the lock it may be what it was. A fault whose walk went by the old flags, of a table or of the page, has
  /// read the old sequence of invalidations before; one that gives back a right finds the entry gone (set_slot_flags).
  [[nodiscard]] bool read_only() const noexcept {
    return Memory::template load<memory::Order::Relaxed>(read_only_) != 0;
  }
  void set_flags(SlotFlags f) noexcept {
    Memory::template store<memory::Order::Relaxed>(read_only_, static_cast<std::uint32_t>(f.read_only));
  }
  [[nodiscard]] DirtyMethod log() const noexcept { return static_cast<DirtyMethod>(Memory::plain(log_)); }
  /// Whether entries from before a change of flags may be there still.
  [[nodiscard]] bool settling() const noexcept { return settling_; }
  void set_settling(bool on) noexcept { settling_ = on; }
  [[nodiscard]] SlotId id() const noexcept { return id_; }

  /// Returns: the rmap word of (level, gfn), or nullptr where none was ever made. Requires: contains(g).
  [[nodiscard]] std::uint32_t* rmap(Gfn g, Level l) noexcept { return rmap_in(Memory::plain(leaf(g).heads), g, l); }
  /// The same without the lock.
  [[nodiscard]] const std::uint32_t* rmap_for_reader(Gfn g, Level l) noexcept {
    return rmap_in(Memory::template load<memory::Order::Acquire>(leaf(g).heads), g, l);
  }
  [[nodiscard]] LargeRegion& large(Gfn g, Level l) noexcept {
    Gib& b = gib(g);
    return l == Level{2} ? b.large[g.value() >> 9U & 511U] : b.huge;
  }
  [[nodiscard]] TrackCount track(Gfn g) noexcept {
    const TrackCount* t = leaf(g).track;
    return t == nullptr ? TrackCount{} : t[g.value() & (kHeads - 1)];
  }
  [[nodiscard]] bool has_heads(Gfn g) noexcept { return Memory::plain(leaf(g).heads) != nullptr; }
  [[nodiscard]] bool has_track(Gfn g) noexcept { return leaf(g).track != nullptr; }
  /// Effects: gives the frame for the heads (counts) around g. Requires: it had none; the frame is zeroed.
  void give_heads(Gfn g, void* frame) noexcept {
    Memory::template store<memory::Order::Release>(leaf(g).heads, static_cast<std::uint32_t*>(frame));
  }
  void give_track(Gfn g, void* frame) noexcept { leaf(g).track = static_cast<TrackCount*>(frame); }
  /// Requires: has_track(g).
  [[nodiscard]] TrackCount& track_cell(Gfn g) noexcept { return leaf(g).track[g.value() & (kHeads - 1)]; }

  /// Effects: makes the slot in a frame of its own. Errors: OutOfMemory (nothing kept). Allocates: 1 frame, 1 a started
  /// 128 GiB, 2 a started GiB. Locking: none held.
  template <class Host>
  [[nodiscard]] static Slot* create(Host& host, SlotId id, Gfn first, std::uint64_t pages, SlotFlags flags) noexcept {
    void* frame = Magazine::fresh(host, FrameKind::Metadata);
    if (frame == nullptr) return nullptr;
    Slot* s = ::new (frame) Slot;
    s->first_ = first.value();
    s->pages_ = pages;
    s->base_gib_ = first.value() >> 18U;
    s->set_flags(flags);
    s->id_ = id;
    if (!s->make_directories(host)) {
      s->destroy(host);
      return nullptr;
    }
    s->for_each_end([s](Gfn g, Level l) { s->large(g, l).disallow += 1; });
    return s;
  }
  /// Effects: frees every frame of the slot, itself included. Requires: no rmap entry, no reader.
  template <class Host>
  void destroy(Host& host) noexcept {
    const auto free = [&host](void* p) {
      if (p != nullptr) host.free_frame(host.to_phys(p));
    };
    for (Gib* t : top_) {
      if (t == nullptr) continue;
      for (unsigned i = 0; i < kGibsPerFrame; ++i) {
        if (t[i].leaf != nullptr)
          for (unsigned j = 0; j < kPageSize / sizeof(Leaf); ++j) {
            free(Memory::plain(t[i].leaf[j].heads));
            free(t[i].leaf[j].track);
          }
        free(t[i].leaf);
        free(t[i].large);
        if (t[i].dirty != nullptr) free_bits(t[i].dirty, free);
      }
      free(t);
    }
    free(this);
  }
  /// Returns: words of the log: one for 64 gfns, counted from the slot's first.
  [[nodiscard]] std::uint64_t log_words() const noexcept { return (pages_ + 63U) / 64U; }
  /// Returns: word i of the log, a cell; nullptr while it is off. Requires: i < log_words(); the lock, or a section.
  [[nodiscard]] std::uint64_t* log_word(std::uint64_t i) noexcept {
    Gib& b = top_[(i >> 12U) / kGibsPerFrame][(i >> 12U) % kGibsPerFrame];
    const DirtyBits* d = Memory::template load<memory::Order::Acquire>(b.dirty);
    return d == nullptr ? nullptr : d->frame[i >> 9U & 7U] + (i & 511U);
  }
  /// Effects: the guest may have written g: notes it where the log is on. A mark that is set already is only looked at.
  /// The look is sequentially consistent, as is whatever let the write happen before it, or ended that (the exchange
  /// that made the leaf writable, took the leaf away, or wrote guest memory; or a fence); so is a fence that follows
  /// the taking of marks. Either the look finds the mark gone, or whoever took it, and the CPUs that his flush reaches,
  /// find the leaf, or the memory, as it is now. Source: C++20 [atomics.order] 4.
  void mark_dirty(Gfn g) noexcept {
    const std::uint64_t i = g.value() - first_;
    std::uint64_t* w = log_word(i >> 6U);
    if (w == nullptr) return;
    const std::uint64_t bit = std::uint64_t{1} << (i & 63U);
    for (;;) {
      std::uint64_t old = Memory::template load<memory::Order::SeqCst>(*w);
      if ((old & bit) != 0 || Memory::template compare_exchange<memory::Order::Relaxed>(*w, old, old | bit)) return;
    }
  }
  /// Effects: makes the log, all clear; marks may come as soon as a part of it is there. Errors: false where the Host
  /// has no frame; what was made stays until drop_log. Allocates: up to 9 frames a started GiB. Locking: slots lock.
  template <class Host>
  [[nodiscard]] bool make_log(Host& host) noexcept {
    const auto free = [&host](void* p) { host.free_frame(host.to_phys(p)); };
    for (std::uint64_t i = 0; i << 12U < log_words(); ++i) {
      void* frame = Magazine::fresh(host, FrameKind::Metadata);
      if (frame == nullptr) return false;
      auto* d = ::new (frame) DirtyBits{};
      for (unsigned n = 0; n < 8 && (i << 12U | n << 9U) < log_words(); ++n) {
        d->frame[n] = static_cast<std::uint64_t*>(Magazine::fresh(host, FrameKind::Metadata));
        if (d->frame[n] == nullptr) {
          free_bits(d, free);
          return false;
        }
      }
      Memory::template store<memory::Order::Release>(top_[i / kGibsPerFrame][i % kGibsPerFrame].dirty, d);
    }
    return true;
  }
  /// Who reads it without the lock is in a section, which is waited for next.
  void set_log(DirtyMethod m) noexcept { Memory::plain(log_, static_cast<std::uint32_t>(m)); }
  /// Effects: takes the log away; `wait` returns when nobody can mark it any more; then its frames are freed.
  template <class Host, class Wait>
  void drop_log(Host& host, Wait&& wait) noexcept {
    const auto free = [&host](void* p) { host.free_frame(host.to_phys(p)); };
    for (std::uint64_t i = 0; i << 12U < log_words(); i += kGibsPerFrame) {
      DirtyBits* taken[kGibsPerFrame] = {};
      Gib* gibs = top_[i / kGibsPerFrame];
      bool any = false;
      for (unsigned n = 0; n < kGibsPerFrame; ++n) {
        taken[n] = Memory::plain(gibs[n].dirty);
        if (taken[n] == nullptr) continue;
        Memory::template store<memory::Order::Relaxed>(gibs[n].dirty, nullptr);
        any = true;
      }
      if (!any) continue;
      wait();
      for (DirtyBits* d : taken)
        if (d != nullptr) free_bits(d, free);
    }
  }
  /// Calls f(rmap word, gfn, level) for every rmap word that is not empty (0). Locking: the Mmu's.
  template <class F>
  void for_each_rmap(F&& f) noexcept {
    for (std::uint64_t g = base_gib_; g <= (first_ + pages_ - 1) >> 18U; ++g) {
      Gib& b = gib(Gfn{g << 18U});
      if (b.huge.rmap != 0) f(b.huge.rmap, Gfn{g << 18U}, Level{3});
      for (unsigned i = 0; i < 512; ++i)
        if (b.large[i].rmap != 0) f(b.large[i].rmap, Gfn{g << 18U | i << 9U}, Level{2});
      for (unsigned i = 0; i < kPageSize / sizeof(Leaf); ++i) {
        std::uint32_t* const heads = Memory::plain(b.leaf[i].heads);
        if (heads == nullptr) continue;
        for (unsigned j = 0; j < kHeads; ++j)
          if (heads[j] != 0) f(heads[j], Gfn{g << 18U | i << 10U | j}, Level{1});
      }
    }
  }
  /// Returns: how many reasons against large pages are counted in all regions, the slot's own ends left out: for the
  /// audit. Complexity: O(regions). Locking: the Mmu's.
  [[nodiscard]] std::uint64_t reasons_by_tables() noexcept {
    std::uint64_t n = 0;
    for (std::uint64_t g = base_gib_; g <= (first_ + pages_ - 1) >> 18U; ++g) {
      const Gib& b = gib(Gfn{g << 18U});
      n += b.huge.disallow & ~LargeRegion::kExecSplit;
      for (unsigned i = 0; i < 512; ++i) n += b.large[i].disallow & ~LargeRegion::kExecSplit;
    }
    for_each_end([&n](Gfn, Level) { n -= 1; });
    return n;
  }

 private:
  [[nodiscard]] Gib& gib(Gfn g) noexcept {
    const std::uint64_t i = (g.value() >> 18U) - base_gib_;
    return top_[i / kGibsPerFrame][i % kGibsPerFrame];
  }
  template <class Free>
  static void free_bits(DirtyBits* d, Free&& free) noexcept {
    for (std::uint64_t* frame : d->frame)
      if (frame != nullptr) free(frame);
    free(d);
  }
  [[nodiscard]] std::uint32_t* rmap_in(std::uint32_t* heads, Gfn g, Level l) noexcept {
    if (l > Level{1}) return &large(g, l).rmap;
    return heads == nullptr ? nullptr : heads + (g.value() & (kHeads - 1));
  }
  [[nodiscard]] Leaf& leaf(Gfn g) noexcept { return gib(g).leaf[g.value() >> 10U & 255U]; }

  template <class Host>
  [[nodiscard]] bool make_directories(Host& host) noexcept {
    const std::uint64_t gibs = ((first_ + pages_ - 1) >> 18U) - base_gib_ + 1;
    for (std::uint64_t i = 0; i < gibs; ++i) {
      Gib*& t = top_[i / kGibsPerFrame];
      if (t == nullptr) t = static_cast<Gib*>(Magazine::fresh(host, FrameKind::Metadata));
      if (t == nullptr) return false;
      Gib& b = t[i % kGibsPerFrame];
      b.leaf = static_cast<Leaf*>(Magazine::fresh(host, FrameKind::Metadata));
      b.large = static_cast<LargeRegion*>(Magazine::fresh(host, FrameKind::Metadata));
      if (b.leaf == nullptr || b.large == nullptr) return false;
    }
    return true;
  }
  /// Calls f(gfn, level) for each end of the slot that lies inside a region. A large page must lie inside the slot
  /// whole.
  template <class F>
  void for_each_end(F&& f) const noexcept {
    for (const Level l : kLargeLevels) {
      const std::uint64_t n = l.frames();
      if (first_ % n != 0) f(Gfn{first_}, l);
      if ((first_ + pages_) % n != 0) f(Gfn{first_ + pages_ - 1}, l);
    }
  }

  std::uint64_t first_ = 0, pages_ = 0, base_gib_ = 0;
  std::uint32_t read_only_ = 0;  ///< cell
  std::uint32_t log_ = 0;        ///< cell: a DirtyMethod
  bool settling_ = false;
  SlotId id_{};
  Gib* top_[256] = {};
};
/// 2^32 gfns: what a 32-bit side word can name.
inline constexpr std::uint64_t kMaxGfn = std::uint64_t{1} << 32U;
/// Memslots that one Mmu may have.
inline constexpr unsigned kMaxSlots = (kPageSize - 16) / 16;

/// The memslots at one moment, sorted by gfn, immutable once published: what faults read without the lock.
template <class M>
class SlotSnapshot {
 public:
  using Slot = core::Slot<M>;
  static_assert(sizeof(Slot) <= kPageSize && 256ULL * Slot::kGibsPerFrame << 18U >= kMaxGfn);
  struct Entry {
    std::uint32_t first, last;  ///< gfns, inclusive
    Slot* slot;
  };
  static constexpr unsigned kCapacity = kMaxSlots;
  static_assert(sizeof(Entry) == 16);

  /// Tells all snapshots of an Mmu apart, those of the same address included. 0: the empty one.
  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  void follow(const SlotSnapshot& before) noexcept { version_ = before.version_ + 1; }

  [[nodiscard]] unsigned count() const noexcept { return count_; }
  [[nodiscard]] Slot* at(unsigned i) const noexcept { return entry_[i].slot; }
  /// Returns: the slot that holds g and is not being removed, or nullptr. `hint` remembers the last answer's place.
  /// Complexity: O(1) on the hint, else O(log slots).
  [[nodiscard]] Slot* find(Gfn g, unsigned& hint) const noexcept {
    if (hint < count_ && hint != retiring_ && g.value() - entry_[hint].first <= entry_[hint].last - entry_[hint].first)
      return entry_[hint].slot;
    const unsigned i = place(g);
    if (i == kCapacity || i == retiring_) return nullptr;
    hint = i;
    return entry_[i].slot;
  }
  /// Returns: the slot that holds g, one being removed included: for taking entries out of its rmaps.
  [[nodiscard]] Slot* find_any(Gfn g) const noexcept {
    const unsigned i = place(g);
    return i == kCapacity ? nullptr : entry_[i].slot;
  }
  /// Returns: the slot that holds g, one being removed included, with a hint: what guest memory is read by.
  [[nodiscard]] Slot* find_readable(Gfn g, unsigned& hint) const noexcept {
    if (hint < count_ && g.value() - entry_[hint].first <= entry_[hint].last - entry_[hint].first)
      return entry_[hint].slot;
    const unsigned i = place(g);
    if (i == kCapacity) return nullptr;
    hint = i;
    return entry_[i].slot;
  }
  /// Returns: the slot that holds g or, if none does, the next one above; nullptr where there is none.
  [[nodiscard]] Slot* find_from(Gfn g) const noexcept {
    const unsigned i = lower_bound(g);
    return i == count_ ? nullptr : entry_[i].slot;
  }
  /// Whether g lies in a slot that is being removed, moved or resized.
  [[nodiscard]] bool retiring(Gfn g) const noexcept { return retiring_ != kCapacity && place(g) == retiring_; }
  [[nodiscard]] bool changing() const noexcept { return retiring_ != kCapacity; }
  /// Requires: a fresh snapshot, count() < kCapacity of `from`, no overlap. Effects: copy of `from` with `s` in place.
  void copy_with(const SlotSnapshot& from, Slot* s) noexcept {
    const Entry e{static_cast<std::uint32_t>(s->first().value()), static_cast<std::uint32_t>(s->end().value() - 1), s};
    unsigned i = 0;
    for (; i < from.count_ && from.entry_[i].first < e.first; ++i) entry_[i] = from.entry_[i];
    entry_[i] = e;
    for (; i < from.count_; ++i) entry_[i + 1] = from.entry_[i];
    count_ = from.count_ + 1;
  }
  /// Effects: copy of `from` in which `s` is being removed: bookkeeping finds it, faults do not.
  void copy_retiring(const SlotSnapshot& from, const Slot* s) noexcept {
    count_ = from.count_;
    for (unsigned i = 0; i < count_; ++i) {
      entry_[i] = from.entry_[i];
      if (entry_[i].slot == s) retiring_ = i;
    }
  }
  void copy_without(const SlotSnapshot& from, const Slot* s) noexcept {
    count_ = 0;
    for (unsigned i = 0; i < from.count_; ++i)
      if (from.entry_[i].slot != s) entry_[count_++] = from.entry_[i];
  }
  /// Returns: whether a slot other than `except` has a gfn of the range.
  [[nodiscard]] bool overlaps(Gfn first, std::uint64_t pages, const Slot* except = nullptr) const noexcept {
    for (unsigned i = 0; i < count_; ++i)
      if (entry_[i].slot != except && first.value() <= entry_[i].last && entry_[i].first <= first.value() + pages - 1)
        return true;
    return false;
  }
  [[nodiscard]] Slot* by_id(SlotId id) const noexcept {
    for (unsigned i = 0; i < count_; ++i)
      if (entry_[i].slot->id() == id) return entry_[i].slot;
    return nullptr;
  }

 private:
  [[nodiscard]] unsigned place(Gfn g) const noexcept {
    const unsigned i = lower_bound(g);
    return i == count_ || g.value() < entry_[i].first ? kCapacity : i;
  }
  /// Returns: the first entry that does not lie below g whole.
  [[nodiscard]] unsigned lower_bound(Gfn g) const noexcept {
    unsigned lo = 0;
    unsigned n = count_;
    while (n != 0) {
      const unsigned half = n / 2;
      if (entry_[lo + half].last < g.value()) {
        lo += half + 1;
        n -= half + 1;
      } else {
        n = half;
      }
    }
    return lo;
  }

  std::uint64_t version_ = 0;
  unsigned count_ = 0;
  unsigned retiring_ = kCapacity;  ///< place of the slot that is being removed
  Entry entry_[kCapacity] = {};
};
static_assert(sizeof(std::uint64_t) + 2 * sizeof(unsigned) + kMaxSlots * 16 <= kPageSize);
/// What an Mmu without a slot publishes.
template <class M>
inline constexpr SlotSnapshot<M> kNoSlots{};

}  // namespace core
}  // namespace shadowmmu
