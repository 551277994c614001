// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

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
    Node* const node = head_;
    if (node == nullptr) return 0;
    head_ = node->next;
    --free_;
    return reinterpret_cast<std::uint64_t>(node);
  }
  void free(std::uint64_t frame) noexcept {
    auto* const node = reinterpret_cast<Node*>(frame);
    node->next = head_;
    head_ = node;
    ++free_;
  }
  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }
  [[nodiscard]] std::uint64_t available() const noexcept { return free_; }

 private:
  struct Node {
    Node* next;
  };
  Node* head_ = nullptr;
  std::uint64_t free_ = 0, total_ = 0;
};

}  // namespace hv
