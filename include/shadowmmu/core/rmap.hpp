// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/page.hpp"
#include "shadowmmu/core/pool.hpp"

namespace shadowmmu::core {

/// 64 bytes that serve as a list descriptor or as the unsync bitmap of an upper table.
union Cell {
  struct {
    std::uint32_t next;
    std::uint32_t count;
    std::uint32_t handle[14];
  } list;
  std::uint64_t bits[8];
};
static_assert(sizeof(Cell) == 64);
using CellPool = IndexedPool<Cell>;

/// A list of entry handles behind one 32-bit word: empty (0), one handle inlined (tag set), or a chain of descriptors
/// of
/// 14. Serves rmaps (gfn -> leaf entries) and parents (page -> table entries). Order is not kept.
/// Invariant: only the first descriptor may have fewer than 14 handles, and never 0.
class HandleList {
 public:
  static constexpr unsigned kPerCell = 14;

  /// Requires: cells.available() >= 1. Returns: whether a descriptor was added, which is the moment to look at the
  /// length. Complexity: O(1).
  static bool add(CellPool& cells, std::uint32_t& head, EntryHandle h) noexcept {
    if (head == 0) {
      head = h.word();
      return false;
    }
    if ((head & EntryHandle::kTag) != 0) {
      const std::uint32_t c = cells.take();
      Cell& cell = *cells.at(c);
      cell.list = {0, 2, {head, h.word()}};
      head = c;
      return true;
    }
    Cell* cell = cells.at(head);
    const bool fresh = cell->list.count == kPerCell;
    if (fresh) {
      const std::uint32_t c = cells.take();
      cell = cells.at(c);
      cell->list = {head, 0, {}};
      head = c;
    }
    cell->list.handle[cell->list.count++] = h.word();
    return fresh;
  }
  /// Returns: whether it was there. Complexity: O(length / 14) cells.
  static bool remove(CellPool& cells, std::uint32_t& head, EntryHandle h) noexcept {
    if (head == h.word()) {
      head = 0;
      return true;
    }
    if (head == 0 || (head & EntryHandle::kTag) != 0) return false;
    Cell& first = *cells.at(head);
    for (std::uint32_t c = head; c != 0; c = cells.at(c)->list.next) {
      Cell& cell = *cells.at(c);
      for (unsigned i = 0; i < cell.list.count; ++i) {
        if (cell.list.handle[i] != h.word()) continue;
        cell.list.handle[i] = first.list.handle[first.list.count - 1];
        shrink(cells, head, first);
        return true;
      }
    }
    return false;
  }
  /// Returns: some handle of a non-empty list. Complexity: O(1).
  [[nodiscard]] static EntryHandle any(const CellPool& cells, std::uint32_t head) noexcept {
    if ((head & EntryHandle::kTag) != 0) return EntryHandle::from_word(head);
    const Cell& c = *cells.at(head);
    return EntryHandle::from_word(c.list.handle[c.list.count - 1]);
  }
  /// Calls f(EntryHandle) for each; f must not change the list.
  template <class F>
  static void for_each(const CellPool& cells, std::uint32_t head, F&& f) noexcept {
    if (head == 0) return;
    if ((head & EntryHandle::kTag) != 0) {
      f(EntryHandle::from_word(head));
      return;
    }
    for (std::uint32_t c = head; c != 0; c = cells.at(c)->list.next) {
      const Cell& cell = *cells.at(c);
      for (unsigned i = 0; i < cell.list.count; ++i) f(EntryHandle::from_word(cell.list.handle[i]));
    }
  }
  /// Returns: the number of handles. Complexity: O(length / 14).
  [[nodiscard]] static unsigned length(const CellPool& cells, std::uint32_t head) noexcept {
    if (head == 0) return 0;
    if ((head & EntryHandle::kTag) != 0) return 1;
    unsigned n = 0;
    for (std::uint32_t c = head; c != 0; c = cells.at(c)->list.next) n += cells.at(c)->list.count;
    return n;
  }

 private:
  static void shrink(CellPool& cells, std::uint32_t& head, Cell& first) noexcept {
    first.list.count -= 1;
    if (first.list.next == 0 && first.list.count == 1) {
      const std::uint32_t last = first.list.handle[0];
      cells.give(head);
      head = last;
    } else if (first.list.count == 0) {
      const std::uint32_t next = first.list.next;
      cells.give(head);
      head = next;
    }
  }
};

}  // namespace shadowmmu::core
