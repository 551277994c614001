// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "random.hpp"

namespace hv {

struct Cpu;

/// Moves the guest's pages about in host memory while it runs, as a host that swaps or compacts would. What a page
/// leaves behind is poisoned: a stale mapping reads nonsense, and a stale write is found when the frame is used again.
class Mover {
 public:
  static constexpr unsigned kBlock = 512;  ///< frames of 2 MiB
  static constexpr std::uint64_t kSpareBytes = 2ULL * kBlock * 4096;

  /// Requires: `spare` is the address of kSpareBytes that are nobody's, on a 2 MiB boundary.
  Mover(Cpu& cpu, Random& random, std::uint64_t spare) noexcept;

  /// Effects: a few neighbouring pages get other frames; or pages torn out of a 2 MiB block go home, so that it can be
  /// mapped large again.
  void move_pages() noexcept;
  /// Effects: a whole 2 MiB block of the guest moves to another one of the host.
  void move_block() noexcept;

  [[nodiscard]] std::uint64_t moved() const noexcept { return moved_; }

 private:
  /// A guest page that was torn out of its 2 MiB block, and the frame in the block that waits for it.
  struct Hole {
    std::uint64_t gfn, home;
  };
  static constexpr unsigned kHoles = 64, kMovedAtOnce = 8;

  void tear(std::uint64_t gfn) noexcept;
  void mend(unsigned hole) noexcept;
  void exchange(std::uint64_t gfn, std::uint64_t old_frame, bool keep_old) noexcept;
  void copy(std::uint64_t to, std::uint64_t from) noexcept;
  [[nodiscard]] bool in_torn_block(std::uint64_t gfn) const noexcept;
  [[nodiscard]] bool is_hole(std::uint64_t gfn) const noexcept;

  Cpu& cpu_;
  Random& random_;
  std::uint64_t block_ = 0;  ///< first frame of the spare 2 MiB
  std::uint64_t single_[kBlock] = {};
  unsigned singles_ = 0;
  Hole hole_[kHoles] = {};
  unsigned holes_ = 0;
  std::uint64_t moved_ = 0;
};

}  // namespace hv
