// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "shadowmmu/types.hpp"

namespace shadowmmu::sim {

/// One contiguous stretch of simulated RAM, usable as guest physical memory (`read`, `write`) and as host physical
/// memory (`to_virt`). Everything outside it is no memory.
class FlatMemory {
 public:
  explicit FlatMemory(std::size_t frames, std::uint64_t first_frame = 0)
      : first_frame_(first_frame), words_(frames * (kPageSize / 8)) {}

  /// Requires: an aligned entry of 4 or 8 bytes. Returns: false where there is no memory.
  [[nodiscard]] bool read(Gpa at, unsigned bytes, std::uint64_t& value) const noexcept {
    if (!holds(at.value())) return false;
    const std::uint64_t* word = &words_[word_of(at.value())];
    if (bytes == 8) {
      value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    } else {
      value = __atomic_load_n(reinterpret_cast<const Half*>(word) + (at.value() >> 2 & 1U), __ATOMIC_ACQUIRE);
    }
    return true;
  }

  [[nodiscard]] bool write(Gpa at, unsigned bytes, std::uint64_t value) noexcept {
    if (!holds(at.value())) return false;
    std::uint64_t* word = &words_[word_of(at.value())];
    if (bytes == 8) {
      __atomic_store_n(word, value, __ATOMIC_RELEASE);
    } else {
      __atomic_store_n(reinterpret_cast<Half*>(word) + (at.value() >> 2 & 1U), static_cast<std::uint32_t>(value),
                       __ATOMIC_RELEASE);
    }
    return true;
  }

  [[nodiscard]] void* to_virt(Hpa at) noexcept {
    if (!holds(at.value())) return nullptr;
    return reinterpret_cast<unsigned char*>(&words_[word_of(at.value())]) + (at.value() & 7U);
  }

  [[nodiscard]] std::size_t frames() const noexcept { return words_.size() / (kPageSize / 8); }

 private:
  typedef std::uint32_t Half __attribute__((may_alias));  // the words are 64-bit

  [[nodiscard]] bool holds(std::uint64_t at) const noexcept {
    const std::uint64_t frame = at >> kPageShift;
    return frame >= first_frame_ && frame - first_frame_ < frames();
  }
  [[nodiscard]] std::size_t word_of(std::uint64_t at) const noexcept {
    return static_cast<std::size_t>((at - (first_frame_ << kPageShift)) / 8);
  }

  std::uint64_t first_frame_;
  std::vector<std::uint64_t> words_;
};

}  // namespace shadowmmu::sim
