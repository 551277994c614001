// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

namespace shadowmmu {

/// The tables that a guest may run on. Which of them an instance must serve is the Arch's compile-time list; which one
/// is in force is chosen at run time by the guest's control registers.
enum class GuestMode : std::uint8_t {
  NonPaging,  ///< CR0.PG = 0: gva = gpa
  Bits32,     ///< two levels, 4-byte entries, PSE and PSE-36
  Pae,        ///< four PDPTE registers, then two levels
  Long4,      ///< four levels
  Direct,     ///< second-level translation: the address is a gpa
};

class GuestModes {
 public:
  constexpr GuestModes() noexcept = default;
  template <class... M>
  static constexpr GuestModes of(M... m) noexcept {
    GuestModes g;
    ((g.bits_ = static_cast<std::uint8_t>(g.bits_ | (1U << static_cast<unsigned>(m)))), ...);
    return g;
  }
  [[nodiscard]] constexpr bool has(GuestMode m) const noexcept { return (bits_ >> static_cast<unsigned>(m) & 1U) != 0; }
  /// True where some guest table may be shadowed.
  [[nodiscard]] constexpr bool indirect() const noexcept {
    return has(GuestMode::Bits32) || has(GuestMode::Pae) || has(GuestMode::Long4);
  }

 private:
  std::uint8_t bits_ = 0;
};

}  // namespace shadowmmu
