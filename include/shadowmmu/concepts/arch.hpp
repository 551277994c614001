// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <concepts>
#include <cstdint>

#include "shadowmmu/guest_format.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu {

/// What a leaf entry shall say.
struct LeafSpec {
  Pfn pfn{};
  Access rights{};
  Level level{1};
  MemoryType type = MemoryType::WriteBack;
  bool device = false;
  bool host_writable = true;  ///< the Host would let it be written
  bool mmu_writable = false;  ///< so would everybody else but a dirty log
  bool accessed = true;
  bool dirty = false;
};

/// What an MMIO entry remembers.
struct MmioSpec {
  Gfn gfn{};  ///< below 2^32
  Access access{};
  std::uint32_t generation = 0;
};

/// Geometry: which guests may appear, how deep the tables are, where the bits lie.
template <class A>
concept ArchGeometry = requires {
  { A::kGuests } -> std::convertible_to<GuestModes>;
  { A::kRootLevel } -> std::convertible_to<unsigned>;
  { A::kHardwareBits } -> std::convertible_to<std::uint64_t>;
  { A::kSoftwareBits } -> std::convertible_to<std::uint64_t>;
  { A::kAddressBits } -> std::convertible_to<std::uint64_t>;
  { A::kMaxLeafLevel } -> std::convertible_to<unsigned>;
};

/// Hardware, software and address bits of an entry never overlap.
template <class A>
concept ArchDisjoint = (A::kHardwareBits & A::kSoftwareBits) == 0 && (A::kHardwareBits & A::kAddressBits) == 0 &&
                       (A::kSoftwareBits & A::kAddressBits) == 0;

/// Bits 62:59 hold the protection key of a present x86 leaf: no software bit may live there.
template <class A>
concept ArchKeysClear = (A::kSoftwareBits & (std::uint64_t{0xf} << 59)) == 0;

/// Reading and making entries. `Caps` are the run-time capabilities of the CPU.
template <class A>
concept ArchEntries = requires(std::uint64_t e, Level l, const LeafSpec& s, const typename A::Caps& c, Hpa p) {
  { A::present(e) }
  noexcept->std::same_as<bool>;
  { A::leaf(e, l) }
  noexcept->std::same_as<bool>;
  { A::writable(e) }
  noexcept->std::same_as<bool>;
  { A::host_writable(e) }
  noexcept->std::same_as<bool>;
  { A::rights(e) }
  noexcept->std::same_as<Access>;
  { A::accessed(c, e) }
  noexcept->std::same_as<bool>;
  { A::dirty(c, e) }
  noexcept->std::same_as<bool>;
  { A::with_dirty(c, e) }
  noexcept->std::same_as<std::uint64_t>;
  { A::without_dirty(c, e) }
  noexcept->std::same_as<std::uint64_t>;
  { A::mmu_writable(e) }
  noexcept->std::same_as<bool>;
  { A::aged(c, e) }
  noexcept->std::same_as<std::uint64_t>;
  { A::split(e, l, 0U) }
  noexcept->std::same_as<std::uint64_t>;
  { A::without_accessed(c, e) }
  noexcept->std::same_as<std::uint64_t>;
  { A::address(e) }
  noexcept->std::same_as<Hpa>;
  { A::make_leaf(c, s) }
  noexcept->std::same_as<std::uint64_t>;
  { A::make_table(c, p) }
  noexcept->std::same_as<std::uint64_t>;
  { A::write_protected(e) }
  noexcept->std::same_as<std::uint64_t>;
  { A::restorable(e) }
  noexcept->std::same_as<bool>;
  { A::restored(c, e) }
  noexcept->std::same_as<std::uint64_t>;
  { A::without_write(e) }
  noexcept->std::same_as<std::uint64_t>;
  { A::with_rights(e, Access{}) }
  noexcept->std::same_as<std::uint64_t>;
};

/// An entry that always faults and says which gfn, with what rights and of which generation. Its parts lie apart, the
/// generation has 19 bits at least, and `present` does not take it for a mapping.
template <class A>
concept ArchMmio = requires(std::uint64_t e, const typename A::Caps& c, const MmioSpec& m) {
  requires A::kMmioGenerationBits >= 19 && A::kMmioGenerationBits <= 32;
  requires(A::kMmioFixedBits & A::kMmioGenerationMask) == 0 && (A::kMmioFixedBits & A::kMmioAccessBits) == 0 &&
      (A::kMmioGenerationMask & A::kMmioAccessBits) == 0 &&
      ((A::kMmioGenerationMask | A::kMmioAccessBits) & A::kAddressBits) == 0;
  { A::mmio(e) }
  noexcept->std::same_as<bool>;
  { A::make_mmio(c, m) }
  noexcept->std::same_as<std::uint64_t>;
  { A::read_mmio(c, e) }
  noexcept->std::same_as<MmioSpec>;
  { A::mmio_reported(c) }
  noexcept->std::same_as<bool>;
};

template <class A>
concept Arch = ArchGeometry<A> && ArchDisjoint<A> && ArchKeysClear<A> && ArchEntries<A> && ArchMmio<A>;

}  // namespace shadowmmu
