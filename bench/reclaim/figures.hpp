// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "shadowmmu/concepts/reclaim.hpp"

namespace shadowmmu::bench {

/// What one replay came to.
struct Figures {
  std::uint64_t faults = 0;
  std::uint64_t refaults = 0;      ///< faults - those of an unlimited cache
  std::uint64_t leaf_refills = 0;  ///< leaf entries set again
  std::uint64_t link_refills = 0;  ///< table entries set again
  std::uint64_t live_zapped = 0;   ///< leaf entries of evicted leaf tables
  std::uint64_t directories_zapped = 0;
  std::uint64_t orphans = 0;  ///< children that an evicted directory left without a parent
  std::uint64_t evictions = 0;
  double mapped_mean = 0, mapped_sd = 0;  ///< referenced guest pages, over the samples
  double sawtooth = 0;                    ///< mean |change between samples| / mean
  std::uint64_t largest_drop = 0;         ///< pages, between two samples
  std::uint64_t a_bit_reads = 0;          ///< pages whose A bits were looked at
  double ns_per_reclaim = 0;              ///< from the choice of a victim to the flush, for each page evicted
  double seconds = 0;                     ///< thread time of the replay
  std::vector<std::uint32_t> mapped;      ///< the samples
};

/// Referenced guest pages at equal distances of the trace.
class Samples {
 public:
  /// Touches between two samples: as many as the epochs of the recorded traces have on average.
  static constexpr std::uint64_t kEvery = 1000;
  explicit Samples(std::uint64_t touches) { values_.reserve(touches / kEvery + 1); }
  void add(std::uint64_t mapped) { values_.push_back(static_cast<std::uint32_t>(mapped)); }
  /// Effects: fills in what is told of the samples. The first tenth, in which the cache fills, does not count.
  void finish(Figures& f) && {
    const std::size_t first = values_.size() / 10;
    double sum = 0, squares = 0, change = 0;
    for (std::size_t i = first; i < values_.size(); ++i) {
      const double v = values_[i];
      sum += v;
      squares += v * v;
      if (i == first) continue;
      const double before = values_[i - 1];
      change += std::abs(v - before);
      if (before > v && values_[i - 1] - values_[i] > f.largest_drop) f.largest_drop = values_[i - 1] - values_[i];
    }
    const auto n = static_cast<double>(values_.size() - first);
    if (n > 0) {
      f.mapped_mean = sum / n;
      const double variance = squares / n - f.mapped_mean * f.mapped_mean;
      f.mapped_sd = variance > 0 ? std::sqrt(variance) : 0;
    }
    if (n > 1 && sum > 0) f.sawtooth = change / (n - 1) / f.mapped_mean;
    f.mapped = std::move(values_);
  }

 private:
  std::vector<std::uint32_t> values_;
};

}  // namespace shadowmmu::bench
