// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/types.hpp"

namespace shadowmmu {

/// Everything that is counted. Counters change under the Mmu's lock, so a snapshot taken under it is consistent.
struct Counters {
  std::uint64_t faults = 0;           ///< handle_fault calls that came to an answer (not: host errors, out of memory)
  std::uint64_t faults_fixed = 0;     ///< entry installed or upgraded
  std::uint64_t faults_fast = 0;      ///< of them, without the lock
  std::uint64_t faults_spurious = 0;  ///< the entry was right already
  std::uint64_t faults_guest = 0;     ///< injected into the guest
  std::uint64_t faults_mmio = 0;
  std::uint64_t mmio_cached = 0;      ///< of them, by the vCPU's last page: no walk, no lock
  std::uint64_t mmio_hits = 0;        ///< of them, by an MMIO entry: no walk of the guest's tables
  std::uint64_t mmio_stale = 0;       ///< MMIO entries met that were of an earlier generation
  std::uint64_t mmio_wraps = 0;       ///< times that the stored generation started over
  std::uint64_t faults_emulated = 0;  ///< tracked or read-only writes
  std::uint64_t faults_retried = 0;
  std::uint64_t prefetched = 0;
  std::uint64_t pages_created = 0;
  std::uint64_t pages_zapped = 0;
  std::uint64_t pages_obsolete = 0;        ///< of the zapped: of an earlier generation
  std::uint64_t parents_dropped = 0;       ///< times that a page with too many parents lost them all
  std::uint64_t holdings = 0;              ///< times that a vCPU's pages were held so that an instruction ends
  std::uint64_t pages_recycled = 0;        ///< of the zapped: at the limit
  std::uint64_t recycled_entries = 0;      ///< leaf entries of the leaf tables among them
  std::uint64_t recycled_directories = 0;  ///< of the recycled: above leaf tables
  std::uint64_t recycled_orphans = 0;      ///< their children that no table points at any more, and that stay
  std::uint64_t accessed_tests = 0;        ///< pages whose A bits a reclaim policy looked at
  std::uint64_t links = 0;                 ///< entries made to point at a table
  std::uint64_t pages_flooded = 0;         ///< of the zapped: written too often
  std::uint64_t pages_unsynced = 0;        ///< leaf tables let go
  std::uint64_t pages_synced = 0;
  std::uint64_t entries_resynced = 0;  ///< of synced tables, entries that had changed
  std::uint64_t roots_reused = 0;      ///< CR3 loads served by a page that existed
  std::uint64_t roots_built = 0;
  std::uint64_t tracked_writes = 0;  ///< guest_wrote on a shadowed frame
  std::uint64_t windows = 0;
  std::uint64_t invlpg = 0;
  std::uint64_t flushes = 0;           ///< requests sent to the Host
  std::uint64_t generations = 0;       ///< changes: zap-alls, slots removed by All, MMIO generations used up
  std::uint64_t splits = 0;            ///< large leaves split ahead of need
  std::uint64_t yields = 0;            ///< times that long work let the lock go
  std::uint64_t rmap_zapped_long = 0;  ///< chains that grew beyond bounds
  std::uint64_t rmap_longest = 0;
  std::uint64_t pages_used = 0;         ///< now
  std::uint64_t pages_used_lowest = 0;  ///< fewest left after pages were freed; 0 before
  std::uint64_t pages_used_highest = 0;
  std::uint64_t pages_deferred = 0;  ///< freed pages that had to wait for readers
  std::uint64_t pages_deferred_now = 0;
  std::uint64_t pages_deferred_highest = 0;
  std::uint64_t reader_waits = 0;  ///< grace periods waited for at the bound; short where no section was open
};

namespace stats {
/// Counting on: one counter block in the Mmu.
struct On {
  Counters c;
  void add(std::uint64_t Counters::*m, std::uint64_t n = 1) noexcept { c.*m += n; }
  void set(std::uint64_t Counters::*m, std::uint64_t v) noexcept { c.*m = v; }
  void peak(std::uint64_t Counters::*m, std::uint64_t v) noexcept { c.*m = max_of(c.*m, v); }
  void trough(std::uint64_t Counters::*m, std::uint64_t v) noexcept { c.*m = c.*m == 0 ? v : min_of(c.*m, v); }
  /// Effects: adds what a vCPU counted by itself.
  void merge(const Counters& o) noexcept {
    c.faults += o.faults;
    c.faults_fixed += o.faults_fixed;
    c.faults_fast += o.faults_fast;
    c.faults_mmio += o.faults_mmio;
    c.mmio_cached += o.mmio_cached;
  }
  [[nodiscard]] Counters snapshot() const noexcept { return c; }
};
/// Counting off: no memory, no instruction.
struct Off {
  void add(std::uint64_t Counters::*, std::uint64_t = 1) noexcept {}
  void set(std::uint64_t Counters::*, std::uint64_t) noexcept {}
  void peak(std::uint64_t Counters::*, std::uint64_t) noexcept {}
  void trough(std::uint64_t Counters::*, std::uint64_t) noexcept {}
  void merge(const Counters&) noexcept {}
  [[nodiscard]] Counters snapshot() const noexcept { return {}; }
};
}  // namespace stats
}  // namespace shadowmmu
