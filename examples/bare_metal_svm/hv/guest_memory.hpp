// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdint>

#include "memory_map.hpp"

namespace hv {

/// Which host frame stands behind each guest frame. RAM is shuffled: three of four aligned 2 MiB blocks move as a
/// whole, so that large pages stay possible, the rest is scattered frame by frame. Thus a translation that forgets
/// gfn -> pfn cannot work. Firmware and devices stay where they are.
class GuestMemory {
 public:
  /// The page of low memory that answers for the BIOS (bios.hpp). Reserved, and so is what lies between it and the
  /// extended BIOS data area.
  static constexpr std::uint64_t kBiosPage = 0x9E;

  struct Place {
    std::uint64_t frame;  ///< host frame of the very guest frame asked for
    unsigned level;       ///< 2 if the aligned 2 MiB around it are contiguous and aligned in the host, else 1
    bool ram;
  };

  /// Effects: plans the guest's memory: all of the host's RAM but [1 MiB, reserved_end). `carve(bytes)` gives memory
  /// for the tables from the reservation.
  template <class Carve>
  void build(const MemoryMap& host, std::uint64_t reserved_end, Carve carve) noexcept {
    plan(host, reserved_end);
    table_ = static_cast<std::uint32_t*>(carve(frames_ * sizeof(std::uint32_t)));
    auto* const scratch = static_cast<std::uint32_t*>(carve(frames_ * sizeof(std::uint32_t)));
    shuffle(scratch);
  }

  [[nodiscard]] Place place(std::uint64_t gfn) const noexcept;
  /// The bytes of a guest frame, also of firmware's; nullptr for the void.
  [[nodiscard]] std::byte* readable(std::uint64_t gfn) const noexcept;
  /// The bytes of a guest RAM frame, else nullptr.
  [[nodiscard]] std::byte* ram(std::uint64_t gfn) const noexcept;

  [[nodiscard]] bool write(std::uint64_t gpa, const void* from, std::uint64_t bytes) noexcept;
  [[nodiscard]] bool read(std::uint64_t gpa, void* to, std::uint64_t bytes) const noexcept;
  [[nodiscard]] bool fill(std::uint64_t gpa, std::uint8_t value, std::uint64_t bytes) noexcept;
  [[nodiscard]] bool is_ram(std::uint64_t gpa, std::uint64_t bytes) const noexcept;

  /// Whether the aligned 2 MiB around a guest RAM frame are one such block of the host.
  [[nodiscard]] bool whole(std::uint64_t gfn) const noexcept;
  /// Effects: `frame` stands behind the guest RAM frame from now on; its block is whole no longer.
  void put(std::uint64_t gfn, std::uint64_t frame) noexcept;
  /// Effects: the aligned host block at `frame` stands behind the aligned guest block at `gfn`, all of it RAM.
  void put_block(std::uint64_t gfn, std::uint64_t frame) noexcept;

  /// While one lives, pages change places: what a guest frame seems to hold may be poison.
  class Motion {
   public:
    explicit Motion(GuestMemory& m) noexcept : memory_(m) { memory_.in_motion_ = true; }
    ~Motion() { memory_.in_motion_ = false; }
    Motion(const Motion&) = delete;
    Motion& operator=(const Motion&) = delete;

   private:
    GuestMemory& memory_;
  };
  [[nodiscard]] bool in_motion() const noexcept { return in_motion_; }

  /// What the guest is told.
  [[nodiscard]] const MemoryMap& map() const noexcept { return guest_; }
  /// End of the RAM that starts at 1 MiB.
  [[nodiscard]] std::uint64_t main_end() const noexcept { return main_end_; }
  [[nodiscard]] std::uint64_t ram_frames() const noexcept { return ram_frames_; }
  /// One past the highest guest RAM frame.
  [[nodiscard]] std::uint64_t frames() const noexcept { return frames_; }

 private:
  void plan(const MemoryMap& host, std::uint64_t reserved_end) noexcept;
  void shuffle(std::uint32_t* scratch) noexcept;
  template <class F>
  bool each_piece(std::uint64_t gpa, std::uint64_t bytes, F f) const noexcept;

  MemoryMap host_{}, guest_{};
  std::uint32_t* table_ = nullptr;
  volatile bool in_motion_ = false;
  std::uint64_t frames_ = 0, ram_frames_ = 0, main_end_ = 0, reserved_end_ = 0;
};

}  // namespace hv
