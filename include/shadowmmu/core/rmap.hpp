// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/page.hpp"
#include "shadowmmu/core/pool.hpp"

namespace shadowmmu::core {

/// 64 bytes that serve as a list descriptor or as the unsync bitmap of an upper table. All words are cells.
union Cell {
  struct {
    std::uint32_t next;
    std::uint32_t count;
    std::uint32_t handle[14];
  } list;
  std::uint64_t bits[8];
};
static_assert(sizeof(Cell) == 64);

/// Cells, and a sequence that is odd while a chain that readers may be following changes.
struct CellPool : IndexedPool<Cell> {
  std::uint64_t changes = 0;  ///< cell
};

/// A list of entry handles behind one 32-bit cell: empty (0), one handle inlined (tag set), or a chain of descriptors
/// of 14. Serves rmaps (gfn -> leaf entries; `Shared`: lockless readers look at them) and parents (page -> table
/// entries). Order is not kept. Changed under the Mmu's lock only.
/// Invariant: only the first descriptor may have fewer than 14 handles, and never 0.
template <class M, bool Shared>
class HandleList {
  using Order = memory::Order;

 public:
  static constexpr unsigned kPerCell = 14;

  [[nodiscard]] static constexpr bool is_chain(std::uint32_t head) noexcept {
    return head != 0 && (head & EntryHandle::kTag) == 0;
  }
  [[nodiscard]] static bool empty(const std::uint32_t& head) noexcept { return M::plain(head) == 0; }
  /// Requires: cells.available() >= 1. Returns: whether a descriptor was added, which is the moment to look at the
  /// length. Complexity: O(1).
  static bool add(CellPool& cells, std::uint32_t& head, EntryHandle h) noexcept {
    const std::uint32_t first = M::plain(head);
    if (first == 0) {
      publish(head, h.word());
      return false;
    }
    if (!is_chain(first)) {
      const std::uint32_t c = cells.take<M>();
      fill(*cells.at(c), 0, 2, first);
      M::plain(cells.at(c)->list.handle[1], h.word());
      publish(head, c);
      return true;
    }
    const Change change(cells);
    Cell* cell = cells.at(first);
    std::uint32_t n = M::plain(cell->list.count);
    const bool fresh = n == kPerCell;
    if (fresh) {
      const std::uint32_t c = cells.take<M>();
      cell = cells.at(c);
      fill(*cell, first, 0, 0);
      publish(head, c);
      n = 0;
    }
    M::plain(cell->list.handle[n], h.word());
    M::plain(cell->list.count, n + 1);
    return fresh;
  }
  /// Returns: whether it was there. Complexity: O(length / 14) cells.
  static bool remove(CellPool& cells, std::uint32_t& head, EntryHandle h) noexcept {
    const std::uint32_t start = M::plain(head);
    if (start == h.word()) {
      publish(head, 0);
      return true;
    }
    if (!is_chain(start)) return false;
    Cell& first = *cells.at(start);
    for (std::uint32_t c = start; c != 0; c = M::plain(cells.at(c)->list.next)) {
      Cell& cell = *cells.at(c);
      for (unsigned i = 0; i < M::plain(cell.list.count); ++i) {
        if (M::plain(cell.list.handle[i]) != h.word()) continue;
        const Change change(cells);
        M::plain(cell.list.handle[i], M::plain(first.list.handle[M::plain(first.list.count) - 1]));
        shrink(cells, head, first);
        return true;
      }
    }
    return false;
  }
  /// Returns: some handle of a non-empty list. Complexity: O(1).
  [[nodiscard]] static EntryHandle any(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    if (!is_chain(first)) return EntryHandle::from_word(first);
    const Cell& c = *cells.at(first);
    return EntryHandle::from_word(M::plain(c.list.handle[M::plain(c.list.count) - 1]));
  }
  /// Calls f(EntryHandle) for each; f must not change the list.
  template <class F>
  static void for_each(const CellPool& cells, const std::uint32_t& head, F&& f) noexcept {
    const std::uint32_t first = M::plain(head);
    if (first == 0) return;
    if (!is_chain(first)) {
      f(EntryHandle::from_word(first));
      return;
    }
    for (std::uint32_t c = first; c != 0; c = M::plain(cells.at(c)->list.next)) {
      const Cell& cell = *cells.at(c);
      for (unsigned i = 0; i < M::plain(cell.list.count); ++i) f(EntryHandle::from_word(M::plain(cell.list.handle[i])));
    }
  }
  /// Returns: whether it holds exactly one handle. Complexity: O(1).
  [[nodiscard]] static bool single(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    if (!is_chain(first)) return first != 0;
    const Cell& c = *cells.at(first);
    return M::plain(c.list.count) == 1 && M::plain(c.list.next) == 0;
  }
  /// Returns: whether the next handle takes a descriptor. Complexity: O(1).
  [[nodiscard]] static bool at_descriptor_end(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    return is_chain(first) && M::plain(cells.at(first)->list.count) == kPerCell;
  }
  /// Returns: the number of handles. Complexity: O(length / 14).
  [[nodiscard]] static unsigned length(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    if (first == 0) return 0;
    if (!is_chain(first)) return 1;
    unsigned n = 0;
    for (std::uint32_t c = first; c != 0; c = M::plain(cells.at(c)->list.next)) n += M::plain(cells.at(c)->list.count);
    return n;
  }

  /// What a reader without the lock found on a list at one moment.
  struct Seen {
    static constexpr unsigned kMost = 4 * kPerCell;
    Seen() noexcept {}  // NOLINT(modernize-use-equals-default): must not clear the words for each gfn of a slot

    [[nodiscard]] EntryHandle operator[](unsigned n) const noexcept { return EntryHandle::from_word(word[n]); }
    std::uint32_t word[kMost];
    unsigned count = 0;
    bool whole = true;  ///< false: the list is longer, or changed at each look: ask again under the lock
  };
  /// Effects: copies the list into `out` as it was at some moment of the call. Locking: none; a reader section.
  /// Complexity: O(length), four looks at most.
  static void look(const CellPool& cells, const std::uint32_t& head, Seen& out) noexcept requires Shared {
    out.whole = true;
    for (unsigned tries = 0; tries < 4; ++tries) {
      const std::uint64_t before = M::template load<Order::Acquire>(cells.changes);
      out.count = 0;
      const std::uint32_t first = M::template load<Order::Acquire>(head);
      if (!is_chain(first)) {
        if (first != 0) out.word[out.count++] = first;
        return;
      }
      if (before % 2 == 0 && copy(cells, first, out)) {
        M::template fence<Order::Acquire>();
        if (M::template load<Order::Relaxed>(cells.changes) == before) return;
      }
      M::pause();
    }
    out.count = 0;  // what the last look copied may be no handles
    out.whole = false;
  }

 private:
  /// While it lives, readers see that chains change.
  class Change {
   public:
    explicit Change(CellPool& cells) noexcept : cells_(cells) {
      if constexpr (!Shared) return;
      M::template store<Order::Relaxed>(cells_.changes, M::plain(cells_.changes) + 1);
      M::template fence<Order::Release>();
    }
    Change(const Change&) = delete;
    ~Change() {
      if constexpr (Shared) M::template store<Order::Release>(cells_.changes, M::plain(cells_.changes) + 1);
    }

   private:
    CellPool& cells_;
  };

  /// Whoever reads the head finds what it leads to in place.
  static void publish(std::uint32_t& head, std::uint32_t word) noexcept {
    if constexpr (Shared)
      M::template store<Order::Release>(head, word);
    else
      M::plain(head, word);
  }
  static void fill(Cell& c, std::uint32_t next, std::uint32_t count, std::uint32_t handle) noexcept {
    M::plain(c.list.next, next);
    M::plain(c.list.count, count);
    M::plain(c.list.handle[0], handle);
  }
  /// Returns: false where the chain is too long, or no chain (it is changing).
  [[nodiscard]] static bool copy(const CellPool& cells, std::uint32_t first, Seen& out) noexcept {
    for (std::uint32_t c = first; c != 0;) {
      if (c >= cells.template published<M>()) return false;
      const Cell& cell = *cells.at(c);
      const auto n = M::template load<Order::Acquire>(cell.list.count);
      if (n > kPerCell || out.count + n > Seen::kMost) return false;
      for (unsigned i = 0; i < n; ++i) out.word[out.count++] = M::plain(cell.list.handle[i]);
      if (n == 0) return false;
      c = M::plain(cell.list.next);
    }
    return true;
  }
  static void shrink(CellPool& cells, std::uint32_t& head, Cell& first) noexcept {
    const std::uint32_t at = M::plain(head);
    const std::uint32_t left = M::plain(first.list.count) - 1;
    const std::uint32_t next = M::plain(first.list.next);
    M::plain(first.list.count, left);
    if (next == 0 && left == 1) {
      publish(head, M::plain(first.list.handle[0]));
      cells.give<M>(at);
    } else if (left == 0) {
      publish(head, next);
      cells.give<M>(at);
    }
  }
};

}  // namespace shadowmmu::core
