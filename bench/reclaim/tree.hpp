// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "reclaim/trace.hpp"

/// A trace as a shadow MMU sees it: which table and entry each touch uses, all tables known beforehand.
namespace shadowmmu::bench {

enum class ArchKind : std::uint8_t { X86_64, Ept };
[[nodiscard]] const char* name_of(ArchKind arch) noexcept;

/// Four levels of tables. Under X86_64 each address space has a root, and the tables of the kernel half hang from all
/// roots. Under Ept there is one root; where a trace is of virtual pages, guest-physical ones are dealt out in order of
/// first touch.
struct Tree {
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Table {
    std::uint32_t parent = kNone;  ///< kNone: a root, or a table of level 3 in the kernel half (all roots are parents)
    std::uint16_t index = 0;       ///< of the entry in the parent that points here
    std::uint8_t level = 0;
  };
  struct Step {
    std::uint64_t address = 0;  ///< what the CPU accesses, canonical
    std::uint32_t leaf = 0;     ///< kNone: the address space of `root` has ended
    std::uint32_t root : 30 = 0;
    std::uint32_t store : 1 = 0;
    std::uint32_t fetch : 1 = 0;
    [[nodiscard]] std::uint32_t entry() const noexcept { return static_cast<std::uint32_t>(address >> 12U & 511U); }
  };
  /// Tables beyond this are refused: guest memory is needed for each.
  static constexpr std::uint32_t kMostTables = std::uint32_t{1} << 20;

  /// Throws std::runtime_error where the trace needs more than kMostTables tables.
  Tree(const Trace& trace, ArchKind kind);

  std::string name;
  ArchKind arch;
  std::vector<Table> tables;  ///< a table's number is the gfn of the guest's table under X86_64
  std::vector<Step> steps;
  std::vector<std::uint32_t> roots;  ///< numbers of tables of level 4
  std::uint64_t touches = 0;         ///< steps that are no ends
  std::uint64_t pages = 0;           ///< different entries of leaf tables
  std::uint64_t least_faults = 0;  ///< of an unlimited cache: for each page, and each space that comes to the kernel's
  std::uint64_t links = 0;         ///< different entries of other tables
  std::uint64_t span = 0;          ///< Ept: guest frames from 0 that hold all pages
};

}  // namespace shadowmmu::bench
