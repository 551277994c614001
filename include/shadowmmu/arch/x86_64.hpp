// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/arch.hpp"

namespace shadowmmu::arch {

/// Long-mode and PAE entries (SDM vol. 3, tables 4-9 to 4-20; AMD APM vol. 2, 5.3). One instance serves two root
/// shapes: four levels while the guest is in long mode, four PDPTEs while it is not. Entries are never global.
/// Bit layout of a present entry: docs/FORMATS.md.
struct X86_64 {
  static constexpr GuestModes kGuests =
      GuestModes::of(GuestMode::NonPaging, GuestMode::Bits32, GuestMode::Pae, GuestMode::Long4);
  static constexpr unsigned kRootLevel = 4;
  static constexpr unsigned kMaxLeafLevel = 3;

  static constexpr std::uint64_t kPresent = 1U << 0, kWrite = 1U << 1, kUser = 1U << 2, kPwt = 1U << 3, kPcd = 1U << 4,
                                 kAccessed = 1U << 5, kDirty = 1U << 6, kLarge = 1U << 7, kGlobal = 1U << 8,
                                 kNx = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kAddressBits = 0x000f'ffff'ffff'f000;
  static constexpr std::uint64_t kHostWritable = 1U << 9;
  static constexpr std::uint64_t kHardwareBits = kPresent | kWrite | kUser | kPwt | kPcd | kAccessed | kDirty | kLarge |
                                                 kGlobal | kNx | (std::uint64_t{0xf} << 59);
  static constexpr std::uint64_t kSoftwareBits = kHostWritable;

  struct Caps {
    std::uint8_t host_address_bits = 52;   ///< host MAXPHYADDR
    std::uint8_t guest_address_bits = 48;  ///< MAXPHYADDR that the guest sees: its reserved bits
    bool large_1g = true;                  ///< 1 GiB leaf entries in the tables that hardware walks
    bool guest_1g = true;                  ///< 1 GiB pages in the guest's own tables
    bool pcid = false;                     ///< the guest may set CR4.PCIDE
  };

  [[nodiscard]] static constexpr bool present(std::uint64_t e) noexcept { return (e & kPresent) != 0; }
  [[nodiscard]] static constexpr bool leaf(std::uint64_t e, Level l) noexcept {
    return l == Level{1} || (e & kLarge) != 0;
  }
  [[nodiscard]] static constexpr bool writable(std::uint64_t e) noexcept { return (e & kWrite) != 0; }
  [[nodiscard]] static constexpr bool host_writable(std::uint64_t e) noexcept { return (e & kHostWritable) != 0; }
  [[nodiscard]] static constexpr Access rights(std::uint64_t e) noexcept {
    return Access{((e & kWrite) != 0 ? Access::kWrite : 0U) | ((e & kUser) != 0 ? Access::kUser : 0U) |
                  ((e & kNx) == 0 ? Access::kExec : 0U)};
  }
  [[nodiscard]] static constexpr bool accessed(const Caps&, std::uint64_t e) noexcept { return (e & kAccessed) != 0; }
  [[nodiscard]] static constexpr bool dirty(const Caps&, std::uint64_t e) noexcept { return (e & kDirty) != 0; }
  /// Requires: a leaf.
  [[nodiscard]] static constexpr std::uint64_t with_dirty(const Caps&, std::uint64_t e) noexcept { return e | kDirty; }
  [[nodiscard]] static constexpr std::uint64_t without_accessed(const Caps&, std::uint64_t e) noexcept {
    return e & ~kAccessed;
  }
  [[nodiscard]] static constexpr Hpa address(std::uint64_t e) noexcept { return Hpa{e & kAddressBits}; }
  [[nodiscard]] static constexpr std::uint64_t without_write(std::uint64_t e) noexcept { return e & ~kWrite; }
  [[nodiscard]] static constexpr std::uint64_t with_rights(std::uint64_t e, Access r) noexcept {
    return (e & ~(kWrite | kUser | kNx)) | (r.write() ? kWrite : 0) | (r.user() ? kUser : 0) | (r.exec() ? 0 : kNx);
  }

  /// Large leaves carry bit 7; the PAT bit stays clear, so the memory type is PWT/PCD over the power-on PAT.
  [[nodiscard]] static constexpr std::uint64_t make_leaf(const Caps&, const LeafSpec& s) noexcept {
    const unsigned r = s.rights.bits();
    std::uint64_t e = kPresent | address_of(s.pfn).value();
    e |= (r & Access::kWrite) != 0 ? kWrite : 0;
    e |= (r & Access::kUser) != 0 ? kUser : 0;
    e |= (r & Access::kExec) == 0 ? kNx : 0;
    e |= s.level > Level{1} ? kLarge : 0;
    e |= s.accessed ? kAccessed : 0;
    e |= s.dirty ? kDirty : 0;
    e |= s.host_writable ? kHostWritable : 0;
    e |= s.type == MemoryType::Uncached ? (kPcd | kPwt) : s.type == MemoryType::WriteThrough ? kPwt : 0;
    return e;
  }
  /// A table entry allows everything: rights are decided at the leaf, which carries those of all guest levels.
  [[nodiscard]] static constexpr std::uint64_t make_table(const Caps&, Hpa p) noexcept {
    return p.value() | kPresent | kWrite | kUser | kAccessed;
  }
  /// A PAE page-directory-pointer entry has no rights (SDM vol. 3, table 4-8).
  [[nodiscard]] static constexpr std::uint64_t make_pdpte(Hpa p) noexcept { return p.value() | kPresent; }
};
static_assert(Arch<X86_64>);
static_assert(X86_64::leaf(X86_64::make_leaf({}, {.pfn = Pfn{0x200}, .level = Level{2}}), Level{2}));
static_assert(!X86_64::leaf(X86_64::make_table({}, Hpa{0x1000}), Level{2}));
static_assert(X86_64::address(X86_64::make_leaf({}, {.pfn = Pfn{0xf'ffff'ffff}})) ==
              Hpa{0x000f'ffff'ffff'f000 & (0xf'ffff'ffffULL << 12)});

}  // namespace shadowmmu::arch
