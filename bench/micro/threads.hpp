// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "shadowmmu/lock/readers.hpp"
#include "shadowmmu/memory/smp.hpp"

/// What benches of several threads share.
namespace shadowmmu::bench {

/// Waits as user space should where cores may be fewer than threads: by letting somebody else run.
struct Polite : memory::Smp {
  static void pause() noexcept { ::sched_yield(); }
};
using PoliteSpin = lock::BasicSpin<Polite>;

/// While it lives the calling thread runs on the n-th only of the cores that the process had at its start, if there are
/// so many.
class Pinned {
 public:
  explicit Pinned(unsigned n) noexcept {
    ::pthread_getaffinity_np(::pthread_self(), sizeof(before_), &before_);
    for (unsigned core = 0; core < CPU_SETSIZE; ++core) {
      if (!CPU_ISSET(core, &kCores) || n-- != 0) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(core, &one);
      pinned_ = ::pthread_setaffinity_np(::pthread_self(), sizeof(one), &one) == 0;
      return;
    }
  }
  Pinned(const Pinned&) = delete;
  ~Pinned() { ::pthread_setaffinity_np(::pthread_self(), sizeof(before_), &before_); }
  [[nodiscard]] bool pinned() const noexcept { return pinned_; }

 private:
  /// A thread inherits the core of the one that made it: what the process may use was asked before.
  static inline const cpu_set_t kCores = [] {
    cpu_set_t all;
    CPU_ZERO(&all);
    ::sched_getaffinity(0, sizeof(all), &all);
    return all;
  }();
  cpu_set_t before_{};
  bool pinned_ = false;
};

/// How often something took how long: bins an eighth of an octave wide, so that a quantile is right within 9 percent.
class Histogram {
 public:
  void add(std::uint64_t ticks) noexcept {
    bins_[bin(ticks)] += 1;
    count_ += 1;
    most_ = std::max(most_, ticks);
  }
  void add(const Histogram& o) noexcept {
    for (std::size_t i = 0; i < bins_.size(); ++i) bins_[i] += o.bins_[i];
    count_ += o.count_;
    most_ = std::max(most_, o.most_);
  }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] std::uint64_t most() const noexcept { return most_; }
  /// Returns: the middle of the bin that the quantile lies in.
  [[nodiscard]] double at(double quantile) const noexcept {
    const auto rank = static_cast<std::uint64_t>(quantile * static_cast<double>(count_));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < bins_.size(); ++i)
      if ((seen += bins_[i]) > rank) return std::min(middle(i), static_cast<double>(most_));
    return static_cast<double>(most_);
  }
  /// Returns: which share lies in bins beyond that of `ticks`.
  [[nodiscard]] double beyond(std::uint64_t ticks) const noexcept {
    std::uint64_t n = 0;
    for (std::size_t i = bin(ticks) + 1; i < bins_.size(); ++i) n += bins_[i];
    return count_ == 0 ? 0 : static_cast<double>(n) / static_cast<double>(count_);
  }

 private:
  static constexpr unsigned kFine = 8;
  static std::size_t bin(std::uint64_t t) noexcept {
    if (t < kFine) return static_cast<std::size_t>(t);
    const auto octave = static_cast<unsigned>(std::bit_width(t)) - 4U;  // of which the top three bits follow
    return std::min<std::size_t>(kFine + octave * kFine + ((t >> octave) & (kFine - 1)), 399);
  }
  static double middle(std::size_t i) noexcept {
    if (i < kFine) return static_cast<double>(i);
    const std::size_t octave = (i - kFine) / kFine;
    return (static_cast<double>(kFine + i % kFine) + 0.5) * static_cast<double>(std::uint64_t{1} << octave);
  }
  std::array<std::uint64_t, 400> bins_{};
  std::uint64_t count_ = 0, most_ = 0;
};

}  // namespace shadowmmu::bench
