// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/role.hpp"
#include "shadowmmu/intrusive.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::core {

/// Names a shadow page: 22 bits, 0 is nobody.
using PageIndex = std::uint32_t;
inline constexpr PageIndex kNoPage = 0;
inline constexpr unsigned kPageIndexBits = 22;

/// Where a page stands in its life. Linked -> (Pinned roots only: Invalid ->) Zapped -> freed. Never back.
enum class PageLife : std::uint8_t { Free, Linked, Invalid, Zapped };

/// The side words of one table: 32 bits beside each entry. What a word means only its entry says: the slot gfn of a
/// leaf, the page index of a child, nothing where the entry is clear. A guest can turn a table entry into a leaf
/// between two looks of one walk, so that a gfn that it chose would be taken for a page index. Therefore nobody reads a
/// word by itself: `SideAccess` looks at the entry and at the word in one call, and it alone sees inside.
class SideWords {
  std::uint32_t* words_ = nullptr;
  template <class>
  friend class SideAccess;
};

/// Metadata of one shadow table, two cache lines. The first is all that a fault touches.
template <class Reclaim, class Generation>
struct alignas(64) ShadowPage : Reclaim::PageState {
  std::uint64_t* table = nullptr;  ///< the 512 entries, as the library reaches them
  SideWords side;                  ///< none for a direct leaf table
  Gfn gfn{};                       ///< guest table shadowed, or first gfn mapped (direct)
  Role role{};
  std::uint32_t parents = 0;          ///< HandleList of the entries that point here
  std::uint16_t live = 0;             ///< non-zero entries
  std::uint16_t unsync_children = 0;  ///< bits set in `unsync_map`
  PageLife life = PageLife::Free;
  bool unsync = false;
  std::uint8_t flood = 0;          ///< tracked writes since last walked
  bool owns_side = false;          ///< `side` is this page's half of the frame it shares with its buddy
  bool walked = false;             ///< a fault under way goes through it: not to be evicted by that fault
  std::uint16_t held = 0;          ///< vCPUs that hold it, so that an instruction of theirs ends: see holding.hpp
  std::uint16_t own_children = 0;  ///< linked by this page alone, once; kept for policies that ask for Hook::Strand
  Generation generation = 0;       ///< stamped at creation
  // Second line: what only creation, linking, syncing and zapping touch.
  ListMemberHook list_hook;  ///< live, obsolete, invalid, or a batch
  ChainMemberHook hash_hook;
  std::uint32_t unsync_map = 0;  ///< cell with 512 bits; upper indirect levels only
  PageIndex index = kNoPage;
  std::uint32_t roots = 0;   ///< vCPUs that use it as a root now
  std::uint32_t serial = 0;  ///< tells successive pages under one index apart
  std::uint64_t synced = 0;  ///< the last sync that was through with it, or had begun when it was made: see unsync.hpp
};

template <class Page>
using PageList = MemberList<Page, &Page::list_hook>;

/// Pages of the valid generation. Grows whenever the lock is free.
template <class Page>
class LivePages : public PageList<Page> {};

/// Linked pages of earlier generations, oldest first. Only a generation change appends, all of the live ones in O(1);
/// so a walk that takes from its front ends, whatever vCPUs do meanwhile.
template <class Page>
class ObsoletePages {
 public:
  [[nodiscard]] bool empty() const noexcept { return pages_.empty(); }
  [[nodiscard]] Page& front() noexcept { return pages_.front(); }
  void erase(Page& p) noexcept { pages_.erase(pages_.iterator_to(p)); }
  [[nodiscard]] auto begin() noexcept { return pages_.begin(); }
  [[nodiscard]] auto end() noexcept { return pages_.end(); }

 private:
  template <class>
  friend class Generations;
  void take_over(LivePages<Page>& live) noexcept { pages_.splice(pages_.end(), live); }
  PageList<Page> pages_;
};

/// An entry of a page in 32 bits: a tag, 22 bits of page, 9 of entry. Equals the word of a list that holds just it.
class EntryHandle {
 public:
  static constexpr std::uint32_t kTag = 1U << 31U;
  constexpr EntryHandle() noexcept = default;
  constexpr EntryHandle(PageIndex page, unsigned entry) noexcept : word_(kTag | page << 9U | entry) {}
  [[nodiscard]] static constexpr EntryHandle from_word(std::uint32_t w) noexcept {
    EntryHandle h;
    h.word_ = w;
    return h;
  }
  [[nodiscard]] constexpr std::uint32_t word() const noexcept { return word_; }
  [[nodiscard]] constexpr PageIndex page() const noexcept { return (word_ & ~kTag) >> 9U; }
  [[nodiscard]] constexpr unsigned entry() const noexcept { return word_ & 511U; }
  friend constexpr bool operator==(EntryHandle, EntryHandle) noexcept = default;

 private:
  std::uint32_t word_ = 0;
};
static_assert(EntryHandle(0x3fffff, 511).page() == 0x3fffff && EntryHandle(0x3fffff, 511).entry() == 511);

}  // namespace shadowmmu::core
