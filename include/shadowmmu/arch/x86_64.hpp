// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/arch/hidden_frame.hpp"
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
  static constexpr std::uint64_t kMmioMark = 1U << 10;  ///< no mapping, whatever P says
  static constexpr std::uint64_t kMmuWritable = 1U << 11;
  static constexpr std::uint64_t kSoftwareBits = kHostWritable | kMmioMark | kMmuWritable;

  /// MMIO entries: bit 51 is beyond MAXPHYADDR, so the CPU reports a reserved bit; where MAXPHYADDR is 52 there is no
  /// such bit, and P is clear instead.
  static constexpr std::uint64_t kReserved = std::uint64_t{1} << 51;
  static constexpr unsigned kMmioGenerationBits = 19;
  static constexpr std::uint64_t kMmioFixedBits = kPresent | kMmioMark | kAddressBits;
  static constexpr std::uint64_t kMmioGenerationMask =
      std::uint64_t{0x7f} << 3 | std::uint64_t{1} << 11 | std::uint64_t{0x7ff} << 52;
  static constexpr std::uint64_t kMmioAccessBits = kWrite | kUser | kNx;

  struct Caps {
    std::uint8_t host_address_bits = 52;   ///< host MAXPHYADDR
    std::uint8_t guest_address_bits = 48;  ///< MAXPHYADDR that the guest sees: its reserved bits
    bool large_1g = true;                  ///< 1 GiB leaf entries in the tables that hardware walks
    bool guest_1g = true;                  ///< 1 GiB pages in the guest's own tables
    bool pcid = false;                     ///< the guest may set CR4.PCIDE
    bool nx_huge = false;                  ///< no large entry is executable (iTLB multihit): code gets 4 KiB ones
  };

  [[nodiscard]] static constexpr bool present(std::uint64_t e) noexcept {
    return (e & (kPresent | kMmioMark)) == kPresent;
  }
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
  [[nodiscard]] static constexpr std::uint64_t without_dirty(const Caps&, std::uint64_t e) noexcept {
    return e & ~kDirty;
  }
  [[nodiscard]] static constexpr std::uint64_t without_accessed(const Caps&, std::uint64_t e) noexcept {
    return e & ~kAccessed;
  }
  /// A leaf after `clear_young`: its next use shows.
  [[nodiscard]] static constexpr std::uint64_t aged(const Caps&, std::uint64_t e) noexcept { return e & ~kAccessed; }
  /// Writable but for a dirty log: TLBs may know it as writable, and a write may make it so again without the lock.
  [[nodiscard]] static constexpr bool mmu_writable(std::uint64_t e) noexcept { return (e & kMmuWritable) != 0; }
  [[nodiscard]] static constexpr Hpa address(std::uint64_t e) noexcept { return Hpa{e & kAddressBits}; }
  [[nodiscard]] static constexpr std::uint64_t without_write(std::uint64_t e) noexcept {
    return e & ~(kWrite | kMmuWritable);
  }
  /// A leaf whose next write a dirty log must see, and nothing else.
  [[nodiscard]] static constexpr std::uint64_t write_protected(std::uint64_t e) noexcept { return e & ~kWrite; }
  /// Whether a leaf lacks W for the log's sake only.
  [[nodiscard]] static constexpr bool restorable(std::uint64_t e) noexcept {
    constexpr std::uint64_t kBoth = kHostWritable | kMmuWritable;
    return (e & (kPresent | kMmioMark | kBoth | kWrite)) == (kPresent | kBoth);
  }
  /// Requires: restorable(e). Returns: the leaf that a write may use, D set for it.
  [[nodiscard]] static constexpr std::uint64_t restored(const Caps&, std::uint64_t e) noexcept {
    return e | kWrite | kDirty;
  }
  /// Never makes a leaf mmu-writable.
  [[nodiscard]] static constexpr std::uint64_t with_rights(std::uint64_t e, Access r) noexcept {
    const std::uint64_t base = (r.write() ? e | kWrite : without_write(e)) & ~(kUser | kNx);
    return base | (r.user() ? kUser : 0) | (r.exec() ? 0 : kNx);
  }

  /// Large leaves carry bit 7; the PAT bit stays clear, so the memory type is PWT/PCD over the power-on PAT. That PAT
  /// has no write-combining and no write-protected type: both become uncached, which is slower and never wrong.
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
    e |= s.mmu_writable ? kMmuWritable : 0;
    e |= s.type == MemoryType::WriteBack ? 0 : s.type == MemoryType::WriteThrough ? kPwt : kPcd | kPwt;
    return e;
  }
  /// A table entry allows everything: rights are decided at the leaf, which carries those of all guest levels.
  [[nodiscard]] static constexpr std::uint64_t make_table(const Caps&, Hpa p) noexcept {
    return p.value() | kPresent | kWrite | kUser | kAccessed;
  }
  /// A PAE page-directory-pointer entry has no rights (SDM vol. 3, table 4-8).
  [[nodiscard]] static constexpr std::uint64_t make_pdpte(Hpa p) noexcept { return p.value() | kPresent; }
  /// Returns: the n-th of the 512 entries one level down that a large leaf is the same as. `level`: theirs.
  [[nodiscard]] static constexpr std::uint64_t split(std::uint64_t e, Level level, unsigned n) noexcept {
    const std::uint64_t part = e + (std::uint64_t{n} * level.frames() << kPageShift);
    return level == Level{1} ? part & ~kLarge : part;
  }

  [[nodiscard]] static constexpr bool mmio_reported(const Caps& c) noexcept { return c.host_address_bits < 52; }
  [[nodiscard]] static constexpr bool mmio(std::uint64_t e) noexcept { return (e & kMmioMark) != 0; }
  [[nodiscard]] static constexpr std::uint64_t make_mmio(const Caps& c, const MmioSpec& m) noexcept {
    const std::uint64_t g = m.generation;
    return with_rights(HiddenFrame::put(m.gfn, c.host_address_bits) | kMmioMark, m.access) |
           (mmio_reported(c) ? kPresent | kReserved : 0) | (g & 0x7f) << 3 | (g >> 7 & 1) << 11 |
           (g >> 8 & 0x7ff) << 52;
  }
  [[nodiscard]] static constexpr MmioSpec read_mmio(const Caps& c, std::uint64_t e) noexcept {
    return {HiddenFrame::get(e, c.host_address_bits), rights(e),
            static_cast<std::uint32_t>((e >> 3 & 0x7f) | (e >> 11 & 1) << 7 | (e >> 52 & 0x7ff) << 8)};
  }
};
static_assert(Arch<X86_64>);
static_assert(!X86_64::present(X86_64::make_mmio({}, {})) && X86_64::mmio(X86_64::make_mmio({}, {})));
static_assert(X86_64::leaf(X86_64::make_leaf({}, {.pfn = Pfn{0x200}, .level = Level{2}}), Level{2}));
static_assert(!X86_64::leaf(X86_64::make_table({}, Hpa{0x1000}), Level{2}));
static_assert(X86_64::address(X86_64::make_leaf({}, {.pfn = Pfn{0xf'ffff'ffff}})) ==
              Hpa{0x000f'ffff'ffff'f000 & (0xf'ffff'ffffULL << 12)});

}  // namespace shadowmmu::arch
