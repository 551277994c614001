// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

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
  static constexpr std::uint64_t kSoftwareBits = kHostWritable;

  struct Caps {
    std::uint8_t host_address_bits = 52;
    bool accessed_dirty = true;  ///< EPTP bit 6 will be set: hardware keeps A and D
    bool exec_only = false;
    bool large_1g = true;
  };

  [[nodiscard]] static constexpr bool present(std::uint64_t e) noexcept { return (e & (kRead | kWrite | kExec)) != 0; }
  [[nodiscard]] static constexpr bool leaf(std::uint64_t e, Level l) noexcept {
    return l == Level{1} || (e & kLarge) != 0;
  }
  [[nodiscard]] static constexpr bool writable(std::uint64_t e) noexcept { return (e & kWrite) != 0; }
  [[nodiscard]] static constexpr bool host_writable(std::uint64_t e) noexcept { return (e & kHostWritable) != 0; }
  [[nodiscard]] static constexpr Access rights(std::uint64_t e) noexcept {
    return Access{((e & kWrite) != 0 ? Access::kWrite : 0U) | ((e & kRead) != 0 ? Access::kUser : 0U) |
                  ((e & kExec) != 0 ? Access::kExec : 0U)};
  }
  /// Without hardware A/D a present entry counts as accessed, a writable one as dirty.
  [[nodiscard]] static constexpr bool accessed(const Caps& c, std::uint64_t e) noexcept {
    return !c.accessed_dirty || (e & kAccessed) != 0;
  }
  [[nodiscard]] static constexpr bool dirty(const Caps& c, std::uint64_t e) noexcept {
    return c.accessed_dirty ? (e & kDirty) != 0 : writable(e);
  }
  /// Requires: a leaf.
  [[nodiscard]] static constexpr std::uint64_t with_dirty(const Caps& c, std::uint64_t e) noexcept {
    return c.accessed_dirty ? e | kDirty : e;
  }
  [[nodiscard]] static constexpr std::uint64_t without_accessed(const Caps& c, std::uint64_t e) noexcept {
    return c.accessed_dirty ? e & ~kAccessed : e;
  }
  [[nodiscard]] static constexpr Hpa address(std::uint64_t e) noexcept { return Hpa{e & kAddressBits}; }
  [[nodiscard]] static constexpr std::uint64_t without_write(std::uint64_t e) noexcept { return e & ~kWrite; }
  [[nodiscard]] static constexpr std::uint64_t with_rights(std::uint64_t e, Access r) noexcept {
    return (e & ~(kRead | kWrite | kExec)) | (r.write() ? kWrite : 0) | (r.user() ? kRead : 0) | (r.exec() ? kExec : 0);
  }

  /// `rights.user()` stands for read. Exec-only is made only where the CPU has it; else read is added.
  [[nodiscard]] static constexpr std::uint64_t make_leaf(const Caps& c, const LeafSpec& s) noexcept {
    const bool read = s.rights.user() || s.rights.write() || (s.rights.exec() && !c.exec_only);
    std::uint64_t e = address_of(s.pfn).value() | (read ? kRead : 0);
    e |= s.rights.write() ? kWrite : 0;
    e |= s.rights.exec() ? kExec : 0;
    e |= s.level > Level{1} ? kLarge : 0;
    e |= s.host_writable ? kHostWritable : 0;
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
};
static_assert(Arch<Ept>);
static_assert(Ept::present(Ept::kExec) && !Ept::present(Ept::kAccessed));

}  // namespace shadowmmu::arch
