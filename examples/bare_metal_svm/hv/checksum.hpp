// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace hv {

/// Returns: a number that tells the contents of a 4 KiB page from others.
[[nodiscard]] inline std::uint64_t checksum(const std::byte* page) noexcept {
  const auto* w = reinterpret_cast<const std::uint64_t*>(page);
  std::uint64_t sum = 0xCBF29CE484222325;
  for (unsigned i = 0; i < 512; ++i) sum = std::rotl((sum ^ w[i]) * 0x9E3779B97F4A7C15, 29);
  return sum;
}

}  // namespace hv
