// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/roots.hpp"

/// MMIO entries: "nobody's memory here" remembered in the shadow tables, all forgotten at once by a generation.
/// State::mmio_generation counts up for ever in its low 63 bits; entries bear the low bits of it that fit, a vCPU's
/// last MMIO page all. Bit 63 says that an update is in progress: then nothing is remembered nor believed.
///
/// The word needs no order of its own. What an update changes, it changes under the Mmu's lock, before the generation
/// that says so. A fault that has read that generation takes the lock later than the update did: were it earlier, the
/// fault would have read what was stored after. So if it went by the old slots it finds them changed, and after a wrap
/// it finds its root obsolete: then it remembers nothing. The last page of a vCPU is believed by the whole count,
/// without the lock: coherence is enough. Whoever tells a vCPU by other means that memory has come orders that himself.
namespace shadowmmu::core {

template <class S>
class MmioGeneration {
 public:
  static constexpr std::uint64_t kInProgress = std::uint64_t{1} << 63U;
  static constexpr unsigned kBits =
      S::Config::kMmioGenerationBits == 0 ? S::Arch::kMmioGenerationBits : S::Config::kMmioGenerationBits;
  static constexpr std::uint32_t kMask = static_cast<std::uint32_t>((std::uint64_t{1} << kBits) - 1);

  [[nodiscard]] static std::uint64_t now(S& s) noexcept {
    return S::Memory::template load<Order::Relaxed>(s.mmio_generation);
  }
  /// What an entry bears.
  [[nodiscard]] static constexpr std::uint32_t stored(std::uint64_t g) noexcept {
    return static_cast<std::uint32_t>(g) & kMask;
  }
  [[nodiscard]] static constexpr bool stable(std::uint64_t g) noexcept { return (g & kInProgress) == 0; }

  /// Effects: every MMIO entry made so far is invalid. Locking: none; once in 2^kBits calls the slots lock and the
  /// Mmu's, to purge. Complexity: O(1); the purge O(shadow pages).
  static void invalidate(S& s) noexcept {
    std::uint64_t g = S::Memory::template load<Order::Relaxed>(s.mmio_generation);
    for (;;) {
      if (!stable(g)) return;  // what exists is not believed now and bears an old generation afterwards
      if (stored(g + 1) == 0) {
        const SlotsScope<S> scope(s);
        begin(s);
        end(s);
        return;
      }
      if (S::Memory::template compare_exchange<Order::Relaxed>(s.mmio_generation, g, g + 1)) return;
    }
  }
  /// Effects: memslots are about to change: MMIO entries are neither made nor believed until `end`. Requires: the slots
  /// lock.
  static void begin(S& s) noexcept {
    std::uint64_t g = S::Memory::template load<Order::Relaxed>(s.mmio_generation);
    while (!S::Memory::template compare_exchange<Order::Relaxed>(s.mmio_generation, g, g | kInProgress)) {
    }
  }
  /// Effects: MMIO entries made before are invalid. Where the stored bits start over, those of the old generation 0
  /// would be believed again: everything is zapped first, and the flag stays until that is done.
  static void end(S& s) noexcept {
    const std::uint64_t g = S::Memory::template load<Order::Relaxed>(s.mmio_generation) & ~kInProgress;
    if (stored(g + 1) == 0) zap_pages(s);
    S::Memory::template store<Order::Relaxed>(s.mmio_generation, g + 1);
  }

 private:
  static void zap_pages(S& s) noexcept {
    {
      ExclusiveGuard<S> g(s);
      Generations<S>::begin(s, g);
      s.stats.add(&Counters::mmio_wraps);
    }
    Generations<S>::cover(s);
    Generations<S>::finish(s);
  }
};

/// Whether the request is one that an MMIO entry with these rights answers: nothing to refuse, no D bit to set.
template <class S>
[[nodiscard]] bool mmio_allows(const typename S::Vcpu& v, Access have, AccessRequest r, bool smap_enforced) noexcept {
  return (!r.write || have.write()) && !v.paging.refuses(have, r, smap_enforced);
}

/// Whether an MMIO entry may have caused a fault with this code: by its reserved bit, or, on a CPU that has none to
/// spare, by not being present, which nearly every fault is.
template <class S>
[[nodiscard]] bool may_be_mmio(S& s, std::uint32_t error_code) noexcept {
  if (S::Arch::mmio_reported(s.caps)) return (error_code & pferr::kReserved) != 0;
  return (error_code & pferr::kPresent) == 0 && S::Memory::plain(s.mmio_entries) != 0;
}

/// The page whose MMIO access a vCPU faulted on last: answered without a walk and without the lock.
template <class S>
[[nodiscard]] bool last_mmio_hit(S& s, const typename S::Vcpu& v, Gva a, AccessRequest request, bool smap_enforced,
                                 Gpa& gpa) noexcept {
  const LastMmio& l = v.mmio;
  if (l.page != a.value() >> kPageShift || l.generation != MmioGeneration<S>::now(s)) return false;
  if (!mmio_allows<S>(v, l.access, request, smap_enforced)) return false;
  gpa = address_of(l.gfn) + (a.value() & kPageMask);
  return true;
}

/// What the shadow tables say about an address that faulted as MMIO would.
enum class MmioCheck : std::uint8_t {
  Hit,    ///< an MMIO entry of the current generation that allows the access
  Stale,  ///< one of an earlier generation, or met during an update: to be made again by the whole walk
  Other,  ///< rights that need the whole walk, or no MMIO entry (any more)
};

template <class S>
[[nodiscard]] MmioCheck check_mmio(S& s, typename S::Vcpu& v, Gva a, AccessRequest request, bool smap_enforced,
                                   Gpa& gpa) noexcept {
  const ExclusiveGuard<S> g(s);
  const std::uint64_t generation = MmioGeneration<S>::now(s);
  const auto counted = [&s](MmioCheck c) noexcept {
    s.stats.add(c == MmioCheck::Hit ? &Counters::mmio_hits : &Counters::mmio_stale);
    if (c == MmioCheck::Hit) s.stats.add(&Counters::faults);
    if (c == MmioCheck::Hit) s.stats.add(&Counters::faults_mmio);
    return c;
  };
  auto* p = root_stale(s, v) ? nullptr : root_page(s, v, a);
  while (p != nullptr) {
    const unsigned i = p->role.level().index(a.value());
    const std::uint64_t e = entry<S>(*p, i);
    if (S::Arch::mmio(e)) {
      const MmioSpec m = S::Arch::read_mmio(s.caps, e);
      if (!MmioGeneration<S>::stable(generation) || m.generation != MmioGeneration<S>::stored(generation))
        return counted(MmioCheck::Stale);
      if (!mmio_allows<S>(v, m.access, request, smap_enforced)) return MmioCheck::Other;
      v.mmio = LastMmio{generation, a.value() >> kPageShift, m.gfn, m.access};
      gpa = address_of(m.gfn) + (a.value() & kPageMask);
      return counted(MmioCheck::Hit);
    }
    p = child_of(s, *p, i);
  }
  return MmioCheck::Other;
}

}  // namespace shadowmmu::core
