// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/types.hpp"

namespace shadowmmu::arch {

/// A gfn in the address field of an entry that always faults, laid out so that the field names no populated host
/// memory (L1 terminal fault): the five topmost physical address bits are set; the gfn's bits lie below them and above
/// the physical width. `width`: host MAXPHYADDR. Bits 48:12 and those five at most are used.
struct HiddenFrame {
  static constexpr unsigned kGfnBits = 32;
  static constexpr unsigned kGuard = 5;
  static constexpr std::uint64_t kField = 0x000f'ffff'ffff'f000;

  [[nodiscard]] static constexpr std::uint64_t put(Gfn gfn, unsigned width) noexcept {
    const unsigned low = width - kGuard - kPageShift;
    const std::uint64_t below = gfn.value() & ((std::uint64_t{1} << low) - 1);
    const std::uint64_t above = low >= kGfnBits ? 0 : gfn.value() >> low;
    return below << kPageShift | guard(width) | (low >= kGfnBits ? 0 : above << width);
  }
  [[nodiscard]] static constexpr Gfn get(std::uint64_t entry, unsigned width) noexcept {
    const unsigned low = width - kGuard - kPageShift;
    const std::uint64_t below = entry >> kPageShift & ((std::uint64_t{1} << low) - 1);
    if (low >= kGfnBits) return Gfn{below & 0xffff'ffff};
    const std::uint64_t above = entry >> width & ((std::uint64_t{1} << (kGfnBits - low)) - 1);
    return Gfn{below | above << low};
  }
  [[nodiscard]] static constexpr std::uint64_t guard(unsigned width) noexcept {
    return std::uint64_t{(1U << kGuard) - 1} << (width - kGuard);
  }
};
static_assert(HiddenFrame::get(HiddenFrame::put(Gfn{0xdead'beef}, 36), 36) == Gfn{0xdead'beef});
static_assert(HiddenFrame::get(HiddenFrame::put(Gfn{0xffff'ffff}, 52), 52) == Gfn{0xffff'ffff});

}  // namespace shadowmmu::arch
