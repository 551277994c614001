// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "shadowmmu/types.hpp"

/// What the two hardware walkers (x86 and EPT) have in common: how they reach tables and what they answer.
namespace shadowmmu::sim {

/// Host physical memory as the CPU reaches it. Returns: where the frame lies, nullptr if it is no memory.
template <class M>
concept HostMemory = requires(M& memory, Hpa frame) {
  { memory.to_virt(frame) } -> std::convertible_to<void*>;
};

enum class AccessKind : std::uint8_t {
  Ok,
  PageFault,     ///< error_code as pushed
  EptViolation,  ///< error_code = exit qualification, bits 5:0
  EptMisconfig,
  Bus,  ///< a table lies outside memory: whoever built the tables has a bug
};

/// A table that a walk reaches, and the rights left on the way: also what a paging-structure cache holds.
struct TablePointer {
  Level level{1};      ///< of the entries in the table
  unsigned shift = 0;  ///< the address bits from here up lead to the table
  Hpa table{};
  unsigned rights = 0;  ///< Access bits in an x86 walk, read=1 write=2 execute=4 in an EPT walk
};

struct WalkResult {
  AccessKind kind = AccessKind::Bus;
  std::uint32_t error_code = 0;
  Hpa hpa{};
  Level level{1};
  unsigned shift = kPageShift;  ///< log2 of the page's size
  unsigned rights = 0;
  bool dirty = false;                   ///< the leaf's Dirty flag is set, or there is none
  std::uint8_t caching = 0;             ///< x86: PAT index; EPT: memory type, plus 8 for ignore-PAT
  std::array<TablePointer, 5> steps{};  ///< tables reached through an entry, uppermost first
  std::size_t step_count = 0;

  void reached(const TablePointer& to) noexcept { steps[step_count++] = to; }
  [[nodiscard]] bool ok() const noexcept { return kind == AccessKind::Ok; }
};

namespace detail {

/// Returns: the entry's cell, nullptr if its frame is no memory.
template <class Entry, HostMemory Memory>
[[nodiscard]] Entry* entry_cell(Memory& memory, Hpa at) {
  void* frame = memory.to_virt(Hpa{at.value() & ~kPageMask});
  if (frame == nullptr) return nullptr;
  return reinterpret_cast<Entry*>(static_cast<unsigned char*>(frame) + (at.value() & kPageMask));
}

/// Effects: sets flags in the entry in one locked step. Returns: false if the entry is no longer `seen`.
template <class Entry>
[[nodiscard]] bool set_flags(Entry* cell, std::uint64_t seen, std::uint64_t flags) noexcept {
  if ((seen & flags) == flags) return true;
  Entry expected = static_cast<Entry>(seen);
  return __atomic_compare_exchange_n(cell, &expected, static_cast<Entry>(seen | flags), false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST);
}

/// Bits high..low.
[[nodiscard]] constexpr std::uint64_t field(unsigned high, unsigned low) noexcept {
  return high < low ? 0 : (~std::uint64_t{0} >> (63U - (high - low))) << low;
}

}  // namespace detail
}  // namespace shadowmmu::sim
