// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

namespace shadowmmu::test {

/// What an operation costs, in counts.
struct Work {
  std::uint64_t accesses, holds, guest_pages, backings, frames_taken, frames_given, whole_flushes, pages_flushed, kicks;
  [[nodiscard]] friend constexpr Work operator-(const Work& a, const Work& b) noexcept {
    return {a.accesses - b.accesses,
            a.holds - b.holds,
            a.guest_pages - b.guest_pages,
            a.backings - b.backings,
            a.frames_taken - b.frames_taken,
            a.frames_given - b.frames_given,
            a.whole_flushes - b.whole_flushes,
            a.pages_flushed - b.pages_flushed,
            a.kicks - b.kicks};
  }
};
struct WorkRow {
  const char* operation;
  Work work;
};

}  // namespace shadowmmu::test
