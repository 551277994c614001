// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "shadowmmu/types.hpp"

/// What words of the guest's tables held before, and what a CPU may remember of it. Time is a count of events. A value
/// may be remembered from when it was written until it was overwritten, or, where nobody told the MMU of that, until it
/// is told; by a PCID only if it was in use meanwhile, and no flush came after.
namespace shadowmmu::sim::world {

inline constexpr std::uint64_t kStill = ~std::uint64_t{0};

/// A value that a word, eight bytes at an address of that alignment, had.
struct PastValue {
  std::uint64_t value = 0;
  std::uint64_t since = 0, overwritten = 0;
  std::uint64_t told = kStill;  ///< when the MMU heard of it; kStill: it did not
  unsigned late = 0;            ///< bit i: the MMU does not see, or did not see, the change of half i
  unsigned untold = 0;          ///< of these, those of which it has not heard
  /// Returns: until when it counts, for an entry of that many bytes at `at`.
  [[nodiscard]] std::uint64_t until(std::uint64_t at, unsigned bytes) const noexcept {
    const bool hidden = bytes == 8 ? late != 0 : (late >> (at >> 2 & 1) & 1) != 0;
    return hidden ? told : overwritten;
  }
};

class Past {
 public:
  /// The word lost that value, of which these halves are written. `untold`: those of whose change the MMU hears later,
  /// or never.
  void overwritten(std::uint64_t word, std::uint64_t value, std::uint64_t now, unsigned halves, unsigned untold) {
    Word& w = words_[word];
    w.values.push_back({value, std::max(w.written[0], w.written[1]), now, kStill, untold, untold});
    for (unsigned h = 0; h < 2; ++h)
      if ((halves >> h & 1) != 0) w.written[h] = now;
    if (untold != 0) untold_ += 1;
  }
  /// The MMU was told that [at, at + bytes) was written.
  void told(std::uint64_t at, unsigned bytes, std::uint64_t now) {
    if (untold_ == 0) return;
    for (std::uint64_t half = at & ~std::uint64_t{3}; half < at + bytes; half += 4) {
      const auto found = words_.find(half & ~std::uint64_t{7});
      if (found == words_.end()) continue;
      for (PastValue& v : found->second.values) {
        if (v.untold == 0 || (v.untold &= ~(1U << (half >> 2 & 1))) != 0) continue;
        v.told = now;
        untold_ -= 1;
      }
    }
  }
  [[nodiscard]] bool all_told() const noexcept { return untold_ == 0; }
  /// Returns: since when the entry of that many bytes at `at` has been what it is.
  [[nodiscard]] std::uint64_t written(std::uint64_t at, unsigned bytes) const {
    const auto found = words_.find(at & ~std::uint64_t{7});
    if (found == words_.end()) return 0;
    const auto& w = found->second.written;
    return bytes == 8 ? std::max(w[0], w[1]) : w[at >> 2 & 1];
  }
  [[nodiscard]] const std::vector<PastValue>& of(std::uint64_t word) const {
    static const std::vector<PastValue> kNone;
    const auto found = words_.find(word);
    return found == words_.end() ? kNone : found->second.values;
  }

 private:
  struct Word {
    std::uint64_t written[2] = {};  ///< each half
    std::vector<PastValue> values;
  };
  std::map<std::uint64_t, Word> words_;
  std::size_t untold_ = 0;
};

/// What one PCID may have cached: all there is where CR4.PCIDE is clear.
class Space {
 public:
  bool all = false;  ///< anything may be out of date

  /// The vCPU runs on this PCID and that root from now on.
  void enter(std::uint64_t root, std::uint64_t now) {
    if (root != root_) roots_.push_back({root_, since_, now, now, 0, 0});
    if (root != root_) since_ = now;
    root_ = root;
    spans_.push_back({now, kStill});
  }
  /// It runs on another.
  void leave(std::uint64_t now) {
    if (!spans_.empty()) spans_.back().to = std::min(spans_.back().to, now);
  }
  /// It begins to forget all that it has cached, or all of some pages.
  void forget(std::uint64_t now) {
    const bool runs = !spans_.empty() && spans_.back().to == kStill;
    all = false;
    spans_.clear();
    flushed_.clear();
    roots_.clear();
    if (runs) spans_.push_back({now, kStill});
  }
  void forget(std::uint64_t page, std::uint64_t pages, std::uint64_t now) { flushed_.push_back({page, pages, now}); }
  /// The roots on which the vCPU ran with this PCID before; may_know() tells which count.
  [[nodiscard]] const std::vector<PastValue>& past_roots() const noexcept { return roots_; }
  /// Returns: whether it may have cached the page, where a word on its way had some value in [since, until).
  [[nodiscard]] bool may_know(std::uint64_t since, std::uint64_t until, std::uint64_t page) const {
    std::uint64_t flushed = 0;
    for (const Flushed& f : flushed_)
      if (page - f.page < f.pages) flushed = f.at;
    for (const Span& s : spans_)
      if (until > std::max(s.from, flushed) && since < s.to) return true;
    return false;
  }

 private:
  struct Span {
    std::uint64_t from, to;
  };
  std::uint64_t root_ = 0, since_ = 0;
  std::vector<PastValue> roots_;
  std::vector<Span> spans_;  ///< when it was in use since the last flush
  struct Flushed {
    std::uint64_t page, pages, at;
  };
  std::vector<Flushed> flushed_;  ///< in the order of time
};

}  // namespace shadowmmu::sim::world
