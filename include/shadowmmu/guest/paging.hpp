// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/guest_format.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::guest {

inline constexpr std::uint64_t kEntryPresent = 1U << 0, kEntryWrite = 1U << 1, kEntryUser = 1U << 2,
                               kEntryAccessed = 1U << 5, kEntryDirty = 1U << 6, kEntryLarge = 1U << 7,
                               kEntryNx = std::uint64_t{1} << 63;

/// Bits first .. last, inclusive; empty if last < first.
[[nodiscard]] constexpr std::uint64_t bit_range(unsigned first, unsigned last) noexcept {
  if (last < first) return 0;
  return (~std::uint64_t{0} >> (63U - last)) & (~std::uint64_t{0} << first);
}

/// What the control registers make of the guest's tables, worked out once per change: mode, reserved bits by level and
/// page size, and which accesses which rights refuse.
class Paging {
 public:
  constexpr Paging() noexcept = default;
  /// Requires: controls valid for the CPU (the embedder's #GP checks are done). Source: SDM vol. 3, 4.1 to 4.7.
  constexpr Paging(const Controls& c, unsigned maxphyaddr, bool has_1g) noexcept
      : mode_(mode_of(c)),
        wp_((c.cr0 & cr0::kWp) != 0),
        nxe_((c.efer & efer::kNxe) != 0),
        pse_((c.cr4 & cr4::kPse) != 0),
        smep_((c.cr4 & cr4::kSmep) != 0),
        smap_((c.cr4 & cr4::kSmap) != 0),
        pae_((c.cr4 & cr4::kPae) != 0) {
    if (mode_ == GuestMode::NonPaging) return;
    reserve(maxphyaddr, has_1g);
    for (unsigned l = 2; l < 5; ++l)
      attention_[l] = kEntryPresent | reserved_[0][l] | (l <= max_leaf_ ? kEntryLarge : reserved_[1][l] & kEntryLarge);
    for (unsigned i = 0; i < 16; ++i) deny_[i] = denied(i);
  }

  /// Second-level translation: no guest tables, everything allowed.
  [[nodiscard]] static constexpr Paging direct() noexcept {
    Paging p;
    p.mode_ = GuestMode::Direct;
    return p;
  }

  [[nodiscard]] constexpr GuestMode mode() const noexcept { return mode_; }
  [[nodiscard]] constexpr bool wp() const noexcept { return wp_; }
  [[nodiscard]] constexpr bool nxe() const noexcept { return nxe_; }
  [[nodiscard]] constexpr bool pse() const noexcept { return pse_; }
  [[nodiscard]] constexpr bool smep() const noexcept { return smep_; }
  [[nodiscard]] constexpr bool smap() const noexcept { return smap_; }
  /// The I bit of an error code exists only with no-execute or SMEP (SDM vol. 3, 4.7).
  [[nodiscard]] constexpr bool reports_fetch() const noexcept { return (nxe_ && pae_) || smep_; }

  [[nodiscard]] constexpr bool reserved_set(std::uint64_t e, unsigned level) const noexcept {
    return (e & reserved_[(e & kEntryLarge) != 0 ? 1 : 0][level]) != 0;
  }
  /// Whether an entry of an upper level is what nearly all are: present, naming a table, nothing reserved set. One test
  /// for three questions; where it fails, ask them one by one.
  [[nodiscard]] constexpr bool plain_table(std::uint64_t e, unsigned level) const noexcept {
    return (e & attention_[level]) == kEntryPresent;
  }
  /// Whether an entry of this level maps a page. Bit 7 of a level-1 entry is PAT; without PSE it is ignored.
  [[nodiscard]] constexpr bool maps_page(std::uint64_t e, unsigned level) const noexcept {
    return level == 1 || ((e & kEntryLarge) != 0 && level <= max_leaf_);
  }
  /// Rights that one entry grants.
  [[nodiscard]] constexpr Access grants(std::uint64_t e) const noexcept {
    const auto low = static_cast<unsigned>(e >> 1U) & 3U;  // W and U lie side by side
    return Access{low | ((e & nx_mask_) != 0 ? 0U : unsigned{Access::kExec})};
  }
  /// Whether the accumulated rights refuse the request. `smap_enforced`: AC does not lift SMAP for this access.
  [[nodiscard]] constexpr bool refuses(Access rights, AccessRequest r, bool smap_enforced) const noexcept {
    const unsigned i = (r.write ? 1U : 0U) | (r.fetch ? 2U : 0U) | (r.user ? 4U : 0U) | (smap_enforced ? 8U : 0U);
    return (deny_[i] >> rights.bits() & 1U) != 0;
  }
  /// SMAP holds for implicit supervisor accesses (made while CPL = 3) and where AC is clear (SDM vol. 3, 4.6.1).
  [[nodiscard]] static constexpr bool smap_enforced(CpuMode m) noexcept { return m.cpl == 3 || !m.ac; }

  [[nodiscard]] static constexpr GuestMode mode_of(const Controls& c) noexcept {
    if ((c.cr0 & cr0::kPg) == 0) return GuestMode::NonPaging;
    if ((c.efer & efer::kLma) != 0) return GuestMode::Long4;
    return (c.cr4 & cr4::kPae) != 0 ? GuestMode::Pae : GuestMode::Bits32;
  }
  /// PDPTE bits that make MOV to CR3 fault (SDM vol. 3, table 4-8).
  [[nodiscard]] static constexpr std::uint64_t pdpte_reserved(unsigned maxphyaddr) noexcept {
    return bit_range(1, 2) | bit_range(5, 8) | bit_range(maxphyaddr, 63);
  }

 private:
  constexpr void reserve(unsigned m, bool has_1g) noexcept {
    if (mode_ == GuestMode::Bits32) {
      max_leaf_ = pse_ ? 2 : 1;
      // PSE-36: bits 20:13 are address bits 39:32, as far as MAXPHYADDR goes; the rest up to 21 is reserved.
      const unsigned top = m < 32 ? 32 : m > 40 ? 40 : m;
      reserved_[1][2] = pse_ ? bit_range(13 + (top - 32), 21) : 0;
      nx_mask_ = 0;
      return;
    }
    const bool longmode = mode_ == GuestMode::Long4;
    const std::uint64_t base = bit_range(m, longmode ? 51 : 62) | (nxe_ ? 0 : kEntryNx);
    nx_mask_ = nxe_ ? kEntryNx : 0;
    max_leaf_ = longmode && has_1g ? 3 : 2;
    for (auto& by_size : reserved_)
      for (auto& mask : by_size) mask = base;
    reserved_[1][2] |= bit_range(13, 20);
    reserved_[1][3] |= has_1g ? bit_range(13, 29) : kEntryLarge;
    reserved_[1][4] |= kEntryLarge;
  }
  [[nodiscard]] constexpr std::uint8_t denied(unsigned i) const noexcept {
    const bool write = (i & 1U) != 0, fetch = (i & 2U) != 0, user = (i & 4U) != 0, enforce = (i & 8U) != 0;
    unsigned map = 0;
    for (unsigned a = 0; a < 8; ++a) {
      const Access rights{a};
      bool no = fetch && !rights.exec();
      if (user) {
        no = no || !rights.user() || (write && !rights.write());
      } else {
        no = no || (write && !rights.write() && wp_);
        no = no || (fetch && smep_ && rights.user());
        no = no || (!fetch && smap_ && enforce && rights.user());
      }
      if (no) map |= 1U << a;
    }
    return static_cast<std::uint8_t>(map);
  }

  GuestMode mode_ = GuestMode::NonPaging;
  bool wp_ = false, nxe_ = false, pse_ = false, smep_ = false, smap_ = false, pae_ = false;
  std::uint8_t max_leaf_ = 1;
  std::uint8_t deny_[16] = {};
  std::uint64_t nx_mask_ = 0;
  std::uint64_t reserved_[2][5] = {};
  std::uint64_t attention_[5] = {};  ///< by level: P, the bits reserved in a table entry, and PS where it has a meaning
};

}  // namespace shadowmmu::guest
