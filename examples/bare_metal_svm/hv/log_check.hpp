// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "random.hpp"
#include "shadowmmu/core/memslots.hpp"

namespace hv {

struct Cpu;

/// Holds a slot's dirty log to its word: pages whose contents changed since the log was last cleared of them must be in
/// it. Only a sample of the pages is watched, by checksum. No device of the guest's can write to its memory: where a
/// page lies in the host is no device's knowledge.
class LogCheck {
 public:
  static constexpr std::uint64_t kMaxPages = 1U << 16;

  struct Counts {
    std::uint64_t checks = 0, changed = 0, reported = 0;
  };

  /// Requires: pages <= kMaxPages.
  LogCheck(shadowmmu::SlotId id, std::uint64_t first, std::uint64_t pages) noexcept
      : id_(id), first_(first), pages_(pages) {}
  LogCheck() noexcept = default;

  [[nodiscard]] bool on() const noexcept { return method_ != shadowmmu::DirtyMethod::Off; }
  [[nodiscard]] shadowmmu::DirtyMethod method() const noexcept { return method_; }
  /// The slot was removed, its log with it, and has come back under another name.
  void renamed(shadowmmu::SlotId id) noexcept {
    id_ = id;
    method_ = shadowmmu::DirtyMethod::Off;
  }

  /// Effects: the log begins. Requires: !on().
  void start(Cpu& cpu, Random& random, shadowmmu::DirtyMethod method) noexcept;
  /// Effects: takes a part of the log, or all of it, and checks it. Requires: on().
  void fetch(Cpu& cpu, Random& random, Counts& counts) noexcept;
  /// Effects: reads the log, checks it, and clears some of what it says. Requires: on().
  void read_and_clear(Cpu& cpu, Random& random, Counts& counts) noexcept;
  /// Effects: checks the log a last time and ends it. Requires: on().
  void stop(Cpu& cpu, Random& random, Counts& counts) noexcept;

 private:
  struct Sample {
    std::uint64_t gfn = 0, sum = 0;
    bool owed = false;  ///< the log said so and was not cleared: it must say so again
  };
  static constexpr unsigned kSamples = 48, kTableSamples = 8;  ///< of them, guest page tables where there are any

  void check(Cpu& cpu, Sample& s, std::uint64_t first_word, Counts& counts) noexcept;
  void take(Cpu& cpu, Sample& s, std::uint64_t gfn) noexcept;
  void choose(Cpu& cpu, Random& random, Sample& s, std::uint64_t first_word, std::uint64_t words) noexcept;
  void claim(Cpu& cpu, Random& random) noexcept;
  [[nodiscard]] std::uint64_t word_of(const Sample& s) const noexcept { return (s.gfn - first_) / 64; }
  [[nodiscard]] std::uint64_t log_words() const noexcept { return (pages_ + 63) / 64; }

  shadowmmu::SlotId id_{};
  std::uint64_t first_ = 0, pages_ = 0;
  shadowmmu::DirtyMethod method_ = shadowmmu::DirtyMethod::Off;
  Sample sample_[kSamples] = {};
};

}  // namespace hv
