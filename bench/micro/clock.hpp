// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <time.h>

#include <cstdint>

namespace shadowmmu::bench {

[[nodiscard]] inline double clock_ns(clockid_t clock) noexcept {
  timespec t{};
  ::clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}
/// Thread CPU time in nanoseconds.
[[nodiscard]] inline double now_ns() noexcept { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
[[nodiscard]] inline double wall_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }

/// A clock for what takes tens of ns: what went before is done, what comes after has not begun.
[[nodiscard]] inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_lfence();
  const std::uint64_t t = __builtin_ia32_rdtsc();
  __builtin_ia32_lfence();
  return t;
#else
  return static_cast<std::uint64_t>(wall_ns());
#endif
}
[[nodiscard]] inline double ns_per_tick() noexcept {
  static const double rate = [] {
    const double began = wall_ns();
    const std::uint64_t from = ticks();
    while (wall_ns() - began < 2e7) {
    }
    return (wall_ns() - began) / static_cast<double>(ticks() - from);
  }();
  return rate;
}

}  // namespace shadowmmu::bench
