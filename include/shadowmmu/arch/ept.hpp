// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/arch/hidden_frame.hpp"
#include "shadowmmu/concepts/arch.hpp"

namespace shadowmmu::arch {

/// Extended page tables (SDM vol. 3, 29.3.2), direct: guest physical to host physical. Present means R, W or X.
struct Ept {
  static constexpr GuestModes kGuests = GuestModes::of(GuestMode::Direct);
  static constexpr unsigned kRootLevel = 4;
  static constexpr unsigned kMaxLeafLevel = 3;

  static constexpr std::uint64_t kRead = 1U << 0, kWrite = 1U << 1, kExec = 1U << 2, kIgnorePat = 1U << 6,
                                 kLarge = 1U << 7, kAccessed = 1U << 8, kDirty = 1U << 9;
  static constexpr unsigned kTypeShift = 3;
  static constexpr std::uint64_t kAddressBits = 0x000f'ffff'ffff'f000;
  static constexpr std::uint64_t kHostWritable = std::uint64_t{1} << 52;
  static constexpr std::uint64_t kHardwareBits = kRead | kWrite | kExec | (std::uint64_t{7} << kTypeShift) |
                                                 kIgnorePat | kLarge | kAccessed | kDirty | (std::uint64_t{0x7f} << 57);
  /// Where the CPU keeps no A bits: R, W and X of an entry that was aged, at rest until its next use faults.
  static constexpr unsigned kSavedShift = 53;
  static constexpr std::uint64_t kRwx = kRead | kWrite | kExec, kSaved = kRwx << kSavedShift;
  static constexpr std::uint64_t kMmuWritable = std::uint64_t{1} << 56;
  static constexpr std::uint64_t kSoftwareBits = kHostWritable | kSaved | kMmuWritable;

  /// MMIO entries are misconfigured: writable and not readable, which no mapping is. Rights are not kept: a direct map
  /// has none of a guest's to check.
  static constexpr std::uint64_t kMmioRwx = kWrite | kExec;
  static constexpr unsigned kMmioGenerationBits = 20;
  static constexpr std::uint64_t kMmioFixedBits = kRwx | kAddressBits;
  static constexpr std::uint64_t kMmioGenerationMask = std::uint64_t{0x1ff} << 3 | std::uint64_t{0x7ff} << 52;
  static constexpr std::uint64_t kMmioAccessBits = 0;

  struct Caps {
    std::uint8_t host_address_bits = 52;
    bool accessed_dirty = true;  ///< EPTP bit 6 will be set: hardware keeps A and D
    bool exec_only = false;
    bool large_1g = true;
    bool nx_huge = false;  ///< no large entry is executable (iTLB multihit): code gets 4 KiB ones
  };

  [[nodiscard]] static constexpr bool present(std::uint64_t e) noexcept {
    return (e & kRwx) != kMmioRwx && (e & (kRwx | kSaved)) != 0;
  }
  [[nodiscard]] static constexpr bool leaf(std::uint64_t e, Level l) noexcept {
    return l == Level{1} || (e & kLarge) != 0;
  }
  [[nodiscard]] static constexpr bool writable(std::uint64_t e) noexcept { return (e & kWrite) != 0; }
  [[nodiscard]] static constexpr bool host_writable(std::uint64_t e) noexcept { return (e & kHostWritable) != 0; }
  [[nodiscard]] static constexpr Access rights(std::uint64_t e) noexcept {
    return Access{((e & kWrite) != 0 ? Access::kWrite : 0U) | ((e & kRead) != 0 ? Access::kUser : 0U) |
                  ((e & kExec) != 0 ? Access::kExec : 0U)};
  }
  /// Writable but for a dirty log or its age: TLBs may know it as writable, and a write may make it so again without
  /// the lock.
  [[nodiscard]] static constexpr bool mmu_writable(std::uint64_t e) noexcept { return (e & kMmuWritable) != 0; }
  /// Without hardware A/D an entry counts as accessed unless aged, a writable one as dirty.
  [[nodiscard]] static constexpr bool accessed(const Caps& c, std::uint64_t e) noexcept {
    return c.accessed_dirty ? (e & kAccessed) != 0 : (e & kRwx) != 0;
  }
  [[nodiscard]] static constexpr bool dirty(const Caps& c, std::uint64_t e) noexcept {
    return (e & (c.accessed_dirty ? kDirty : kWrite | kWrite << kSavedShift)) != 0;
  }
  /// Without hardware A/D: an entry is clean once it cannot be written.
  [[nodiscard]] static constexpr std::uint64_t without_dirty(const Caps& c, std::uint64_t e) noexcept {
    return c.accessed_dirty ? e & ~kDirty : write_protected(e);
  }
  /// A leaf after `clear_young`: its next use shows, by A or by a fault.
  [[nodiscard]] static constexpr std::uint64_t aged(const Caps& c, std::uint64_t e) noexcept {
    if (c.accessed_dirty) return e & ~kAccessed;
    return (e & kRwx) == 0 ? e : (e & ~(kRwx | kSaved)) | (e & kRwx) << kSavedShift;
  }
  /// Requires: a leaf.
  [[nodiscard]] static constexpr std::uint64_t with_dirty(const Caps& c, std::uint64_t e) noexcept {
    return c.accessed_dirty ? e | kDirty : e;
  }
  [[nodiscard]] static constexpr std::uint64_t without_accessed(const Caps& c, std::uint64_t e) noexcept {
    return c.accessed_dirty ? e & ~kAccessed : e;
  }
  [[nodiscard]] static constexpr Hpa address(std::uint64_t e) noexcept { return Hpa{e & kAddressBits}; }
  [[nodiscard]] static constexpr std::uint64_t without_write(std::uint64_t e) noexcept {
    return write_protected(e) & ~kMmuWritable;
  }
  /// A leaf whose next write a dirty log must see, and nothing else.
  [[nodiscard]] static constexpr std::uint64_t write_protected(std::uint64_t e) noexcept {
    return e & ~(kWrite | kWrite << kSavedShift);
  }
  /// Whether a leaf, in use, lacks W for the log's sake only.
  [[nodiscard]] static constexpr bool restorable(std::uint64_t e) noexcept {
    constexpr std::uint64_t kBoth = kHostWritable | kMmuWritable;
    return (e & (kRead | kWrite | kBoth)) == (kRead | kBoth);
  }
  /// Requires: restorable(e). Returns: the leaf that a write may use, D set for it.
  [[nodiscard]] static constexpr std::uint64_t restored(const Caps& c, std::uint64_t e) noexcept {
    return with_dirty(c, e | kWrite);
  }
  /// Never makes a leaf mmu-writable.
  [[nodiscard]] static constexpr std::uint64_t with_rights(std::uint64_t e, Access r) noexcept {
    const std::uint64_t base = (r.write() ? e | kWrite : without_write(e)) & ~(kRead | kExec);
    return base | (r.user() ? kRead : 0) | (r.exec() ? kExec : 0);
  }

  /// `rights.user()` stands for read. Exec-only is made only where the CPU has it; else read is added.
  [[nodiscard]] static constexpr std::uint64_t make_leaf(const Caps& c, const LeafSpec& s) noexcept {
    const bool read = s.rights.user() || s.rights.write() || (s.rights.exec() && !c.exec_only);
    std::uint64_t e = address_of(s.pfn).value() | (read ? kRead : 0);
    e |= s.rights.write() ? kWrite : 0;
    e |= s.rights.exec() ? kExec : 0;
    e |= s.level > Level{1} ? kLarge : 0;
    e |= s.host_writable ? kHostWritable : 0;
    e |= s.mmu_writable ? kMmuWritable : 0;
    e |= static_cast<std::uint64_t>(s.type) << kTypeShift;
    e |= s.device ? kIgnorePat : 0;
    if (c.accessed_dirty) e |= (s.accessed ? kAccessed : 0) | (s.dirty ? kDirty : 0);
    return e;
  }
  [[nodiscard]] static constexpr std::uint64_t make_table(const Caps& c, Hpa p) noexcept {
    return p.value() | kRead | kWrite | kExec | (c.accessed_dirty ? kAccessed : 0);
  }
  /// EPTP: write-back walk, four levels, A/D where enabled (SDM vol. 3, 25.6.11).
  [[nodiscard]] static constexpr std::uint64_t make_pointer(const Caps& c, Hpa root) noexcept {
    return root.value() | 6U | (3U << 3) | (c.accessed_dirty ? 1U << 6 : 0U);
  }
  /// Returns: the n-th of the 512 entries one level down that a large leaf is the same as. `level`: theirs.
  [[nodiscard]] static constexpr std::uint64_t split(std::uint64_t e, Level level, unsigned n) noexcept {
    const std::uint64_t part = e + (std::uint64_t{n} * level.frames() << kPageShift);
    return level == Level{1} ? part & ~kLarge : part;
  }

  [[nodiscard]] static constexpr bool mmio_reported(const Caps&) noexcept { return true; }
  [[nodiscard]] static constexpr bool mmio(std::uint64_t e) noexcept { return (e & kRwx) == kMmioRwx; }
  [[nodiscard]] static constexpr std::uint64_t make_mmio(const Caps& c, const MmioSpec& m) noexcept {
    const std::uint64_t g = m.generation;
    return HiddenFrame::put(m.gfn, c.host_address_bits) | kMmioRwx | (g & 0x1ff) << 3 | (g >> 9 & 0x7ff) << 52;
  }
  [[nodiscard]] static constexpr MmioSpec read_mmio(const Caps& c, std::uint64_t e) noexcept {
    return {HiddenFrame::get(e, c.host_address_bits), Access::all(),
            static_cast<std::uint32_t>((e >> 3 & 0x1ff) | (e >> 52 & 0x7ff) << 9)};
  }
};
static_assert(Arch<Ept>);
static_assert(Ept::present(Ept::kExec) && !Ept::present(Ept::kAccessed));

}  // namespace shadowmmu::arch
