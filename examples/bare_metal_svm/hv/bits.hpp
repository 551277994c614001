// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

namespace hv {

/// Returns: how many bits of w are set. std::popcount would be a call of the compiler's library.
[[nodiscard]] inline unsigned count_bits(std::uint64_t w) noexcept {
  unsigned n = 0;
  for (; w != 0; w &= w - 1) ++n;
  return n;
}

}  // namespace hv
