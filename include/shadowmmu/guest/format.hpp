// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/guest/paging.hpp"

/// Guest table formats: where the index lies in the address and the frame in the entry. One struct a format.
namespace shadowmmu::guest {

/// Four levels of 8-byte entries (SDM vol. 3, 4.5).
struct Long4 {
  using Entry = std::uint64_t;
  static constexpr GuestMode kMode = GuestMode::Long4;
  static constexpr unsigned kTopLevel = 4;
  [[nodiscard]] static constexpr unsigned index(Gva a, unsigned level) noexcept {
    return Level{level}.index(a.value());
  }
  [[nodiscard]] static constexpr Gfn frame(std::uint64_t e) noexcept { return Gfn{(e & 0x000f'ffff'ffff'f000) >> 12U}; }
  /// Frame of the very 4 KiB page at `a` inside the page that `e` maps.
  [[nodiscard]] static constexpr Gfn page_frame(std::uint64_t e, unsigned level, Gva a) noexcept {
    const std::uint64_t inside = Level{level}.frames() - 1;
    return Gfn{(frame(e).value() & ~inside) | (a.value() >> kPageShift & inside)};
  }
};

/// Two levels of 8-byte entries below four PDPTE registers (SDM vol. 3, 4.4).
struct Pae : Long4 {
  static constexpr GuestMode kMode = GuestMode::Pae;
  static constexpr unsigned kTopLevel = 2;
};

/// Two levels of 4-byte entries, 4 MiB pages with PSE-36 (SDM vol. 3, 4.3).
struct Bits32 {
  using Entry = std::uint32_t;
  static constexpr GuestMode kMode = GuestMode::Bits32;
  static constexpr unsigned kTopLevel = 2;
  [[nodiscard]] static constexpr unsigned index(Gva a, unsigned level) noexcept {
    return static_cast<unsigned>(a.value() >> (level == 2 ? 22U : 12U)) & 1023U;
  }
  [[nodiscard]] static constexpr Gfn frame(std::uint64_t e) noexcept { return Gfn{(e & 0xffff'f000U) >> 12U}; }
  [[nodiscard]] static constexpr Gfn page_frame(std::uint64_t e, unsigned level, Gva a) noexcept {
    if (level == 1) return frame(e);
    return Gfn{(e >> 22U & 0x3ffU) << 10U | (e >> 13U & 0xffU) << 20U | (a.value() >> 12U & 0x3ffU)};
  }
};

}  // namespace shadowmmu::guest
