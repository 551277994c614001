// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/page.hpp"
#include "shadowmmu/core/pool.hpp"

namespace shadowmmu::core {

/// 64 bytes that serve as a list descriptor, as the fan of a long list, or as the unsync bitmap of an upper table. All
/// words are cells.
union Cell {
  struct {
    std::uint32_t next;
    std::uint32_t count;
    std::uint32_t handle[14];
  } list;
  struct {
    std::uint32_t unused;
    std::uint32_t count;     ///< handles of all parts
    std::uint32_t part[14];  ///< lists of their own, none of them a fan
  } fan;
  std::uint64_t bits[8];
};
static_assert(sizeof(Cell) == 64);

/// Cells, and a sequence that is odd while a chain that readers may be following changes.
struct CellPool : IndexedPool<Cell> {
  std::uint64_t changes = 0;  ///< cell
};

/// A list of entry handles behind one 32-bit cell: empty (0), one handle inlined (tag set), a chain of descriptors of
/// 14, or a fan of 14 such lists, among which a hash of the handle chooses. Serves rmaps (gfn -> leaf entries;
/// `Shared`: lockless readers look at them) and parents (page -> table entries). Order is not kept. Changed under the
/// Mmu's lock only. Invariant: only the first descriptor of a chain may have fewer than 14 handles, and never 0; a fan
/// has more than 14. A table that is zapped takes 512 handles from 512 lists: that is why a long list is a fan, and why
/// `crowded` wants no part of it long either. A guest that finds handles of one hash makes its own list crowded sooner.
template <class M, bool Shared>
class HandleList {
  using Order = memory::Order;

 public:
  static constexpr unsigned kPerCell = 14;
  static constexpr unsigned kParts = 14;
  /// Handles of a chain that becomes a fan, and of a part that makes its list crowded.
  static constexpr unsigned kLong = 4 * kPerCell;

  [[nodiscard]] static constexpr bool is_chain(std::uint32_t head) noexcept {
    return head != 0 && (head & (EntryHandle::kTag | kFan)) == 0;
  }
  [[nodiscard]] static constexpr bool is_fan(std::uint32_t head) noexcept {
    return (head & (EntryHandle::kTag | kFan)) == kFan;
  }
  [[nodiscard]] static bool empty(const std::uint32_t& head) noexcept { return M::plain(head) == 0; }
  /// Requires: cells.available() >= 1. Returns: whether a descriptor was added, which is the moment to `spread`.
  /// Complexity: O(1).
  static bool add(CellPool& cells, std::uint32_t& head, EntryHandle h) noexcept {
    const std::uint32_t first = M::plain(head);
    if (is_fan(first)) {
      Cell& fan = fan_of(cells, first);
      M::plain(fan.fan.count, M::plain(fan.fan.count) + 1);
      return add(cells, fan.fan.part[part_of(h)], h);
    }
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
  /// Effects: a chain of more than kLong handles becomes a fan, where so many cells are available that `spare` are
  /// left. Complexity: O(length).
  static void spread(CellPool& cells, std::uint32_t& head, unsigned spare) noexcept {
    const std::uint32_t first = M::plain(head);
    if (!is_chain(first)) return;
    const unsigned n = length(cells, head);
    if (n <= kLong || cells.available() < 1 + kParts + n / kPerCell + spare) return;
    const std::uint32_t c = cells.take<M>();
    Cell& fan = *cells.at(c);
    M::plain(fan.fan.count, n);
    for (std::uint32_t& part : fan.fan.part) M::plain(part, 0);
    for_each(cells, head, [&](EntryHandle h) { add(cells, fan.fan.part[part_of(h)], h); });
    const Change change(cells);
    publish(head, kFan | c);
    give_chain(cells, first);
  }
  /// Returns: whether it was there. Complexity: O(kLong / 14) cells; O(length / 14) of a chain that was not spread.
  static bool remove(CellPool& cells, std::uint32_t& head, EntryHandle h) noexcept {
    const std::uint32_t start = M::plain(head);
    if (is_fan(start)) {
      Cell& fan = fan_of(cells, start);
      if (!remove(cells, fan.fan.part[part_of(h)], h)) return false;
      const std::uint32_t left = M::plain(fan.fan.count) - 1;
      M::plain(fan.fan.count, left);
      if (left == kPerCell) fold(cells, head);
      return true;
    }
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
  /// Effects: the list is empty, and f(EntryHandle) is called for each handle that was there; it must change no
  /// list. Complexity: O(length).
  template <class F>
  static void drain(CellPool& cells, std::uint32_t& head, F&& f) noexcept {
    const std::uint32_t first = M::plain(head);
    if (first == 0) return;
    const Change change(cells);
    publish(head, 0);
    for_each(cells, first, f);
    if (is_fan(first)) {
      for (const std::uint32_t& part : fan_of(cells, first).fan.part)
        if (is_chain(M::plain(part))) give_chain(cells, M::plain(part));
      cells.give<M>(first & ~kFan);
    } else if (is_chain(first)) {
      give_chain(cells, first);
    }
  }
  /// Returns: some handle of a non-empty list. Complexity: O(1).
  [[nodiscard]] static EntryHandle any(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    if (is_fan(first))
      for (const std::uint32_t& part : fan_of(cells, first).fan.part)
        if (!empty(part)) return any(cells, part);
    if (!is_chain(first)) return EntryHandle::from_word(first);
    const Cell& c = *cells.at(first);
    return EntryHandle::from_word(M::plain(c.list.handle[M::plain(c.list.count) - 1]));
  }
  /// Calls f(EntryHandle) for each until it returns false; f must not change the list. Returns: whether it never did.
  template <class F>
  [[nodiscard]] static bool all_of(const CellPool& cells, const std::uint32_t& head, F&& f) noexcept {
    const std::uint32_t first = M::plain(head);
    if (first == 0) return true;
    if (is_fan(first)) {
      for (const std::uint32_t& part : fan_of(cells, first).fan.part)
        if (!all_of(cells, part, f)) return false;
      return true;
    }
    if (!is_chain(first)) return f(EntryHandle::from_word(first));
    for (std::uint32_t c = first; c != 0; c = M::plain(cells.at(c)->list.next)) {
      const Cell& cell = *cells.at(c);
      for (unsigned i = 0; i < M::plain(cell.list.count); ++i)
        if (!f(EntryHandle::from_word(M::plain(cell.list.handle[i])))) return false;
    }
    return true;
  }
  /// Calls f(EntryHandle) for each; f must not change the list.
  template <class F>
  static void for_each(const CellPool& cells, const std::uint32_t& head, F&& f) noexcept {
    static_cast<void>(all_of(cells, head, [&f](EntryHandle h) {
      f(h);
      return true;
    }));
  }
  /// Returns: whether it holds exactly one handle. Complexity: O(1).
  [[nodiscard]] static bool single(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    if (is_fan(first)) return false;
    if (!is_chain(first)) return first != 0;
    const Cell& c = *cells.at(first);
    return M::plain(c.list.count) == 1 && M::plain(c.list.next) == 0;
  }
  /// Returns: whether h would be one more than `most`, or its part of a fan is long. Complexity: O(1); O(length / 14)
  /// of a chain for every 14th handle.
  [[nodiscard]] static bool crowded(const CellPool& cells, const std::uint32_t& head, EntryHandle h,
                                    unsigned most) noexcept {
    const std::uint32_t first = M::plain(head);
    if (is_fan(first)) {
      const Cell& fan = fan_of(cells, first);
      return M::plain(fan.fan.count) >= most || crowded(cells, fan.fan.part[part_of(h)], h, kLong);
    }
    return is_chain(first) && M::plain(cells.at(first)->list.count) == kPerCell && length(cells, head) >= most;
  }
  /// Returns: the number of handles. Complexity: O(length / 14) of a chain, else O(1).
  [[nodiscard]] static unsigned length(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    if (first == 0) return 0;
    if (is_fan(first)) return M::plain(fan_of(cells, first).fan.count);
    if (!is_chain(first)) return 1;
    unsigned n = 0;
    for (std::uint32_t c = first; c != 0; c = M::plain(cells.at(c)->list.next)) n += M::plain(cells.at(c)->list.count);
    return n;
  }
  /// Returns: how many descriptors of the pool the list has. Complexity: O(length / 14).
  [[nodiscard]] static unsigned descriptors(const CellPool& cells, const std::uint32_t& head) noexcept {
    const std::uint32_t first = M::plain(head);
    unsigned n = 0;
    if (is_fan(first)) {
      n = 1;
      for (const std::uint32_t& part : fan_of(cells, first).fan.part) n += descriptors(cells, part);
    } else if (is_chain(first)) {
      for (std::uint32_t c = first; c != 0; c = M::plain(cells.at(c)->list.next)) n += 1;
    }
    return n;
  }

  /// What a reader without the lock found on a list at one moment.
  struct Seen {
    static constexpr unsigned kMost = kLong;
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
      if (is_fan(first)) break;  // it was long, and nobody need look inside without the lock
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

  /// Tag of a head: the rest is the index of a fan's cell. Cells are fewer than 2^30, handles have the higher tag.
  static constexpr std::uint32_t kFan = 1U << 30U;
  [[nodiscard]] static Cell& fan_of(const CellPool& cells, std::uint32_t head) noexcept {
    return *cells.at(head & ~kFan);
  }
  [[nodiscard]] static unsigned part_of(EntryHandle h) noexcept {
    // Neighbouring tables that map one frame by the same entry must spread: murmur3's finalizer.
    const std::uint32_t x = (h.word() ^ h.word() >> 16U) * 0x85eb'ca6bU;
    const std::uint32_t y = (x ^ x >> 13U) * 0xc2b2'ae35U;
    return static_cast<unsigned>((y >> 16U) * kParts >> 16U);
  }

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
      const auto n = M::plain(cell.list.count);
      if (n > kPerCell || out.count + n > Seen::kMost) return false;
      for (unsigned i = 0; i < n; ++i) out.word[out.count++] = M::plain(cell.list.handle[i]);
      if (n == 0) return false;
      c = M::plain(cell.list.next);
    }
    return true;
  }
  static void give_chain(CellPool& cells, std::uint32_t first) noexcept {
    for (std::uint32_t c = first; c != 0;) {
      const std::uint32_t next = M::plain(cells.at(c)->list.next);
      cells.give<M>(c);
      c = next;
    }
  }
  /// Effects: a fan of kPerCell handles becomes a chain, of the cell that was the fan. Complexity: O(1).
  static void fold(CellPool& cells, std::uint32_t& head) noexcept {
    const std::uint32_t c = M::plain(head) & ~kFan;
    std::uint32_t handle[kPerCell];
    unsigned n = 0;
    for_each(cells, head, [&](EntryHandle h) { handle[n++] = h.word(); });
    Cell& cell = *cells.at(c);
    for (const std::uint32_t& part : cell.fan.part)
      if (is_chain(M::plain(part))) give_chain(cells, M::plain(part));
    fill(cell, 0, n, handle[0]);
    for (unsigned i = 1; i < n; ++i) M::plain(cell.list.handle[i], handle[i]);
    publish(head, c);
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
