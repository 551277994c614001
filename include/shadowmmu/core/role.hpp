// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/guest_format.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::core {

/// Everything but the gfn that decides what a shadow page holds. A present child serves again only if gfn and whole
/// role are equal (semantics of every shadow MMU: mmu.rst, "role").
class Role {
 public:
  constexpr Role() noexcept = default;

  [[nodiscard]] constexpr Level level() const noexcept { return Level{bits_ & 7U}; }
  [[nodiscard]] constexpr bool direct() const noexcept { return (bits_ >> 3U & 1U) != 0; }
  [[nodiscard]] constexpr Access access() const noexcept { return Access{bits_ >> 4U}; }
  /// Part of a 32-bit guest table that this page covers: 4 at the directory, 2 at the table.
  [[nodiscard]] constexpr unsigned quadrant() const noexcept { return bits_ >> 7U & 3U; }
  [[nodiscard]] constexpr GuestMode mode() const noexcept { return static_cast<GuestMode>(bits_ >> 9U & 7U); }
  [[nodiscard]] constexpr std::uint32_t bits() const noexcept { return bits_; }
  [[nodiscard]] constexpr unsigned gpte_bytes() const noexcept { return mode() == GuestMode::Bits32 ? 4U : 8U; }

  [[nodiscard]] constexpr Role with_level(Level l) const noexcept { return Role{(bits_ & ~7U) | l.value()}; }
  [[nodiscard]] constexpr Role with_direct(bool d) const noexcept { return Role{(bits_ & ~8U) | (d ? 8U : 0U)}; }
  [[nodiscard]] constexpr Role with_access(Access a) const noexcept {
    return Role{(bits_ & ~(7U << 4U)) | a.bits() << 4U};
  }
  [[nodiscard]] constexpr Role with_quadrant(unsigned q) const noexcept {
    return Role{(bits_ & ~(3U << 7U)) | (q & 3U) << 7U};
  }
  [[nodiscard]] constexpr Role with_mode(GuestMode m) const noexcept {
    return Role{(bits_ & ~(7U << 9U)) | static_cast<std::uint32_t>(m) << 9U};
  }
  /// CPU state that changes what entries mean; SMEP and SMAP count only while CR0.WP is clear.
  [[nodiscard]] constexpr Role with_cpu(bool wp, bool nxe, bool pse, bool smep, bool smap) const noexcept {
    const std::uint32_t b =
        (wp ? 1U : 0U) | (nxe ? 2U : 0U) | (pse ? 4U : 0U) | (smep && !wp ? 8U : 0U) | (smap && !wp ? 16U : 0U);
    return Role{(bits_ & ~(31U << 12U)) | b << 12U};
  }
  [[nodiscard]] constexpr bool wp() const noexcept { return (bits_ >> 12U & 1U) != 0; }
  [[nodiscard]] constexpr bool nxe() const noexcept { return (bits_ >> 13U & 1U) != 0; }
  [[nodiscard]] constexpr bool pse() const noexcept { return (bits_ >> 14U & 1U) != 0; }
  /// The page is the direct child of a guest's large page whose D bit is clear, so no leaf of it may be written. Two
  /// guest entries may grant the same and differ in D: with CR0.WP = 0 a supervisor's write makes a leaf writable that
  /// the tables call read-only, and through the other entry that write must set D first.
  static constexpr std::uint32_t kClean = 1U << 19U;
  [[nodiscard]] constexpr bool clean() const noexcept { return (bits_ & kClean) != 0; }
  [[nodiscard]] constexpr Role with_clean(bool c) const noexcept { return Role{(bits_ & ~kClean) | (c ? kClean : 0U)}; }
  friend constexpr bool operator==(Role, Role) noexcept = default;

 private:
  constexpr explicit Role(std::uint32_t b) noexcept : bits_(b) {}
  std::uint32_t bits_ = 1;
};

}  // namespace shadowmmu::core
