// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "threads.hpp"

namespace hv {

/// The hypervisor's own 4 KiB frames: a list threaded through the free ones. Everything in it lies below 4 GiB.
class FramePool {
 public:
  /// Takes [from, to) into the pool, whole frames only.
  void feed(std::uint64_t from, std::uint64_t to) noexcept {
    for (std::uint64_t at = (from + 4095) & ~4095ULL; at + 4096 <= to; at += 4096) {
      free(at);
      ++total_;
    }
  }
  /// Returns 0 when empty. The frame's contents are arbitrary.
  [[nodiscard]] std::uint64_t alloc() noexcept {
    const Uninterrupted now;
    Node* const node = head_;
    if (node == nullptr) return 0;
    head_ = node->next;
    --free_;
    return reinterpret_cast<std::uint64_t>(node);
  }
  void free(std::uint64_t frame) noexcept {
    const Uninterrupted now;
    if (poison_ != 0) fill(frame, poison_);
    auto* const node = reinterpret_cast<Node*>(frame);
    node->next = head_;
    head_ = node;
    ++free_;
  }
  /// Effects: each 64-bit word of a frame that is given back, but the first, is `value` from now on; 0: no such thing.
  void poison_with(std::uint64_t value) noexcept { poison_ = value; }
  /// Effects: each 64-bit word of the frame is `value`.
  static void fill(std::uint64_t frame, std::uint64_t value) noexcept {
    std::uint64_t n = 4096 / 8;
    asm volatile("rep stosq" : "+D"(frame), "+c"(n) : "a"(value) : "memory");
  }
  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }
  [[nodiscard]] std::uint64_t available() const noexcept { return free_; }

 private:
  struct Node {
    Node* next;
  };
  Node* head_ = nullptr;
  std::uint64_t free_ = 0, total_ = 0, poison_ = 0;
};

}  // namespace hv
