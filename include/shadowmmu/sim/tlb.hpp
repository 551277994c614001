// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "shadowmmu/sim/hw_walk.hpp"
#include "shadowmmu/sim/random.hpp"
#include "shadowmmu/types.hpp"

/// The caches of the paging hardware. They keep what a real CPU *may* keep, so they drop as little as the manual
/// allows: a missing flush shows. Source: Intel SDM vol. 3, 4.10; AMD APM vol. 2, 5.5 (INVLPG need not drop other
/// addresses).
namespace shadowmmu::sim {

/// A cached leaf translation, as it was when it was walked.
struct CachedPage {
  Hpa page{};  ///< of the page's first byte
  Level level{1};
  unsigned shift = kPageShift;
  unsigned rights = 0;
  bool dirty = false;
  std::uint8_t caching = 0;
};

struct CacheConfig {
  std::size_t pages = 64;       ///< capacity for leaf translations
  std::size_t structures = 32;  ///< capacity for upper-level entries
  bool never_evict = false;     ///< capacities do not bind: only a flush removes anything
};

namespace detail {

/// Values keyed by an address prefix of some length; at capacity a random one makes way.
template <class Value>
class PrefixCache {
 public:
  PrefixCache(std::size_t capacity, bool never_evict) : capacity_(capacity), never_evict_(never_evict) {}

  [[nodiscard]] const Value* find(std::uint64_t address, unsigned shift) const {
    const auto found = values_.find(key(address, shift));
    return found == values_.end() ? nullptr : &found->second.value;
  }

  /// Returns: whether another entry had to go.
  bool insert(std::uint64_t address, unsigned shift, const Value& value, Random& random) {
    if (capacity_ == 0 && !never_evict_) return false;
    const std::uint64_t at = key(address, shift);
    if (const auto found = values_.find(at); found != values_.end()) {
      found->second.value = value;
      return false;
    }
    const bool full = !never_evict_ && keys_.size() >= capacity_;
    if (full) erase_key(random.pick(keys_));
    values_.emplace(at, Slot{value, keys_.size()});
    keys_.push_back(at);
    return full;
  }

  void erase(std::uint64_t address, unsigned shift) { erase_key(key(address, shift)); }

  /// Effects: drops whatever overlaps [first, last]. Complexity: linear in the entries held.
  void erase_overlapping(std::uint64_t first, std::uint64_t last) {
    for (std::size_t i = keys_.size(); i-- > 0;) {
      const std::uint64_t at = keys_[i];
      const unsigned shift = static_cast<unsigned>(at & kShiftMask);
      const std::uint64_t prefix = at >> kShiftBits;
      if (prefix >= first >> shift && prefix <= last >> shift) erase_key(at);
    }
  }

  void clear() {
    values_.clear();
    keys_.clear();
  }
  /// Returns: whether pred(value) is true of one that is held. Complexity: linear in the entries held.
  template <class Predicate>
  [[nodiscard]] bool any(Predicate&& pred) const {
    for (const auto& v : values_)
      if (pred(v.second.value)) return true;
    return false;
  }
  [[nodiscard]] std::size_t size() const noexcept { return keys_.size(); }

 private:
  struct Slot {
    Value value;
    std::size_t position;  ///< of its key in keys_
  };
  // A prefix of a 57-bit address at shift 12 has 45 bits (52 bits for any 64-bit address): six more name the shift.
  static constexpr unsigned kShiftBits = 6;
  static constexpr std::uint64_t kShiftMask = (1U << kShiftBits) - 1;

  [[nodiscard]] static std::uint64_t key(std::uint64_t address, unsigned shift) noexcept {
    return (address >> shift) << kShiftBits | shift;
  }

  void erase_key(std::uint64_t at) {
    const auto found = values_.find(at);
    if (found == values_.end()) return;
    const std::size_t hole = found->second.position;
    keys_[hole] = keys_.back();
    values_.find(keys_[hole])->second.position = hole;
    keys_.pop_back();
    values_.erase(at);
  }

  std::size_t capacity_;
  bool never_evict_;
  std::unordered_map<std::uint64_t, Slot> values_;
  std::vector<std::uint64_t> keys_;
};

}  // namespace detail

class Tlb {
 public:
  Tlb(const CacheConfig& config, std::uint64_t seed)
      : pages_(config.pages, config.never_evict), structures_(config.structures, config.never_evict), random_(seed) {}

  /// Returns: a translation of the address. If pages of several sizes are cached for it, any of them: the manual leaves
  /// the choice to the CPU, and here chance makes it.
  [[nodiscard]] const CachedPage* find_page(std::uint64_t address) {
    const CachedPage* chosen = nullptr;
    std::uint64_t seen = 0;
    for (const unsigned shift : kPageShifts) {
      const CachedPage* page = pages_.find(address, shift);
      if (page != nullptr && random_.below(++seen) == 0) chosen = page;
    }
    return chosen;
  }

  /// Returns: the cached table nearest to the leaf.
  [[nodiscard]] std::optional<TablePointer> find_table(std::uint64_t address) const {
    for (const unsigned shift : kTableShifts) {
      if (const TablePointer* table = structures_.find(address, shift)) return *table;
    }
    return std::nullopt;
  }

  /// Requires: walk.ok(). Effects: caches the leaf and every table on the way.
  void fill(std::uint64_t address, const WalkResult& walk) {
    const std::uint64_t offset = detail::field(walk.shift - 1, 0);
    const CachedPage page{
        Hpa{walk.hpa.value() & ~offset}, walk.level, walk.shift, walk.rights, walk.dirty, walk.caching};
    evictions_ += pages_.insert(address, walk.shift, page, random_) ? 1U : 0U;
    for (std::size_t i = 0; i < walk.step_count; ++i) {
      evictions_ += structures_.insert(address, walk.steps[i].shift, walk.steps[i], random_) ? 1U : 0U;
    }
  }

  void drop_all() {
    pages_.clear();
    structures_.clear();
  }

  /// Effects: drops each leaf, of any page size, and each table entry that serves this address.
  void drop_address(std::uint64_t address) {
    for (const unsigned shift : kPageShifts) pages_.erase(address, shift);
    for (const unsigned shift : kTableShifts) structures_.erase(address, shift);
  }

  /// Effects: drops the leaves that serve this address; the tables stay cached.
  void drop_leaves(std::uint64_t address) {
    for (const unsigned shift : kPageShifts) pages_.erase(address, shift);
  }

  /// Effects: drops each leaf that overlaps [first, last]; the tables stay cached.
  void drop_leaves(std::uint64_t first, std::uint64_t last) { pages_.erase_overlapping(first, last); }

  /// Returns: whether a walk may go on in the table that lies in this frame.
  [[nodiscard]] bool holds_table(Hpa frame) const {
    return structures_.any([&](const TablePointer& t) { return t.table == frame; });
  }
  [[nodiscard]] std::size_t pages() const noexcept { return pages_.size(); }
  [[nodiscard]] std::size_t structures() const noexcept { return structures_.size(); }
  [[nodiscard]] std::uint64_t evictions() const noexcept { return evictions_; }

 private:
  static constexpr std::array<unsigned, 4> kPageShifts{12, 21, 22, 30};
  static constexpr std::array<unsigned, 5> kTableShifts{21, 22, 30, 39, 48};

  detail::PrefixCache<CachedPage> pages_;
  detail::PrefixCache<TablePointer> structures_;
  Random random_;
  std::uint64_t evictions_ = 0;
};

}  // namespace shadowmmu::sim
