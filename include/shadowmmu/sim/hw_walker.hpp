// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>

#include "shadowmmu/sim/hw_walk.hpp"
#include "shadowmmu/types.hpp"

/// The x86 paging hardware over the tables that the library builds. Everything that depends on the control registers
/// becomes a table of masks when they are loaded; the walk itself only looks things up.
namespace shadowmmu::sim {

enum class LoadOutcome : std::uint8_t {
  Ok,
  GeneralProtection,  ///< a register value or a PDPTE that hardware refuses
  Bus,                ///< the PDPTEs lie outside memory
};

/// What the host's CPU is able to do.
struct HwFeatures {
  unsigned max_phys_addr = 46;
  bool has_1g_pages = true;
};

namespace detail {

/// Fixed shape of one level of one paging mode.
struct LevelShape {
  unsigned shift;
  unsigned index_bits;
  std::uint64_t leaf_reserved;   ///< alignment bits of a large page
  std::uint64_t table_reserved;  ///< bits that an entry naming a table must leave clear
};

struct ModeShape {
  unsigned top;  ///< level of the table that the walk starts with
  unsigned entry_bytes;
  std::uint64_t wide_reserved;  ///< high bits that are reserved whatever MAXPHYADDR is
  std::array<LevelShape, 6> level;
};

inline constexpr std::uint64_t kPsBit = 1U << 7;
inline constexpr LevelShape kNoLevel{0, 0, 0, 0};
inline constexpr LevelShape kPt{12, 9, 0, 0};
inline constexpr LevelShape kPd{21, 9, field(20, 13), 0};
inline constexpr LevelShape kPdpt{30, 9, field(29, 13), 0};
inline constexpr LevelShape kPml4{39, 9, 0, kPsBit};
inline constexpr LevelShape kPml5{48, 9, 0, kPsBit};

inline constexpr ModeShape kTwoLevelShape{2, 4, 0, {{kNoLevel, {12, 10, 0, 0}, {22, 10, 0, 0}, {}, {}, {}}}};
inline constexpr ModeShape kPaeShape{2, 8, field(62, 52), {{kNoLevel, kPt, kPd, {}, {}, {}}}};
inline constexpr ModeShape kFourLevelShape{4, 8, 0, {{kNoLevel, kPt, kPd, kPdpt, kPml4, {}}}};
inline constexpr ModeShape kFiveLevelShape{5, 8, 0, {{kNoLevel, kPt, kPd, kPdpt, kPml4, kPml5}}};

}  // namespace detail

/// Requires of Memory: frames stay where they are while the CPU runs; entries may change under the walk at any time.
template <HostMemory Memory>
class HwWalker {
 public:
  HwWalker(Memory& memory, const HwFeatures& features) noexcept : memory_(memory), features_(features) {}

  /// Effects: takes over the registers and, in PAE mode, reads the four PDPTEs; on failure nothing changes.
  [[nodiscard]] LoadOutcome load(const HwState& state) {
    const bool paging = (state.cr0 & cr0::kPg) != 0;
    const bool pae = (state.cr4 & cr4::kPae) != 0;
    const bool lma = (state.efer & efer::kLma) != 0;
    if (lma && paging && !pae) return LoadOutcome::GeneralProtection;
    const std::uint64_t wide = lma ? detail::field(63, features_.max_phys_addr) : detail::field(63, 32);
    if (paging && (state.cr3 & wide) != 0) return LoadOutcome::GeneralProtection;
    std::array<std::uint64_t, 4> pdptes{};
    if (paging && pae && !lma) {
      const LoadOutcome outcome = read_pdptes(state.cr3, pdptes);
      if (outcome != LoadOutcome::Ok) return outcome;
    }
    state_ = state;
    pdptes_ = pdptes;
    shape_ = !paging ? nullptr
             : lma   ? ((state.cr4 & cr4::kLa57) != 0 ? &detail::kFiveLevelShape : &detail::kFourLevelShape)
             : pae   ? &detail::kPaeShape
                     : &detail::kTwoLevelShape;
    fetch_bit_ = (pae && (state.efer & efer::kNxe) != 0) || (state.cr4 & cr4::kSmep) != 0 ? pferr::kFetch : 0U;
    if (shape_ != nullptr) make_reserved_masks();
    make_refusals();
    return LoadOutcome::Ok;
  }

  [[nodiscard]] const HwState& state() const noexcept { return state_; }

  /// Returns: whether a translation with these rights allows the access.
  [[nodiscard]] bool permits(unsigned rights, AccessRequest request, CpuMode mode, bool implicit) const noexcept {
    return (refusals_[row(request, mode, implicit)] >> (rights & Access::kAll) & 1U) == 0;
  }

  [[nodiscard]] std::uint32_t refusal_code(AccessRequest request) const noexcept {
    return pferr::kPresent | code_of(request);
  }

  /// Returns: the part of an address that the CPU translates.
  [[nodiscard]] std::uint64_t linear(std::uint64_t address) const noexcept {
    return (state_.efer & efer::kLma) != 0 ? address : address & 0xffff'ffffU;
  }

  /// Effects: translates; sets Accessed in each entry used for the next level, and Accessed and Dirty in the leaf of an
  /// allowed access. `start`: a cached table to begin at, nullptr for the root.
  [[nodiscard]] WalkResult walk(std::uint64_t address, AccessRequest request, CpuMode mode, bool implicit,
                                const TablePointer* start = nullptr) {
    address = linear(address);
    if (shape_ == nullptr) return untranslated(address);
    for (;;) {
      WalkResult result;
      const bool settled = shape_->entry_bytes == 4
                               ? attempt<std::uint32_t>(address, request, mode, implicit, start, result)
                               : attempt<std::uint64_t>(address, request, mode, implicit, start, result);
      if (settled) return result;
    }
  }

  /// Returns: whether walks begin in the table that lies in this frame.
  [[nodiscard]] bool starts_in(Hpa frame) const noexcept {
    if (shape_ == nullptr) return false;
    if (shape_ != &detail::kPaeShape) return (state_.cr3 & detail::field(51, 12)) == frame.value();
    for (const std::uint64_t pdpte : pdptes_)
      if ((pdpte & kP) != 0 && (pdpte & detail::field(51, 12)) == frame.value()) return true;
    return false;
  }

  /// Returns: what a walk from the root finds, whoever asks: a leaf that the CPU might cache now, with its rights, or
  /// why there is none. Effects: none; no flag is set.
  [[nodiscard]] WalkResult peek(std::uint64_t address) {
    address = linear(address);
    if (shape_ == nullptr) return untranslated(address);
    return shape_->entry_bytes == 4 ? look<std::uint32_t>(address) : look<std::uint64_t>(address);
  }

 private:
  static constexpr std::uint64_t kP = 1U << 0, kA = 1U << 5, kD = 1U << 6, kNx = std::uint64_t{1} << 63;

  [[nodiscard]] LoadOutcome read_pdptes(std::uint64_t root, std::array<std::uint64_t, 4>& into) {
    const auto* cells = detail::entry_cell<std::uint64_t>(memory_, Hpa{root & detail::field(31, 5)});
    if (cells == nullptr) return LoadOutcome::Bus;
    const std::uint64_t reserved =
        detail::field(2, 1) | detail::field(8, 5) | detail::field(63, features_.max_phys_addr);
    for (unsigned i = 0; i < 4; ++i) {
      into[i] = __atomic_load_n(cells + i, __ATOMIC_ACQUIRE);
      if ((into[i] & kP) != 0 && (into[i] & reserved) != 0) return LoadOutcome::GeneralProtection;
    }
    return LoadOutcome::Ok;
  }

  void make_reserved_masks() noexcept {
    const bool nxe = (state_.efer & efer::kNxe) != 0;
    const bool wide = shape_->entry_bytes == 8;
    const std::uint64_t common =
        wide ? shape_->wide_reserved | detail::field(51, features_.max_phys_addr) | (nxe ? 0 : kNx) : 0;
    for (unsigned level = 1; level <= shape_->top; ++level) {
      const detail::LevelShape& at = shape_->level[level];
      reserved_[level][0] = common | at.table_reserved;
      reserved_[level][1] = common | at.table_reserved | at.leaf_reserved;
      is_leaf_bit_[level] = level == 1 ? 0 : detail::kPsBit;
    }
    if (!features_.has_1g_pages) reserved_[3][1] |= detail::kPsBit;
    if (!wide) {
      is_leaf_bit_[2] = (state_.cr4 & cr4::kPse) != 0 ? detail::kPsBit : 0;
      const unsigned reach = features_.max_phys_addr < 40 ? features_.max_phys_addr : 40;
      reserved_[2][1] = detail::field(21, 13) & ~detail::field(reach - 20, 13);  // PSE-36: bits 39:32 lie in 20:13
    }
  }

  // Row: the kind of access. Column: rights of the translation. A set bit: refused.
  void make_refusals() noexcept {
    const bool wp = (state_.cr0 & cr0::kWp) != 0;
    const bool smep = (state_.cr4 & cr4::kSmep) != 0;
    const bool smap = (state_.cr4 & cr4::kSmap) != 0;
    for (unsigned kind = 0; kind < refusals_.size(); ++kind) {
      const bool user = (kind & kRowUser) != 0;
      const bool fetch = (kind & kRowFetch) != 0;
      unsigned need = user ? Access::kUser : 0U;
      unsigned shun = 0;
      if (fetch) need |= Access::kExec;
      if ((kind & kRowWrite) != 0 && (user || wp)) need |= Access::kWrite;
      if (!user && fetch && smep) shun = Access::kUser;
      if (!user && !fetch && smap && (kind & kRowAcLifts) == 0) shun = Access::kUser;
      unsigned refused = 0;
      for (unsigned rights = 0; rights <= Access::kAll; ++rights) {
        if ((rights & need) != need || (rights & shun) != 0) refused |= 1U << rights;
      }
      refusals_[kind] = static_cast<std::uint8_t>(refused);
    }
  }

  [[nodiscard]] static unsigned row(AccessRequest request, CpuMode mode, bool implicit) noexcept {
    const bool ac_lifts = mode.ac && !implicit && mode.cpl < 3;
    return (request.write ? kRowWrite : 0U) | (request.user ? kRowUser : 0U) | (request.fetch ? kRowFetch : 0U) |
           (ac_lifts ? kRowAcLifts : 0U);
  }

  [[nodiscard]] std::uint32_t code_of(AccessRequest request) const noexcept {
    return request.error_bits() & (pferr::kWrite | pferr::kUser | fetch_bit_);
  }

  [[nodiscard]] static WalkResult untranslated(std::uint64_t address) noexcept {
    WalkResult result;
    result.kind = AccessKind::Ok;
    result.hpa = Hpa{address};
    result.rights = Access::kAll;
    result.dirty = true;
    return result;
  }

  [[nodiscard]] bool refuse(WalkResult& result, std::uint32_t code, AccessRequest request) const noexcept {
    result.kind = AccessKind::PageFault;
    result.error_code = code | code_of(request);
    return true;
  }

  /// Returns: false if an entry changed under the walk, which must then begin again.
  template <class Entry>
  [[nodiscard]] bool attempt(std::uint64_t address, AccessRequest request, CpuMode mode, bool implicit,
                             const TablePointer* start, WalkResult& result) {
    TablePointer at;
    if (start != nullptr) {
      at = *start;
    } else if (!root_of(address, at)) {
      return refuse(result, 0, request);
    }
    for (;;) {
      const unsigned level = at.level.value();
      const detail::LevelShape& shape = shape_->level[level];
      const std::uint64_t index = address >> shape.shift & detail::field(shape.index_bits - 1, 0);
      Entry* cell = detail::entry_cell<Entry>(memory_, at.table + index * sizeof(Entry));
      if (cell == nullptr) return true;  // result says Bus
      const std::uint64_t entry = __atomic_load_n(cell, __ATOMIC_ACQUIRE);
      if ((entry & kP) == 0) return refuse(result, 0, request);
      const bool large = (entry & is_leaf_bit_[level]) != 0;  // at level 4 and 5 too, where the mask then refuses it
      const bool leaf = level == 1 || large;
      if ((entry & reserved_[level][large ? 1 : 0]) != 0) {
        return refuse(result, pferr::kPresent | pferr::kReserved, request);
      }
      at.rights &= rights_of<Entry>(entry);
      if (leaf) return finish(cell, entry, shape.shift, address, request, mode, implicit, at, result);
      if (!detail::set_flags(cell, entry, kA)) return false;
      at.table = Hpa{entry & detail::field(51, 12)};
      at.level = at.level.down();
      at.shift = shape.shift;
      result.reached(at);
    }
  }

  /// Returns: false where the PDPTE register of the address is not present; else the table that a walk begins in.
  [[nodiscard]] bool root_of(std::uint64_t address, TablePointer& at) const noexcept {
    at = {Level{shape_->top}, 64, Hpa{state_.cr3 & detail::field(51, 12)}, Access::kAll};
    if (shape_ != &detail::kPaeShape) return true;
    const std::uint64_t pdpte = pdptes_[address >> 30 & 3U];
    at.table = Hpa{pdpte & detail::field(51, 12)};
    return (pdpte & kP) != 0;
  }
  template <class Entry>
  [[nodiscard]] static unsigned rights_of(std::uint64_t entry) noexcept {
    return static_cast<unsigned>(entry >> 1 & (Access::kWrite | Access::kUser)) |
           (sizeof(Entry) == 8 && (entry & kNx) != 0 ? 0U : Access::kExec);
  }
  [[nodiscard]] static Hpa page_of(std::uint64_t entry, unsigned shift, unsigned entry_bytes,
                                   std::uint64_t address) noexcept {
    std::uint64_t page = entry & detail::field(51, shift);
    if (entry_bytes == 4 && shift == 22) page |= (entry & detail::field(20, 13)) << 19;
    return Hpa{page | (address & detail::field(shift - 1, 0))};
  }

  template <class Entry>
  [[nodiscard]] WalkResult look(std::uint64_t address) {
    WalkResult result;
    result.kind = AccessKind::PageFault;
    TablePointer at;
    if (!root_of(address, at)) return result;
    for (;; at.level = at.level.down()) {
      const detail::LevelShape& shape = shape_->level[at.level.value()];
      const std::uint64_t index = address >> shape.shift & detail::field(shape.index_bits - 1, 0);
      const Entry* cell = detail::entry_cell<Entry>(memory_, at.table + index * sizeof(Entry));
      if (cell == nullptr) {
        result.kind = AccessKind::Bus;
        return result;
      }
      const std::uint64_t entry = __atomic_load_n(cell, __ATOMIC_ACQUIRE);
      const bool large = (entry & is_leaf_bit_[at.level.value()]) != 0;
      if ((entry & kP) == 0 || (entry & reserved_[at.level.value()][large ? 1 : 0]) != 0) return result;
      at.rights &= rights_of<Entry>(entry);
      if (at.level == Level{1} || large) {
        result.kind = AccessKind::Ok;
        result.hpa = page_of(entry, shape.shift, sizeof(Entry), address);
        result.level = at.level;
        result.shift = shape.shift;
        result.rights = at.rights;
        result.dirty = (entry & kD) != 0;
        return result;
      }
      at.table = Hpa{entry & detail::field(51, 12)};
    }
  }

  template <class Entry>
  [[nodiscard]] bool finish(Entry* cell, std::uint64_t entry, unsigned shift, std::uint64_t address,
                            AccessRequest request, CpuMode mode, bool implicit, const TablePointer& at,
                            WalkResult& result) {
    if (!permits(at.rights, request, mode, implicit)) return refuse(result, pferr::kPresent, request);
    if (!detail::set_flags(cell, entry, request.write ? kA | kD : kA)) return false;
    const unsigned pat_bit = shift == kPageShift ? 7 : 12;
    result.kind = AccessKind::Ok;
    result.hpa = page_of(entry, shift, sizeof(Entry), address);
    result.level = at.level;
    result.shift = shift;
    result.rights = at.rights;
    result.dirty = request.write || (entry & kD) != 0;
    result.caching = static_cast<std::uint8_t>((entry >> 3 & 3U) | (entry >> pat_bit & 1U) << 2);
    return true;
  }

  static constexpr unsigned kRowWrite = 1, kRowUser = 2, kRowFetch = 4, kRowAcLifts = 8;

  Memory& memory_;
  HwFeatures features_;
  HwState state_{};
  const detail::ModeShape* shape_ = nullptr;
  std::array<std::uint64_t, 4> pdptes_{};
  std::array<std::array<std::uint64_t, 2>, 6> reserved_{};  ///< by level, by bit 7
  std::array<std::uint64_t, 6> is_leaf_bit_{};
  std::array<std::uint8_t, 16> refusals_{};
  std::uint32_t fetch_bit_ = 0;
};

}  // namespace shadowmmu::sim
