// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/magazine.hpp"
#include "shadowmmu/core/page.hpp"
#include "shadowmmu/types.hpp"

// A function that the sanitizer of threads leaves alone: as it is, not inlined into one that it looks at.
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#define SHADOWMMU_RACES_KNOWINGLY __attribute__((no_sanitize("thread"), noinline))
#elif defined(__clang__)
#if __has_feature(thread_sanitizer)
#define SHADOWMMU_RACES_KNOWINGLY __attribute__((disable_sanitizer_instrumentation, noinline))
#endif
#endif
#if !defined(SHADOWMMU_RACES_KNOWINGLY)
#define SHADOWMMU_RACES_KNOWINGLY
#endif

/// The side words of shadow tables: what stands beside an entry, read only together with the entry.
///
/// A word is the slot gfn of a leaf or the page index of a child, and nothing in the word tells which. The guest
/// chooses gfns, and it can make a leaf of a table entry between two looks of one walk on another CPU. A gfn that is
/// taken for a page index lets the guest name memory of the Host's. Therefore `SideWords` is closed: every function
/// below looks at the entry in the same call, or has the value of the entry as its argument.
namespace shadowmmu::core {

/// The only door to side words. `S` is core::State.
template <class S>
class SideAccess {
  using Page = typename S::Page;
  using Memory = typename S::Memory;
  using Arch = typename S::Arch;

 public:
  /// Returns: the page that entry i of p leads to; nullptr where the entry is clear, MMIO or a leaf. Locking: the Mmu's
  /// lock. Complexity: O(1).
  [[nodiscard]] static Page* child(S& s, const Page& p, unsigned i) noexcept {
    const std::uint64_t e = Memory::plain(p.table[i]);
    if (!Arch::present(e) || Arch::leaf(e, p.role.level())) return nullptr;
    return &s.page(Memory::plain(p.side.words_[i]));
  }
  /// Returns: the first gfn of the slot page that entry i of p maps, where the entry is or was `e`, a leaf. Direct
  /// pages need no word. Locking: the Mmu's lock, or p is direct.
  [[nodiscard]] static Gfn leaf_gfn(const Page& p, unsigned i, std::uint64_t e) noexcept {
    if (p.role.direct()) return Gfn{p.gfn.value() + i * p.role.level().frames()};
    return Arch::leaf(e, p.role.level()) ? Gfn{Memory::plain(p.side.words_[i])} : kNoGfn;
  }
  /// Effects: entry i of p, which is clear, will be a link to the page `child`. A relaxed store: see `prefetch`.
  static void set_child(const Page& p, unsigned i, PageIndex child) noexcept { Memory::plain(p.side.words_[i], child); }
  /// Effects: entry i of p, which is clear, will be a leaf that maps the slot page at `gfn`.
  static void set_leaf_gfn(const Page& p, unsigned i, Gfn gfn) noexcept {
    if (!p.role.direct()) Memory::plain(p.side.words_[i], static_cast<std::uint32_t>(gfn.value()));
  }

  /// Effects: starts to fetch the lines of the leaf entry for `a` and of its side word, below a directory of level 2
  /// that may have gone. Reads metadata without the lock and races with whoever changes it, knowingly: page structures
  /// and side words remain memory of their kind until the Mmu ends, an index out of range is refused, and a word that
  /// is none only fetches a useless line. Nothing that is installed depends on it. Locking: none.
  SHADOWMMU_RACES_KNOWINGLY static void prefetch(S& s, const Page& directory, Gva a) noexcept {
    const std::uint32_t* words = directory.side.words_;
    if (words == nullptr) return;
    const PageIndex child = Memory::plain(words[Level{2}.index(a.value())]);
    if (child == kNoPage || child >= s.pages.template published<Memory>()) return;
    const Page& leaf = s.page(child);
    const unsigned i = Level{1}.index(a.value());
    if (leaf.table != nullptr) __builtin_prefetch(leaf.table + i, 1);
    if (leaf.side.words_ != nullptr) __builtin_prefetch(leaf.side.words_ + i, 1);
  }

  /// Effects: p gets its words, as the last user left them: an entry's word is written before the entry. Halves of one
  /// frame serve two pages with neighbouring indices. Requires: the magazine is filled.
  static void take(S& s, Page& p, Magazine& m) noexcept {
    std::uintptr_t frame = 0;
    if (buddy_owns(s, p.index)) {
      frame = frame_of(s.page(p.index ^ 1U));
    } else if (s.spare_sides != nullptr) {
      frame = reinterpret_cast<std::uintptr_t>(s.spare_sides);
      s.spare_sides = next_spare(s);
    } else {
      frame = reinterpret_cast<std::uintptr_t>(m.take_meta());
      s.side_frames += 1;
    }
    p.side.words_ = reinterpret_cast<std::uint32_t*>(frame + (p.index & 1U) * (kPageSize / 2));
    p.owns_side = true;
  }
  /// Effects: p needs its words no more; a frame that neither half needs is spare.
  static void give(S& s, Page& p) noexcept {
    if (!p.owns_side) return;
    p.owns_side = false;
    if (buddy_owns(s, p.index)) return;
    auto* frame = reinterpret_cast<std::uint64_t*>(frame_of(p));
    Memory::plain(*frame, reinterpret_cast<std::uintptr_t>(s.spare_sides));  // `prefetch` may look at it meanwhile
    s.spare_sides = frame;
  }
  /// Effects: hands the spare frames to `free(void*)`.
  template <class Free>
  static void drain(S& s, Free&& free) noexcept {
    while (s.spare_sides != nullptr) {
      void* p = s.spare_sides;
      s.spare_sides = next_spare(s);
      free(p);
    }
  }

 private:
  /// No slot holds it: beyond the gfns that a side word can name.
  static constexpr Gfn kNoGfn{~std::uint64_t{0}};

  [[nodiscard]] static std::uintptr_t frame_of(const Page& p) noexcept {
    return reinterpret_cast<std::uintptr_t>(p.side.words_) & ~static_cast<std::uintptr_t>(kPageMask);
  }
  [[nodiscard]] static void* next_spare(const S& s) noexcept {
    return reinterpret_cast<void*>(
        static_cast<std::uintptr_t>(Memory::plain(*static_cast<const std::uint64_t*>(s.spare_sides))));
  }
  /// The buddy's storage may be on the free chain or outside the pool; a linked page knows itself by index.
  [[nodiscard]] static bool buddy_owns(S& s, PageIndex i) noexcept {
    const PageIndex b = i ^ 1U;
    if (b == kNoPage) return false;
    const Page& p = s.page(b);
    return p.index == b && p.owns_side;
  }
};

/// Returns: the page that entry i of p leads to, or nullptr. See SideAccess::child.
template <class S>
[[nodiscard]] typename S::Page* child_of(S& s, const typename S::Page& p, unsigned i) noexcept {
  return SideAccess<S>::child(s, p, i);
}
/// Returns: the gfn of a leaf whose value was read as `e`. See SideAccess::leaf_gfn.
template <class S>
[[nodiscard]] Gfn leaf_gfn(const typename S::Page& p, unsigned i, std::uint64_t e) noexcept {
  return SideAccess<S>::leaf_gfn(p, i, e);
}

}  // namespace shadowmmu::core
