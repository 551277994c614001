// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <new>

#include "shadowmmu/core/magazine.hpp"
#include "shadowmmu/result.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu {

enum class SlotId : std::uint32_t {};
struct SlotFlags {
  bool read_only = false;  ///< guest writes are the embedder's business (ROM)
};

namespace core {

/// How many shadow pages shadow the guest table in a gfn. Zero for almost every gfn, so kept in frames made on demand.
struct TrackCount {
  std::uint16_t upper = 0;  ///< pages of level >= 2: guest writes to the frame must fault
  std::uint16_t leaf = 0;   ///< pages of level 1: may be let go unsync
};

/// State of one aligned region of 2 MiB or 1 GiB.
struct LargeRegion {
  std::uint32_t rmap = 0;      ///< HandleList of the leaf entries of this level
  std::uint32_t disallow = 0;  ///< reasons against a large mapping: slot ends, shadowed tables inside
};

/// A memslot and everything kept per gfn of it, in single frames. Addressed by absolute gfn, so that 2 MiB and 1 GiB
/// regions are the naturally aligned ones. Directories exist from the start; the 4-byte rmap heads and the tracking
/// counts of 1024 gfns come when first needed.
class Slot {
 public:
  static constexpr unsigned kHeads = kPageSize / sizeof(std::uint32_t);
  struct Leaf {
    std::uint32_t* heads;  ///< 1024 rmap words
    TrackCount* track;     ///< 1024 counts
  };
  struct Gib {
    Leaf* leaf;          ///< 256 of them
    LargeRegion* large;  ///< 512 of them
    LargeRegion huge;    ///< the GiB itself
    std::uint64_t unused;
  };
  static constexpr unsigned kGibsPerFrame = kPageSize / sizeof(Gib);
  static_assert(sizeof(Gib) == 32 && sizeof(TrackCount) == 4);

  [[nodiscard]] bool contains(Gfn g) const noexcept { return g.value() - first_ < pages_; }
  [[nodiscard]] Gfn first() const noexcept { return Gfn{first_}; }
  [[nodiscard]] std::uint64_t pages() const noexcept { return pages_; }
  [[nodiscard]] Gfn end() const noexcept { return Gfn{first_ + pages_}; }
  [[nodiscard]] SlotFlags flags() const noexcept { return flags_; }
  [[nodiscard]] SlotId id() const noexcept { return id_; }

  /// Returns: the rmap word of (level, gfn), or nullptr where none was ever made. Requires: contains(g).
  [[nodiscard]] std::uint32_t* rmap(Gfn g, Level l) noexcept {
    if (l == Level{1}) {
      std::uint32_t* heads = leaf(g).heads;
      return heads == nullptr ? nullptr : heads + (g.value() & (kHeads - 1));
    }
    return &large(g, l).rmap;
  }
  [[nodiscard]] LargeRegion& large(Gfn g, Level l) noexcept {
    Gib& b = gib(g);
    return l == Level{2} ? b.large[g.value() >> 9U & 511U] : b.huge;
  }
  [[nodiscard]] TrackCount track(Gfn g) noexcept {
    const TrackCount* t = leaf(g).track;
    return t == nullptr ? TrackCount{} : t[g.value() & (kHeads - 1)];
  }
  [[nodiscard]] bool has_heads(Gfn g) noexcept { return leaf(g).heads != nullptr; }
  [[nodiscard]] bool has_track(Gfn g) noexcept { return leaf(g).track != nullptr; }
  /// Effects: gives the frame for the heads (counts) around g. Requires: it had none; the frame is zeroed.
  void give_heads(Gfn g, void* frame) noexcept { leaf(g).heads = static_cast<std::uint32_t*>(frame); }
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
    s->flags_ = flags;
    s->id_ = id;
    if (!s->make_directories(host)) {
      s->destroy(host);
      return nullptr;
    }
    s->mark_ends();
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
            free(t[i].leaf[j].heads);
            free(t[i].leaf[j].track);
          }
        free(t[i].leaf);
        free(t[i].large);
      }
      free(t);
    }
    free(this);
  }
  /// Calls f(rmap word, gfn, level) for every rmap word that was made, whatever it holds.
  template <class F>
  void for_each_rmap(F&& f) noexcept {
    for (std::uint64_t g = base_gib_; g <= (first_ + pages_ - 1) >> 18U; ++g) {
      Gib& b = gib(Gfn{g << 18U});
      f(b.huge.rmap, Gfn{g << 18U}, Level{3});
      for (unsigned i = 0; i < 512; ++i) f(b.large[i].rmap, Gfn{g << 18U | i << 9U}, Level{2});
      for (unsigned i = 0; i < kPageSize / sizeof(Leaf); ++i) {
        if (b.leaf[i].heads == nullptr) continue;
        for (unsigned j = 0; j < kHeads; ++j) f(b.leaf[i].heads[j], Gfn{g << 18U | i << 10U | j}, Level{1});
      }
    }
  }

 private:
  [[nodiscard]] Gib& gib(Gfn g) noexcept {
    const std::uint64_t i = (g.value() >> 18U) - base_gib_;
    return top_[i / kGibsPerFrame][i % kGibsPerFrame];
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
  /// A large page must lie inside the slot whole.
  void mark_ends() noexcept {
    for (const Level l : kLargeLevels) {
      const std::uint64_t n = l.frames();
      if (first_ % n != 0) large(Gfn{first_}, l).disallow += 1;
      if ((first_ + pages_) % n != 0) large(Gfn{first_ + pages_ - 1}, l).disallow += 1;
    }
  }

  std::uint64_t first_ = 0, pages_ = 0, base_gib_ = 0;
  SlotFlags flags_{};
  SlotId id_{};
  Gib* top_[256] = {};
};
static_assert(sizeof(Slot) <= kPageSize);
/// 2^32 gfns: what a 32-bit side word can name.
inline constexpr std::uint64_t kMaxGfn = std::uint64_t{1} << 32U;
static_assert(256ULL * Slot::kGibsPerFrame << 18U >= kMaxGfn);

/// The memslots at one moment, sorted by gfn, immutable once published: what faults read without the lock.
class SlotSnapshot {
 public:
  struct Entry {
    std::uint32_t first, last;  ///< gfns, inclusive
    Slot* slot;
  };
  static constexpr unsigned kCapacity = (kPageSize - 16) / sizeof(Entry);

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
  [[nodiscard]] bool overlaps(Gfn first, std::uint64_t pages) const noexcept {
    for (unsigned i = 0; i < count_; ++i)
      if (first.value() <= entry_[i].last && entry_[i].first <= first.value() + pages - 1) return true;
    return false;
  }
  [[nodiscard]] Slot* by_id(SlotId id) const noexcept {
    for (unsigned i = 0; i < count_; ++i)
      if (entry_[i].slot->id() == id) return entry_[i].slot;
    return nullptr;
  }

 private:
  [[nodiscard]] unsigned place(Gfn g) const noexcept {
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
    return lo == count_ || g.value() < entry_[lo].first ? kCapacity : lo;
  }

  unsigned count_ = 0;
  unsigned retiring_ = kCapacity;  ///< place of the slot that is being removed
  Entry entry_[kCapacity] = {};
};
static_assert(sizeof(SlotSnapshot) <= kPageSize);
/// What an Mmu without a slot publishes.
inline constexpr SlotSnapshot kNoSlots{};

}  // namespace core
}  // namespace shadowmmu
