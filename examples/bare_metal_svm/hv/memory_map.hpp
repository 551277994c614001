// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

namespace hv {

/// One range of the firmware's memory map; `type` as in e820 (1 = RAM).
struct Region {
  std::uint64_t base, size;
  std::uint32_t type;
  [[nodiscard]] constexpr std::uint64_t end() const noexcept { return base + size; }
};

inline constexpr std::uint32_t kRam = 1, kReserved = 2;
inline constexpr std::uint64_t kMiB = 1ULL << 20;

/// A small fixed map, in ascending order as firmware gives it.
struct MemoryMap {
  static constexpr unsigned kCapacity = 64;
  Region regions[kCapacity];
  unsigned count = 0;

  void add(Region r) noexcept {
    if (count < kCapacity && r.size != 0) regions[count++] = r;
  }
  [[nodiscard]] const Region* begin() const noexcept { return regions; }
  [[nodiscard]] const Region* end() const noexcept { return regions + count; }
  /// Is any byte of the frame RAM?
  [[nodiscard]] bool touches_ram(std::uint64_t frame) const noexcept {
    for (const Region& r : *this)
      if (r.type == kRam && r.base < (frame + 1) << 12 && r.end() > frame << 12) return true;
    return false;
  }
};

}  // namespace hv
