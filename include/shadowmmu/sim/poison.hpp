// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>
#include <cstring>

#include "shadowmmu/types.hpp"

namespace shadowmmu::sim {

/// An entry that leads nowhere: present in every format, at a place where no host has memory.
inline constexpr std::uint64_t kPoison = 0x0000'0f00'dead'0067;

/// Effects: a freed frame is filled with such entries, so that hardware which still walks it is found out.
inline void poison(void* frame) noexcept {
  static const auto kWords = [] {
    std::array<std::uint64_t, kEntriesPerTable> all;
    all.fill(kPoison);
    return all;
  }();
  std::memcpy(frame, kWords.data(), kPageSize);
}

}  // namespace shadowmmu::sim
