// SPDX-License-Identifier: BSL-1.0
#include "reclaim/tree.hpp"

#include <algorithm>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

namespace shadowmmu::bench {
namespace {

constexpr std::uint64_t kKernelHalf = std::uint64_t{1} << 35;
/// Guest memory that Ept maps without renumbering: 64 GiB.
constexpr std::uint64_t kDense = std::uint64_t{1} << 24;
/// Guest frames for which there is address space: 1 TiB.
constexpr std::uint64_t kMostSpan = std::uint64_t{1} << 28;

/// Deals out numbers in order of first use.
template <class Key>
class Numbers {
 public:
  /// Returns: the key's number, and whether it is new.
  std::pair<std::uint32_t, bool> of(const Key& key, std::uint32_t next) {
    const auto [at, fresh] = numbers_.try_emplace(key, next);
    return {at->second, fresh};
  }
  [[nodiscard]] std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(numbers_.size()); }

 private:
  std::unordered_map<Key, std::uint32_t> numbers_;
};

/// Guest-physical pages for a trace: its own, or, where it has address spaces or is too sparse, dealt out anew.
class Physical {
 public:
  explicit Physical(const Trace& trace) {
    std::uint64_t last = 0;
    for (const Record& r : trace.records) {
      if (r.end()) continue;
      virtual_ = virtual_ || r.space() != 0;
      last = std::max(last, r.page());
    }
    sparse_ = last >= kDense;
    virtual_ = virtual_ || (last & kKernelHalf) != 0;
  }
  [[nodiscard]] std::uint64_t page(const Record& r) {
    if (virtual_) {
      const bool kernel = (r.page() & kKernelHalf) != 0;
      return pages_
          .of((kernel ? std::uint64_t{0} : std::uint64_t{r.space()} << Record::kPageBits) | r.page(), pages_.size())
          .first;
    }
    if (!sparse_) return r.page();
    constexpr unsigned kGiB = 18;
    return std::uint64_t{regions_.of(r.page() >> kGiB, regions_.size()).first} << kGiB |
           (r.page() & ((std::uint64_t{1} << kGiB) - 1));
  }

 private:
  bool virtual_ = false, sparse_ = false;
  Numbers<std::uint64_t> pages_;
  Numbers<std::uint64_t> regions_;
};

}  // namespace

const char* name_of(ArchKind arch) noexcept { return arch == ArchKind::Ept ? "ept" : "x86_64"; }

Tree::Tree(const Trace& trace, ArchKind kind) : name(trace.name), arch(kind) {
  Physical physical(trace);
  Numbers<std::uint64_t> by_place[5];  // by level
  std::vector<std::vector<std::uint64_t>> seen;
  std::unordered_set<std::uint64_t> kernel_links;
  std::unordered_set<std::uint16_t> ended;
  const auto table = [&](std::uint64_t place, std::uint8_t level, std::uint32_t parent, std::uint64_t index) {
    const auto [number, fresh] = by_place[level].of(place, static_cast<std::uint32_t>(tables.size()));
    if (fresh) {
      if (tables.size() >= kMostTables)
        throw std::runtime_error(name + ": touches more than " + std::to_string(kMostTables) + " tables");
      tables.push_back({parent, static_cast<std::uint16_t>(index & 511U), level});
      seen.emplace_back();
      if (parent != kNone) links += 1;
    }
    return number;
  };
  steps.reserve(trace.records.size());
  for (const Record& r : trace.records) {
    Step step;
    const bool two_level = kind == ArchKind::Ept;
    const std::size_t before = tables.size();
    step.root = table(two_level ? 0U : r.space(), 4, kNone, 0) & 0x3fff'ffffU;
    if (tables.size() != before) roots.push_back(step.root);
    if (r.end()) {
      step.leaf = kNone;
      ended.insert(r.space());
      if (!two_level) steps.push_back(step);
      continue;
    }
    const std::uint64_t page = two_level ? physical.page(r) : r.page();
    if (two_level) span = std::max(span, page + 1);
    const bool kernel = !two_level && (page & kKernelHalf) != 0;
    if (!two_level && !kernel && ended.contains(r.space()))
      throw std::runtime_error(name + ": record " + std::to_string(&r - trace.records.data() + 1) + ": address space " +
                               std::to_string(r.space()) + " is touched after its end");
    if (span > kMostSpan) throw std::runtime_error(name + ": guest-physical pages too far apart");
    const std::uint64_t space = two_level || kernel ? 0 : std::uint64_t{r.space()} + 1;
    std::uint32_t at = kernel ? kNone : step.root;
    bool fresh = false;
    for (std::uint8_t level = 3; level >= 1; --level) {
      at = table(space << Record::kPageBits | page >> (9U * level), level, at, page >> (9U * level));
      if (kernel && level == 3 && kernel_links.insert(std::uint64_t{step.root} << 32U | at).second) {
        links += 1;
        fresh = true;
      }
    }
    step.leaf = at;
    const std::uint64_t address = page << 12U;
    step.address = (page & kKernelHalf) != 0 ? address | ~std::uint64_t{0} << 48U : address;
    step.store = r.store() ? 1U : 0U;
    step.fetch = r.fetch() ? 1U : 0U;
    auto& bits = seen[at];
    if (bits.empty()) bits.resize(8);
    std::uint64_t& word = bits[step.entry() / 64];
    const std::uint64_t bit = std::uint64_t{1} << step.entry() % 64;
    pages += (word & bit) == 0 ? 1U : 0U;
    least_faults += fresh || (word & bit) == 0 ? 1U : 0U;
    word |= bit;
    touches += 1;
    steps.push_back(step);
  }
  if (touches == 0) throw std::runtime_error(name + ": touches nothing");
}

}  // namespace shadowmmu::bench
