// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace shadowmmu::sim {

/// A run of bytes in memory.
struct Footprint {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
  [[nodiscard]] bool overlaps(Footprint o) const noexcept {
    return begin < o.begin + o.bytes && o.begin < begin + bytes;
  }
};

template <class T>
[[nodiscard]] Footprint footprint_of(const T& cell) noexcept {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  return {reinterpret_cast<std::uintptr_t>(&cell), sizeof(T)};
}

/// The store buffer of one CPU under x86-TSO: first in, first out; its own loads see it, nobody else's do. Where stores
/// are weak, one that is no release may overtake those to other cells.
/// Source: Sewell et al., "x86-TSO", CACM 2010.
class StoreBuffer {
 public:
  struct Entry {
    Footprint where;
    std::uint64_t bits;
    bool release;
  };

  template <class T>
  void push(T& cell, T v, bool release) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    entries_.push_back({footprint_of(cell), bits, release || fenced_});
  }
  /// Effects: what comes now overtakes nothing that is here.
  void fence() noexcept { fenced_ = !empty(); }

  /// Returns: the cell as its CPU sees it; stores of other widths are laid over byte by byte.
  template <class T>
  [[nodiscard]] T read(const T& cell) const noexcept {
    T v = cell;
    if (empty()) return v;
    const Footprint want = footprint_of(cell);
    auto* out = reinterpret_cast<unsigned char*>(&v);
    for (std::size_t n = first_; n < entries_.size(); ++n) {
      const Entry& e = entries_[n];
      if (!e.where.overlaps(want)) continue;
      const auto* in = reinterpret_cast<const unsigned char*>(&e.bits);
      for (std::size_t i = 0; i < e.where.bytes; ++i) {
        const std::uintptr_t at = e.where.begin + i;
        if (at >= want.begin && at < want.begin + want.bytes) out[at - want.begin] = in[i];
      }
    }
    return v;
  }

  /// Effects: the oldest store reaches memory. Returns: whether that changed memory. Requires: !empty().
  bool drain_one() noexcept {
    const Entry e = entries_[first_];
    if (++first_ == entries_.size()) clear();
    auto* target = reinterpret_cast<void*>(e.where.begin);
    const bool changed = std::memcmp(target, &e.bits, e.where.bytes) != 0;
    std::memcpy(target, &e.bits, e.where.bytes);
    return changed;
  }

  /// Returns: whether store i, which is not the oldest, may reach memory before all that are older.
  [[nodiscard]] bool may_overtake(std::size_t i) const noexcept {
    const Entry& e = (*this)[i];
    if (i == 0 || e.release) return false;
    for (std::size_t n = 0; n < i; ++n)
      if ((*this)[n].where.overlaps(e.where)) return false;
    return true;
  }
  /// Effects: store i reaches memory before those that are older. Returns: as drain_one().
  bool overtake(std::size_t i) noexcept {
    const auto at = entries_.begin() + static_cast<std::ptrdiff_t>(first_ + i);
    std::rotate(entries_.begin() + static_cast<std::ptrdiff_t>(first_), at, at + 1);
    return drain_one();
  }

  [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size() - first_; }
  [[nodiscard]] const Entry& operator[](std::size_t i) const noexcept { return entries_[first_ + i]; }
  void clear() noexcept {
    entries_.clear();
    first_ = 0;
    fenced_ = false;
  }

 private:
  std::vector<Entry> entries_;  ///< those before first_ have reached memory
  std::size_t first_ = 0;
  bool fenced_ = false;  ///< a release fence came after some of them
};

}  // namespace shadowmmu::sim
