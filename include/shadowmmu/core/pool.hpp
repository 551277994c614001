// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstdint>
#include <new>

#include "shadowmmu/memory/order.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::core {

/// Objects of one size in 4 KiB frames, named by a 32-bit index through two directory levels, so that no virtually
/// contiguous memory is ever needed. Index 0 is nobody. Not locked: its owner is.
/// Invariant: free_ + handed out = frames_ * kPerFrame - 1. Frames are kept until `drain`.
template <class T>
class IndexedPool {
 public:
  static constexpr unsigned kPerFrame = static_cast<unsigned>(std::bit_floor(kPageSize / sizeof(T)));
  static constexpr unsigned kShift = static_cast<unsigned>(std::countr_zero(kPerFrame));
  static constexpr unsigned kDirectory = kPageSize / sizeof(void*);
  static constexpr unsigned kTop = 256;

  [[nodiscard]] T* at(std::uint32_t i) const noexcept {
    return reinterpret_cast<T*>(top_[i >> (kShift + 9U)]->frame[i >> kShift & (kDirectory - 1U)]) +
           (i & (kPerFrame - 1U));
  }
  /// Frames that `grow` would take now: 1, or 2 where a directory is due.
  [[nodiscard]] unsigned grow_cost() const noexcept { return frames_ % kDirectory == 0 ? 2U : 1U; }
  [[nodiscard]] bool full() const noexcept { return frames_ == kTop * kDirectory; }
  [[nodiscard]] std::uint32_t available() const noexcept { return free_; }
  [[nodiscard]] std::uint32_t frames() const noexcept { return frames_ + (frames_ + kDirectory - 1U) / kDirectory; }
  [[nodiscard]] std::uint32_t used() const noexcept { return used_; }
  [[nodiscard]] std::uint32_t end() const noexcept { return frames_ * kPerFrame; }

  /// Returns: an end below which `at` may be called without the lock (the storage stays until the pool ends).
  template <class Memory>
  [[nodiscard]] std::uint32_t published() const noexcept {
    return Memory::template load<memory::Order::Acquire>(published_);
  }
  /// Requires: !full(). Effects: adds kPerFrame objects. `take()` gives a zeroed frame and must not fail.
  template <class Memory, class Take>
  void grow(Take&& take) noexcept {
    if (frames_ % kDirectory == 0) top_[frames_ / kDirectory] = static_cast<Directory*>(take());
    char* frame = static_cast<char*>(take());
    top_[frames_ / kDirectory]->frame[frames_ % kDirectory] = frame;
    const std::uint32_t first = frames_ * kPerFrame;
    frames_ += 1;
    Memory::template store<memory::Order::Release>(published_, frames_ * kPerFrame);
    for (std::uint32_t i = kPerFrame; i-- > 0;) {
      if (first + i == 0) continue;
      link<Memory>(first + i);
    }
  }
  /// Requires: available() > 0. Returns: the index of raw storage.
  template <class Memory>
  [[nodiscard]] std::uint32_t take() noexcept {
    const std::uint32_t i = head_;
    head_ = Memory::plain(*word(i));
    free_ -= 1;
    used_ += 1;
    return i;
  }
  template <class Memory>
  void give(std::uint32_t i) noexcept {
    used_ -= 1;
    link<Memory>(i);
  }
  /// Effects: hands every frame to `free(void*)`. Requires: nothing handed out is used again.
  template <class Free>
  void drain(Free&& free) noexcept {
    for (std::uint32_t f = 0; f < frames_; ++f) free(top_[f / kDirectory]->frame[f % kDirectory]);
    for (std::uint32_t d = 0; d * kDirectory < frames_; ++d) free(top_[d]);
    frames_ = free_ = used_ = head_ = published_ = 0;
  }

 private:
  struct Directory {
    void* frame[kDirectory];
  };
  static_assert(sizeof(T) >= sizeof(std::uint32_t) && sizeof(Directory) == kPageSize);
  /// The free chain runs through the first word of the dead storage: a cell, since a reader may be late.
  [[nodiscard]] std::uint32_t* word(std::uint32_t i) const noexcept {
    return std::launder(reinterpret_cast<std::uint32_t*>(at(i)));
  }
  template <class Memory>
  void link(std::uint32_t i) noexcept {
    Memory::plain(*word(i), head_);
    head_ = i;
    free_ += 1;
  }

  Directory* top_[kTop] = {};
  std::uint32_t frames_ = 0, free_ = 0, used_ = 0, head_ = 0;
  std::uint32_t published_ = 0;  ///< cell
};

}  // namespace shadowmmu::core
