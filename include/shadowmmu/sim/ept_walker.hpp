// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>

#include "shadowmmu/sim/hw_walk.hpp"
#include "shadowmmu/sim/hw_walker.hpp"
#include "shadowmmu/types.hpp"

/// The EPT hardware: guest physical addresses through extended page tables.
/// Source: Intel SDM vol. 3, 29.3.2 (formats), 29.3.3 (violations and misconfigurations), 29.3.5 (A and D flags).
namespace shadowmmu::sim {

struct EptFeatures {
  bool accessed_dirty = true;  ///< IA32_VMX_EPT_VPID_CAP bit 21
  bool exec_only = true;       ///< IA32_VMX_EPT_VPID_CAP bit 0
};

template <HostMemory Memory>
class EptWalker {
 public:
  static constexpr unsigned kRead = 1, kWrite = 2, kExec = 4;

  EptWalker(Memory& memory, const HwFeatures& features, const EptFeatures& ept) noexcept
      : memory_(memory), features_(features), ept_(ept) {
    for (unsigned rwx = 0; rwx < 8; ++rwx) {
      const bool write_only = (rwx & kWrite) != 0 && (rwx & kRead) == 0;
      bad_rights_[rwx] = write_only || (rwx == kExec && !ept_.exec_only);
    }
    const std::uint64_t high = detail::field(51, features_.max_phys_addr);
    reserved_[1] = {high, high};  // bit 7 is ignored in a PTE
    reserved_[2] = {high | detail::field(6, 3), high | detail::field(20, 12)};
    reserved_[3] = {high | detail::field(6, 3), high | detail::field(29, 12) | (features_.has_1g_pages ? 0 : kLarge)};
    reserved_[4] = {high | detail::field(7, 3), high | detail::field(7, 3)};
  }

  /// Requires: the EPT pointer in cr3. Returns: GeneralProtection where VM entry would fail. SDM 27.2.1.1, 25.6.11.
  [[nodiscard]] LoadOutcome load(const HwState& state) noexcept {
    const std::uint64_t eptp = state.cr3;
    const std::uint64_t type = eptp & 7U;
    const bool walk_of_four = (eptp >> 3 & 7U) == 3;
    const bool wants_flags = (eptp & kEptpFlags) != 0;
    const std::uint64_t reserved = detail::field(11, 7) | detail::field(63, features_.max_phys_addr);
    if ((type != 0 && type != 6) || !walk_of_four || (eptp & reserved) != 0 || (wants_flags && !ept_.accessed_dirty)) {
      return LoadOutcome::GeneralProtection;
    }
    state_ = state;
    return LoadOutcome::Ok;
  }

  [[nodiscard]] const HwState& state() const noexcept { return state_; }

  [[nodiscard]] static bool permits(unsigned rights, AccessRequest request) noexcept {
    return (wanted(request) & ~rights) == 0;
  }
  /// Returns: exit qualification bits 2:0 (the access) and 5:3 (what the entries allow). SDM table 28-7.
  [[nodiscard]] static std::uint32_t qualification(unsigned rights, AccessRequest request) noexcept {
    return wanted(request) | rights << 3;
  }

  /// Effects: translates a guest physical address; sets Accessed and Dirty if the EPT pointer enables them.
  [[nodiscard]] WalkResult walk(std::uint64_t address, AccessRequest request, const TablePointer* start = nullptr) {
    for (;;) {
      WalkResult result;
      if (attempt(address, request, start, result)) return result;
    }
  }

  /// Returns: whether walks begin in the table that lies in this frame.
  [[nodiscard]] bool starts_in(Hpa frame) const noexcept {
    return (state_.cr3 & detail::field(51, 12)) == frame.value();
  }
  /// Returns: what a walk from the root finds, whoever asks, as HwWalker::peek. Effects: none.
  [[nodiscard]] WalkResult peek(std::uint64_t address) {
    WalkResult result;
    result.kind = AccessKind::EptViolation;
    TablePointer at{Level{4}, 64, Hpa{state_.cr3 & detail::field(51, 12)}, kRead | kWrite | kExec};
    if ((address >> 48) != 0) return result;
    for (;; at.level = at.level.down()) {
      const auto* cell = detail::entry_cell<std::uint64_t>(memory_, at.table + at.level.index(address) * 8U);
      if (cell == nullptr) {
        result.kind = AccessKind::Bus;
        return result;
      }
      const std::uint64_t entry = __atomic_load_n(cell, __ATOMIC_ACQUIRE);
      const unsigned rwx = static_cast<unsigned>(entry & (kRead | kWrite | kExec));
      const bool large = (entry & kLarge) != 0;
      const bool leaf = at.level == Level{1} || large;
      if (rwx == 0 || bad_rights_[rwx] || (entry & reserved_[at.level.value()][large ? 1 : 0]) != 0 ||
          (leaf && bad_type(entry)))
        return result;
      at.rights &= rwx;
      if (leaf) {
        result.kind = AccessKind::Ok;
        result.shift = at.level.shift();
        result.hpa = Hpa{(entry & detail::field(51, result.shift)) | (address & detail::field(result.shift - 1, 0))};
        result.level = at.level;
        result.rights = at.rights;
        result.dirty = !flags_on() || (entry & kD) != 0;
        return result;
      }
      at.table = Hpa{entry & detail::field(51, 12)};
    }
  }

 private:
  static constexpr std::uint64_t kLarge = 1U << 7, kA = 1U << 8, kD = 1U << 9, kEptpFlags = 1U << 6;

  [[nodiscard]] static unsigned wanted(AccessRequest request) noexcept {
    return request.fetch ? kExec : request.write ? kWrite : kRead;
  }
  [[nodiscard]] static bool bad_type(std::uint64_t entry) noexcept {
    constexpr unsigned kBad = 1U << 2 | 1U << 3 | 1U << 7;
    return (kBad >> (entry >> 3 & 7U) & 1U) != 0;
  }
  [[nodiscard]] bool flags_on() const noexcept { return (state_.cr3 & kEptpFlags) != 0; }

  [[nodiscard]] bool attempt(std::uint64_t address, AccessRequest request, const TablePointer* start,
                             WalkResult& result) {
    constexpr unsigned kAllRights = kRead | kWrite | kExec;
    TablePointer at{Level{4}, 64, Hpa{state_.cr3 & detail::field(51, 12)}, kAllRights};
    if (start != nullptr) at = *start;
    if ((address >> 48) != 0) return violate(result, 0, request);  // beyond what a walk of four reaches
    for (;;) {
      auto* cell = detail::entry_cell<std::uint64_t>(memory_, at.table + at.level.index(address) * 8U);
      if (cell == nullptr) return true;  // result says Bus
      const std::uint64_t entry = __atomic_load_n(cell, __ATOMIC_ACQUIRE);
      const unsigned rwx = static_cast<unsigned>(entry & kAllRights);
      if (rwx == 0) return violate(result, 0, request);
      const unsigned level = at.level.value();
      const bool large = (entry & kLarge) != 0;
      const bool leaf = level == 1 || large;
      if (bad_rights_[rwx] || (entry & reserved_[level][large ? 1 : 0]) != 0 || (leaf && bad_type(entry))) {
        result.kind = AccessKind::EptMisconfig;
        return true;
      }
      at.rights &= rwx;
      if (leaf) return finish(cell, entry, address, request, at, result);
      if (flags_on() && !detail::set_flags(cell, entry, kA)) return false;
      at.shift = at.level.shift();
      at.table = Hpa{entry & detail::field(51, 12)};
      at.level = at.level.down();
      result.reached(at);
    }
  }

  [[nodiscard]] bool finish(std::uint64_t* cell, std::uint64_t entry, std::uint64_t address, AccessRequest request,
                            const TablePointer& at, WalkResult& result) {
    if (!permits(at.rights, request)) return violate(result, at.rights, request);
    if (flags_on() && !detail::set_flags(cell, entry, request.write ? kA | kD : kA)) return false;
    const unsigned shift = at.level.shift();
    result.kind = AccessKind::Ok;
    result.hpa = Hpa{(entry & detail::field(51, shift)) | (address & detail::field(shift - 1, 0))};
    result.level = at.level;
    result.shift = shift;
    result.rights = at.rights;
    result.dirty = !flags_on() || request.write || (entry & kD) != 0;
    result.caching = static_cast<std::uint8_t>(entry >> 3 & 15U);
    return true;
  }

  [[nodiscard]] static bool violate(WalkResult& result, unsigned rights, AccessRequest request) noexcept {
    result.kind = AccessKind::EptViolation;
    result.error_code = qualification(rights, request);
    return true;
  }

  Memory& memory_;
  HwFeatures features_;
  EptFeatures ept_;
  HwState state_{};
  std::array<bool, 8> bad_rights_{};
  std::array<std::array<std::uint64_t, 2>, 5> reserved_{};  ///< by level, by bit 7
};

}  // namespace shadowmmu::sim
