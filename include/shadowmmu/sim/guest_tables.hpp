// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cassert>
#include <concepts>
#include <cstdint>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

#include "shadowmmu/types.hpp"

/// Builds page tables in guest memory as a guest kernel would, and says which words it wrote.
namespace shadowmmu::sim {

enum class GuestFormat : std::uint8_t { ThirtyTwoBit, Pae, FourLevel, FiveLevel };

/// Bits of a guest entry. SDM vol. 3, 4.3 to 4.5.
namespace gpte {
inline constexpr std::uint64_t kPresent = 1U << 0, kWrite = 1U << 1, kUser = 1U << 2, kAccessed = 1U << 5,
                               kDirty = 1U << 6, kLarge = 1U << 7, kGlobal = 1U << 8, kLargePat = 1U << 12,
                               kNoExec = std::uint64_t{1} << 63;
inline constexpr std::uint64_t kTable = kPresent | kWrite | kUser;
}  // namespace gpte

/// One word that the builder wrote; the caller reports it to whoever watches guest memory.
struct EntryWrite {
  Gpa gpa{};
  unsigned bytes = 0;
  std::uint64_t before = 0, after = 0;
};
using EntryWrites = std::vector<EntryWrite>;

template <class M>
concept GuestMemory = requires(M& memory, Gpa at, unsigned bytes, std::uint64_t& read, std::uint64_t written) {
  { memory.read(at, bytes, read) } -> std::convertible_to<bool>;
  { memory.write(at, bytes, written) } -> std::convertible_to<bool>;
};

/// Frames for guest tables: never used ones first, or freed ones first once there are any.
class GuestFrames {
 public:
  GuestFrames(Gfn first, std::uint64_t count) : next_(first), left_(count) {}

  /// Throws std::runtime_error when none is left.
  [[nodiscard]] Gfn take() {
    if (!freed_.empty()) {
      const Gfn frame = freed_.back();
      freed_.pop_back();
      return frame;
    }
    if (left_ == 0) throw std::runtime_error("shadowmmu: the guest-table builder is out of guest frames");
    --left_;
    const Gfn frame = next_;
    next_ = next_ + 1;
    return frame;
  }
  void give_back(Gfn frame) { freed_.push_back(frame); }
  [[nodiscard]] std::uint64_t available() const noexcept { return left_ + freed_.size(); }

 private:
  Gfn next_;
  std::uint64_t left_;
  std::vector<Gfn> freed_;
};

template <GuestMemory Memory>
class GuestTables {
 public:
  /// Effects: takes and clears the root's frame. Several address spaces may share `frames`.
  GuestTables(Memory& memory, GuestFrames& frames, GuestFormat format)
      : memory_(memory), frames_(frames), format_(format) {
    EntryWrites ignored;
    root_ = new_table(ignored);
  }
  GuestTables(const GuestTables&) = delete;
  GuestTables& operator=(const GuestTables&) = delete;
  /// Effects: gives every table's frame back; guest memory stays as it is.
  ~GuestTables() {
    for (const Gfn table : owned_) frames_.give_back(table);
  }

  [[nodiscard]] std::uint64_t cr3() const noexcept { return address_of(root_).value(); }
  [[nodiscard]] GuestFormat format() const noexcept { return format_; }
  [[nodiscard]] unsigned entry_bytes() const noexcept { return format_ == GuestFormat::ThirtyTwoBit ? 4 : 8; }
  /// Returns: the root's level; PAE counts its PDPT as level 3.
  [[nodiscard]] Level top() const noexcept {
    switch (format_) {
      case GuestFormat::ThirtyTwoBit:
        return Level{2};
      case GuestFormat::Pae:
        return Level{3};
      case GuestFormat::FourLevel:
        return Level{4};
      case GuestFormat::FiveLevel:
        break;
    }
    return Level{5};
  }
  /// Returns: log2 of what an entry of this level covers (22, not 21, for a 32-bit PDE).
  [[nodiscard]] unsigned shift(Level level) const noexcept {
    return kPageShift + (entry_bytes() == 4 ? 10U : 9U) * (level.value() - 1U);
  }

  /// Effects: makes `gva` translate to `gfn` with an entry of `level`, adding tables on the way with `table_flags`.
  /// `flags`: the entry's low bits and kNoExec; kLarge is added above level 1. A table that a large page replaces stays
  /// allocated. Returns: each word that changed, in order. In PAE mode a changed PDPTE takes effect at the next CR3
  /// load.
  EntryWrites map(Gva gva, Gfn gfn, std::uint64_t flags, Level level = Level{1},
                  std::uint64_t table_flags = gpte::kTable) {
    EntryWrites writes;
    Gfn table = root_;
    for (Level at = top(); at > level; at = at.down()) {
      const Gpa cell = cell_of(table, gva, at);
      std::uint64_t entry = get(cell);
      if (!is_table(entry, at)) {
        entry = address_of(new_table(writes)).value() | flags_for_table(at, table_flags);
        put(cell, entry, writes);
      }
      table = child_of(entry);
    }
    put(cell_of(table, gva, level), leaf_address(gfn, level) | flags | (level > Level{1} ? gpte::kLarge : 0), writes);
    return writes;
  }

  /// Effects: clears the entry of `level`; the frames of tables below it go back to `frames`, their content unchanged.
  EntryWrites unmap(Gva gva, Level level = Level{1}) {
    EntryWrites writes;
    if (const std::optional<Gpa> cell = entry_gpa(gva, level)) {
      const std::uint64_t entry = get(*cell);
      put(*cell, 0, writes);
      if (is_table(entry, level)) release(child_of(entry), level.down());
    }
    return writes;
  }

  /// Returns: where the entry of `level` for `gva` lies; nothing if the tables do not reach that far.
  [[nodiscard]] std::optional<Gpa> entry_gpa(Gva gva, Level level) const {
    Gfn table = root_;
    for (Level at = top(); at > level; at = at.down()) {
      const std::uint64_t entry = get(cell_of(table, gva, at));
      if (!is_table(entry, at)) return std::nullopt;
      table = child_of(entry);
    }
    return cell_of(table, gva, level);
  }

  [[nodiscard]] std::optional<std::uint64_t> entry(Gva gva, Level level = Level{1}) const {
    const std::optional<Gpa> cell = entry_gpa(gva, level);
    return cell ? std::optional<std::uint64_t>{get(*cell)} : std::nullopt;
  }

  /// Effects: stores any value, sensible or not, in the entry of `level`. Returns: nothing if there is no such entry.
  std::optional<EntryWrite> set_entry(Gva gva, Level level, std::uint64_t value) {
    const std::optional<Gpa> cell = entry_gpa(gva, level);
    return cell ? std::optional<EntryWrite>{set_entry(*cell, value)} : std::nullopt;
  }
  EntryWrite set_entry(Gpa cell, std::uint64_t value) {
    const EntryWrite write{cell, entry_bytes(), get(cell), value};
    store(cell, value);
    return write;
  }

  /// Returns: the frames of all tables, the root's included.
  [[nodiscard]] const std::set<Gfn>& tables() const noexcept { return owned_; }

 private:
  [[nodiscard]] Gpa cell_of(Gfn table, Gva gva, Level level) const noexcept {
    const std::uint64_t entries = kPageSize / entry_bytes();
    return address_of(table) + ((gva.value() >> shift(level)) & (entries - 1)) * entry_bytes();
  }
  [[nodiscard]] static Gfn child_of(std::uint64_t entry) noexcept {
    return frame_of(Gpa{entry & 0x000f'ffff'ffff'f000U});
  }
  [[nodiscard]] static bool is_table(std::uint64_t entry, Level level) noexcept {
    return level > Level{1} && (entry & (gpte::kPresent | gpte::kLarge)) == gpte::kPresent;
  }
  [[nodiscard]] std::uint64_t flags_for_table(Level level, std::uint64_t flags) const noexcept {
    const bool pdpte = format_ == GuestFormat::Pae && level == Level{3};  // rights are reserved bits there
    return pdpte ? gpte::kPresent : flags;
  }
  /// PSE-36 keeps bits 39:32 of a 4 MiB page in bits 20:13. SDM vol. 3, table 4-4.
  [[nodiscard]] std::uint64_t leaf_address(Gfn gfn, Level level) const noexcept {
    const std::uint64_t address = address_of(gfn).value();
    assert((address & ((std::uint64_t{1} << shift(level)) - 1)) == 0);
    if (entry_bytes() == 8 || level == Level{1}) return address;
    return (address & 0xffc0'0000U) | ((address >> 32 & 0xffU) << 13);
  }

  [[nodiscard]] std::uint64_t get(Gpa cell) const {
    std::uint64_t value = 0;
    return memory_.read(cell, entry_bytes(), value) ? value : 0;
  }
  void store(Gpa cell, std::uint64_t value) {
    if (!memory_.write(cell, entry_bytes(), value)) {
      throw std::runtime_error("shadowmmu: a guest table lies outside guest memory");
    }
  }
  void put(Gpa cell, std::uint64_t value, EntryWrites& writes) {
    const std::uint64_t before = get(cell);
    if (before == value) return;
    store(cell, value);
    writes.push_back({cell, entry_bytes(), before, value});
  }

  [[nodiscard]] Gfn new_table(EntryWrites& writes) {
    const Gfn frame = frames_.take();
    owned_.insert(frame);
    for (std::uint64_t offset = 0; offset < kPageSize; offset += entry_bytes()) {
      put(address_of(frame) + offset, 0, writes);
    }
    return frame;
  }

  // Tables linked by hand may form a cycle or belong to somebody else: only what this builder took, and once.
  void release(Gfn table, Level level) {
    if (table == root_ || owned_.erase(table) == 0) return;
    for (std::uint64_t offset = 0; level > Level{1} && offset < kPageSize; offset += entry_bytes()) {
      const std::uint64_t entry = get(address_of(table) + offset);
      if (is_table(entry, level)) release(child_of(entry), level.down());
    }
    frames_.give_back(table);
  }

  Memory& memory_;
  GuestFrames& frames_;
  GuestFormat format_;
  Gfn root_{};
  std::set<Gfn> owned_;
};

}  // namespace shadowmmu::sim
