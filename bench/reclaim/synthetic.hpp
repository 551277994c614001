// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reclaim/trace.hpp"
#include "shadowmmu/sim/random.hpp"

/// Traces that no guest made: each is the worst or the plainest case of something, at a given limit of shadow pages.
/// The same arguments give the same trace on every platform: whole numbers only, and one seed.
namespace shadowmmu::bench {

inline constexpr std::array<std::string_view, 4> kSyntheticNames{"scan", "zipf", "adversary", "phases"};
/// The limit that the traces are built against, where none is named.
inline constexpr std::uint64_t kSyntheticLimit = 64;

namespace detail {

constexpr std::uint64_t kTablePages = 512;  // what a leaf table maps

/// One address space, user half, touches appended in order until the trace is full.
class SyntheticBuilder {
 public:
  SyntheticBuilder(std::uint64_t records, std::uint64_t limit) : records_(records), limit_(limit) {
    trace_.records.reserve(static_cast<std::size_t>(records));
  }
  [[nodiscard]] bool full() const noexcept { return trace_.records.size() >= records_; }
  [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }
  [[nodiscard]] sim::Random& random() noexcept { return random_; }
  /// Effects: touches a page of the table's, one touch in four a store. Nothing once the trace is full.
  void touch(std::uint64_t table, std::uint64_t page) {
    if (full()) return;
    // From 1 GiB on: whole upper tables, and far below the kernel half.
    const std::uint64_t number = (std::uint64_t{1} << 18) + table * kTablePages + page % kTablePages;
    trace_.records.push_back(Record::make(number, 1, trace_.records.size() % 4 == 3));
  }
  [[nodiscard]] Trace take(std::string_view name) {
    trace_.name = name;
    return std::move(trace_);
  }

 private:
  std::uint64_t records_;
  std::uint64_t limit_;
  sim::Random random_{1};
  Trace trace_;
};

/// One page of each of an eighth more tables than the limit, round and round. Whatever gives up the oldest or the least
/// recently used misses every time; the best order keeps nearly all and misses about one time in seven.
inline void scan(SyntheticBuilder& b) {
  const std::uint64_t tables = b.limit() + std::max<std::uint64_t>(b.limit() / 8, 1);
  while (!b.full()) {
    for (std::uint64_t t = 0; t < tables; ++t) b.touch(t, 7 * t);
  }
}

/// The page of rank r is touched as often as 1 / (r + 1) says. Ranks are dealt to the tables in turn, so that each
/// table has one hot page and 63 colder ones: recency of tables says little, every table is recent now and then.
inline void zipf(SyntheticBuilder& b) {
  const std::uint64_t tables = 4 * b.limit();
  constexpr std::uint64_t kScale = std::uint64_t{1} << 40;
  std::vector<std::uint64_t> below;  // [r]: the weight of all ranks up to r
  std::uint64_t total = 0;
  for (std::uint64_t r = 0; r < 64 * tables; ++r) below.push_back(total += kScale / (r + 1));
  while (!b.full()) {
    const auto at = std::upper_bound(below.begin(), below.end(), b.random().below(total));
    const auto rank = static_cast<std::uint64_t>(at - below.begin());
    b.touch(rank % tables, rank / tables * 5);
  }
}

/// Against orders that keep what was costly to build. A stream fills table after table, all 512 pages once, never to
/// return; beside it three quarters of the limit are tables with one page each, one of which is touched after every
/// page of the stream. A table of the stream looks 512 times as dear as a hot one and is worth nothing: an order that
/// does not age what it keeps gives up only the hot ones.
inline void adversary(SyntheticBuilder& b) {
  const std::uint64_t hot = std::max<std::uint64_t>(b.limit() * 3 / 4, 1);
  std::uint64_t next_hot = 0;
  for (std::uint64_t dead = hot; !b.full(); ++dead) {
    for (std::uint64_t page = 0; page < kTablePages; ++page) {
      b.touch(dead, page);
      b.touch(next_hot, 11 * next_hot);
      next_hot = (next_hot + 1) % hot;
    }
  }
}

/// A working set of three quarters of the limit, 32 pages a table, touched at random. Every 20,000 touches a quarter of
/// it goes and as many tables come, out of a ring of four times its size: what went comes back after some 300,000
/// touches. What counts frequency without ageing it holds on to the past.
inline void phases(SyntheticBuilder& b) {
  const std::uint64_t set = std::max<std::uint64_t>(b.limit() * 3 / 4, 4);
  const std::uint64_t ring = 4 * set;
  for (std::uint64_t first = 0; !b.full(); first = (first + set / 4) % ring) {
    for (unsigned i = 0; i < 20'000; ++i) {
      const std::uint64_t table = (first + b.random().below(set)) % ring;
      b.touch(table, b.random().below(32) * 3);
    }
  }
}

}  // namespace detail

/// Returns: the trace of that name with exactly `records` touches, all of address space 1.
/// Throws: std::invalid_argument for a name that is not in kSyntheticNames.
[[nodiscard]] inline Trace synthetic(std::string_view name, std::uint64_t records,
                                     std::uint64_t limit = kSyntheticLimit) {
  using Make = void (*)(detail::SyntheticBuilder&);
  constexpr std::array<Make, kSyntheticNames.size()> kMakers{detail::scan, detail::zipf, detail::adversary,
                                                             detail::phases};
  const auto* const found = std::find(kSyntheticNames.begin(), kSyntheticNames.end(), name);
  if (found == kSyntheticNames.end()) {
    throw std::invalid_argument("no synthetic trace '" + std::string(name) + "': scan, zipf, adversary or phases");
  }
  detail::SyntheticBuilder builder(records, limit);
  kMakers.at(static_cast<std::size_t>(found - kSyntheticNames.begin()))(builder);
  return builder.take(name);
}

}  // namespace shadowmmu::bench
