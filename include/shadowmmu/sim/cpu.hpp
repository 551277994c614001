// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <optional>

#include "shadowmmu/sim/ept_walker.hpp"
#include "shadowmmu/sim/hw_walk.hpp"
#include "shadowmmu/sim/hw_walker.hpp"
#include "shadowmmu/sim/tlb.hpp"
#include "shadowmmu/types.hpp"

/// A simulated CPU: the hardware walkers behind a TLB and paging-structure caches that forget nothing of themselves.
namespace shadowmmu::sim {

struct CpuConfig {
  unsigned max_phys_addr = 46;  ///< host MAXPHYADDR
  bool has_1g_pages = true;
  bool ept = false;  ///< addresses are guest physical, and HwState::cr3 is the EPT pointer
  EptFeatures ept_features{};
  CacheConfig caches{};
  /// On a refusal by a cached entry: walk again and answer from memory, as most CPUs do. If false the CPU reports the
  /// refusal it cached, which the manual allows (SDM 4.10.4.3, spurious faults). Both ways drop the entry.
  bool refill_on_fault = true;
  std::uint64_t seed = 1;
};

struct AccessResult {
  AccessKind kind = AccessKind::Bus;
  Hpa hpa{};                     ///< valid if Ok
  std::uint32_t error_code = 0;  ///< PageFault: as pushed; EptViolation: exit qualification, bits 5:0
  std::uint8_t caching = 0;      ///< as in WalkResult; valid if Ok
  [[nodiscard]] bool ok() const noexcept { return kind == AccessKind::Ok; }
};

struct CpuStats {
  std::uint64_t accesses = 0, hits = 0, walks = 0;
  std::uint64_t refills = 0;        ///< walks repeated from the root because a cache refused
  std::uint64_t dirty_assists = 0;  ///< walks made only to set a Dirty flag
};

/// Not shared between threads; several CPUs may share one Memory.
template <HostMemory Memory>
class Cpu {
 public:
  Cpu(Memory& memory, const CpuConfig& config)
      : config_(config),
        x86_(memory, HwFeatures{config.max_phys_addr, config.has_1g_pages}),
        ept_(memory, HwFeatures{config.max_phys_addr, config.has_1g_pages}, config.ept_features),
        tlb_(config.caches, config.seed) {}

  /// Effects: loads all registers at once; nothing cached survives (there are no global entries). In PAE mode the
  /// PDPTEs are read now, and only now. On failure nothing changes.
  [[nodiscard]] LoadOutcome load(const HwState& state) {
    const LoadOutcome outcome = config_.ept ? ept_.load(state) : x86_.load(state);
    if (outcome == LoadOutcome::Ok) tlb_.drop_all();
    return outcome;
  }

  /// `implicit`: a supervisor access to a system structure, which SMAP refuses whatever RFLAGS.AC says.
  [[nodiscard]] AccessResult access(std::uint64_t address, AccessRequest request, CpuMode mode = {},
                                    bool implicit = false) {
    ++stats_.accesses;
    if (!config_.ept) address = x86_.linear(address);
    if (const CachedPage* page = tlb_.find_page(address)) {
      if (permits(page->rights, request, mode, implicit)) {
        if (!request.write || page->dirty) {
          ++stats_.hits;
          return {AccessKind::Ok, page->page + (address & detail::field(page->shift - 1, 0)), 0, page->caching};
        }
        ++stats_.dirty_assists;
        tlb_.drop_leaves(address);
      } else {
        const AccessResult refusal = cached_refusal(page->rights, request);
        tlb_.drop_address(address);
        if (!config_.refill_on_fault) return refusal;
        ++stats_.refills;
      }
    }
    const std::optional<TablePointer> start = tlb_.find_table(address);
    WalkResult walk = walk_from(address, request, mode, implicit, start ? &*start : nullptr);
    if (faults(walk)) {
      tlb_.drop_address(address);  // SDM 4.10.4.1 and 29.4.3.1: a fault drops what was used
      if (start && config_.refill_on_fault) {
        ++stats_.refills;
        walk = walk_from(address, request, mode, implicit, nullptr);
      }
    }
    if (walk.ok()) tlb_.fill(address, walk);
    return {walk.kind, walk.hpa, walk.error_code, walk.caching};
  }

  /// MOV to CR3 of the same value, or INVEPT: all leaves and all paging-structure caches.
  /// In PAE mode it is not a reload of the PDPTEs; `load` is.
  void flush_all() { tlb_.drop_all(); }
  /// INVLPG: whatever serves this address, of any page size, upper levels included.
  void flush_page(Gva address) { tlb_.drop_address(config_.ept ? address.value() : x86_.linear(address.value())); }
  /// A range flush that reaches leaf translations only, as remote range invalidations do.
  void flush_range(std::uint64_t address, std::uint64_t pages) {
    if (pages == 0) return;
    const std::uint64_t first = address & ~kPageMask;
    const std::uint64_t length = pages << kPageShift;
    const bool to_the_end = pages > (~first >> kPageShift);
    tlb_.drop_leaves(first, to_the_end ? ~std::uint64_t{0} : first + (length - 1));
  }

  /// Returns: the translation that an access would hit, if any.
  [[nodiscard]] std::optional<CachedPage> cached(Gva address) {
    const CachedPage* page = tlb_.find_page(config_.ept ? address.value() : x86_.linear(address.value()));
    return page == nullptr ? std::nullopt : std::optional<CachedPage>{*page};
  }
  /// Returns: the cached table from which a walk for this address would start, if any.
  [[nodiscard]] std::optional<TablePointer> cached_table(Gva address) const {
    return tlb_.find_table(config_.ept ? address.value() : x86_.linear(address.value()));
  }

  /// Returns: what a walk finds now, rights unasked: what the CPU may cache by itself at any time. Effects: none.
  [[nodiscard]] WalkResult peek(Gva address) {
    return config_.ept ? ept_.peek(address.value()) : x86_.peek(address.value());
  }
  /// Returns: whether the CPU may read this frame as a table, by its root or by what it has cached.
  [[nodiscard]] bool may_walk(Hpa frame) const {
    return (config_.ept ? ept_.starts_in(frame) : x86_.starts_in(frame)) || tlb_.holds_table(frame);
  }
  /// Returns: whether a translation with these rights allows the access.
  [[nodiscard]] bool permits(unsigned rights, AccessRequest request, CpuMode mode, bool implicit) const noexcept {
    return config_.ept ? ept_.permits(rights, request) : x86_.permits(rights, request, mode, implicit);
  }

  [[nodiscard]] const HwState& state() const noexcept { return config_.ept ? ept_.state() : x86_.state(); }
  [[nodiscard]] const CpuStats& stats() const noexcept { return stats_; }
  [[nodiscard]] const Tlb& tlb() const noexcept { return tlb_; }

 private:
  [[nodiscard]] static bool faults(const WalkResult& walk) noexcept {
    return walk.kind == AccessKind::PageFault || walk.kind == AccessKind::EptViolation;
  }
  [[nodiscard]] AccessResult cached_refusal(unsigned rights, AccessRequest request) const noexcept {
    if (config_.ept) return {AccessKind::EptViolation, Hpa{}, ept_.qualification(rights, request), 0};
    return {AccessKind::PageFault, Hpa{}, x86_.refusal_code(request), 0};
  }
  [[nodiscard]] WalkResult walk_from(std::uint64_t address, AccessRequest request, CpuMode mode, bool implicit,
                                     const TablePointer* start) {
    ++stats_.walks;
    return config_.ept ? ept_.walk(address, request, start) : x86_.walk(address, request, mode, implicit, start);
  }

  CpuConfig config_;
  HwWalker<Memory> x86_;
  EptWalker<Memory> ept_;
  Tlb tlb_;
  CpuStats stats_;
};

}  // namespace shadowmmu::sim
