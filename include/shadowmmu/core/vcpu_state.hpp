// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/magazine.hpp"
#include "shadowmmu/core/page.hpp"
#include "shadowmmu/flush.hpp"
#include "shadowmmu/guest/paging.hpp"
#include "shadowmmu/intrusive.hpp"
#include "shadowmmu/stats.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::core {

/// A shadow page by index and serial: a reference that does not keep it alive.
struct WeakPage {
  PageIndex index = kNoPage;
  std::uint32_t serial = 0;
};

/// Root pages of one address space: one page, or four page directories under the PAE shape.
struct RootSet {
  WeakPage page[4];
  std::uint64_t cr3 = 0;  ///< key: the guest's CR3 (with PCID), 0 for direct maps
  Role role{};            ///< key: role of the root level
  bool loaded = false;
};

/// The directories (level 2) that the vCPU's last faults went through, by address. Void once State::epoch has moved.
struct PathCache {
  static constexpr unsigned kSlots = 8;
  std::uint64_t epoch = ~std::uint64_t{0};
  std::uint64_t region[kSlots] = {};  ///< address / 1 GiB
  PageIndex page[kSlots] = {};
};

/// The addresses of a vCPU's last faults that made pages at the limit, and the pages held for them; see holding.hpp.
template <unsigned Addresses, unsigned RootLevel>
struct Holding {
  static constexpr unsigned kAddresses = Addresses;
  static constexpr unsigned kRepeats = 256;  ///< in a row: a vCPU that gets on has no such number
  /// Paths with nothing but the root in common; under the PAE shape, four directories and a leaf table for each
  /// address.
  static constexpr unsigned kPages = 1U + Addresses * (RootLevel - 1U) > 4U + Addresses
                                         ? 1U + Addresses*(RootLevel - 1U)
                                         : 4U + Addresses;
  bool on = false;
  std::uint8_t next = 0;                   ///< place of the next address
  std::uint16_t repeats = 0;               ///< faults in a row on addresses that were here
  std::uint8_t count = 0;                  ///< pages held
  std::uint64_t address[kAddresses] = {};  ///< / 4 KiB, plus 1: 0 is none
  WeakPage page[kPages] = {};
  static_assert(kPages < 256 && kRepeats < 65536);
};

/// A page on which hardware faulted although its entry grants the access, and how many times in a row.
struct Doubt {
  std::uint64_t page = 0;  ///< address / 4 KiB
  unsigned times = 0;
};

/// The last page that turned out to be MMIO. Holds as a TLB entry does: until the guest flushes it.
struct LastMmio {
  std::uint64_t generation = ~std::uint64_t{0};  ///< in full width, stable; this value never is
  std::uint64_t page = 0;                        ///< address / 4 KiB
  Gfn gfn{};
  Access access{};
};

/// A write window: one guest frame (or, for CR0.WP = 0, one address) that the vCPU may write for one instruction.
struct WriteWindow {
  Gfn gfn{};
  Gva address{};
  bool open = false;
  bool supervisor_write = false;    ///< opened for EmulateReason::SupervisorWrite
  bool tracked = false;             ///< the frame holds a guest table: compare and report at the end
  std::uint64_t* before = nullptr;  ///< copy of the frame
};

/// Registers by which a guest's address is translated, as other threads may read them at any time. All are cells.
struct ShownRegisters {
  std::uint64_t sequence = 0;  ///< odd while they change
  std::uint64_t cr0 = 0, cr4 = 0, efer = 0, cr3 = 0;
  std::uint64_t pdpte[4] = {};
};

/// Everything a vCPU owns. Touched by its thread; `reload` and `shown_root` also by others, `reader` by whoever frees.
template <class Config, class Reader, unsigned RootLevel>
struct VcpuState {
  static constexpr unsigned kWindows = 4;

  Reader reader;  ///< its thread's reader sections
  ListMemberHook hook;
  VcpuId id{};               ///< the embedder's name for it: whom flushes and kicks are for
  std::uint64_t number = 0;  ///< the Mmu's: 1 and up, each once
  bool registered = false;
  unsigned slot_hint = 0;
  alignas(64) std::uint64_t reload = 0;  ///< cell: non-zero asks enter() to drop the root and load a fresh one
  std::uint64_t shown_root[4] = {};  ///< cells: for each 2 bits 31:30 of an address, root table | its level; 0: none
  alignas(64) Magazine magazine;
  Controls controls{};
  guest::Paging paging{};
  std::uint64_t cr3 = 0;
  std::uint64_t pdpte[4] = {};
  ShownRegisters shown{};
  Role role{};  ///< base role of pages made for this vCPU now
  RootSet root{};
  Hpa top{};  ///< what CR3 or the EPT pointer names now
  PathCache path{};
  LastMmio mmio{};
  Doubt doubt{};
  std::uint64_t mmio_cached = 0;  ///< cell: faults answered by `mmio`
  std::uint64_t fast_faults = 0;  ///< cell: faults answered without the lock

  /// Effects: what was remembered of single addresses is void, as what a TLB holds is by a flush.
  void forget_addresses() noexcept {
    mmio = LastMmio{};
    doubt = Doubt{};
  }
  /// Effects: adds what was counted without the lock.
  template <class Memory>
  void count_into(Counters& c) const noexcept {
    const std::uint64_t cached = Memory::plain(mmio_cached);
    const std::uint64_t fast = Memory::plain(fast_faults);
    c.mmio_cached += cached;
    c.faults_mmio += cached;
    c.faults_fast += fast;
    c.faults_fixed += fast;
    c.faults += cached + fast;
  }
  RootSet previous[Config::kPreviousRoots == 0 ? 1 : Config::kPreviousRoots] = {};
  std::uint64_t* pdpt = nullptr;  ///< frame of 128 hardware PDPTs of the PAE shape, below 4 GiB
  unsigned pdpt_slot = 0;         ///< the one in use; each root load takes the next, so that CR3 differs
  WriteWindow window[kWindows] = {};
  Holding<Config::kInstructionAddresses, RootLevel> holding{};
  bool sync_due = false;  ///< the root that enter() leads to must be synced, whichever it will be
};

template <class Vcpu>
using VcpuList = MemberList<Vcpu, &Vcpu::hook>;

}  // namespace shadowmmu::core
