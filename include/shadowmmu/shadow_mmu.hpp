// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/arch/x86_64.hpp"
#include "shadowmmu/concepts/legal.hpp"
#include "shadowmmu/config.hpp"
#include "shadowmmu/core/audit.hpp"
#include "shadowmmu/core/slot_ops.hpp"
#include "shadowmmu/core/state.hpp"
#include "shadowmmu/lock/none.hpp"
#include "shadowmmu/reclaim/fifo.hpp"
#include "shadowmmu/result.hpp"
#include "shadowmmu/vcpu.hpp"

namespace shadowmmu {

namespace host {
class Arena;  // user space: <shadowmmu/host/arena.hpp>
}

namespace detail {

/// The Mmu proper, for policies that were found legal. Layout and class body do not depend on Host, so that
/// `struct Vm { ShadowMmu<A, L, R, Vm> mmu{*this}; };` works.
template <class A, class L, class R, class H, class C>
class Mmu {
 public:
  using State = core::State<A, L, R, H, C>;
  using Caps = typename A::Caps;
  using Arch = A;
  using Vcpu = BasicVcpu<Mmu>;
  template <class>
  friend class shadowmmu::BasicVcpu;

  /// Effects: an Mmu without memory. Requires: host outlives it; its functions are not called yet. Allocates: nothing.
  explicit Mmu(H& host, const Caps& caps = {}) noexcept : state_(host, caps) {
    check_host();
    core::apply_limit(state_);
  }
  Mmu(const Mmu&) = delete;
  Mmu& operator=(const Mmu&) = delete;
  /// Effects: zaps everything and gives every frame back. Requires: no vCPU is registered any more. Holds the lock
  /// throughout: nobody can wait for it.
  ~Mmu() { destroy(); }

  /// Effects: guest frames [first, first + pages) are memory that the Host backs. Errors: BadRange, Overlap,
  /// TooManySlots, OutOfMemory; then nothing changed. Locking: slots lock, then the lock. Allocates: 2 frames, 1 a
  /// started 128 GiB, 2 a started GiB.
  [[nodiscard]] Result<SlotId> add_slot(Gfn first, std::uint64_t pages, SlotFlags flags = {}) noexcept {
    return core::add_slot(state_, first, pages, flags);
  }
  /// Effects: the slot is no memory any more and no entry maps it when this returns. Errors: NoSuchSlot, OutOfMemory.
  /// Locking: slots lock, then the lock. Flush: done. Complexity: O(shadow pages).
  [[nodiscard]] Status remove_slot(SlotId id) noexcept { return core::remove_slot(state_, id); }

  /// Effects: no entry maps a gfn of the range, and none will be installed until the matching end. Calls nest.
  /// Locking: takes the lock. Flush: done. Complexity: O(pages of the range that ever were mapped + entries).
  void invalidate_begin(Gfn first, std::uint64_t pages) noexcept { core::invalidate_begin(state_, first, pages); }
  void invalidate_end() noexcept { core::invalidate_end(state_); }
  /// Effects: begin and end in one: the Host has already changed what backs the range.
  void unmap(Gfn first, std::uint64_t pages = 1) noexcept {
    invalidate_begin(first, pages);
    invalidate_end();
  }

  /// Effects: acts on a write to guest memory that the guest's CPU did not make (emulator, DMA), after it was made.
  /// Requires: bytes > 0. Locking: takes the lock. Flush: done. Complexity: O(shadow pages of the frame).
  void guest_wrote(Gpa gpa, std::uint64_t bytes) noexcept {
    core::ExclusiveGuard<State> g(state_);
    while (bytes != 0) {
      const auto offset = static_cast<unsigned>(gpa.value() & kPageMask);
      const std::uint64_t here = bytes < kPageSize - offset ? bytes : kPageSize - offset;
      core::note_write(state_, g, frame_of(gpa), offset, static_cast<unsigned>(here));
      gpa = gpa + here;
      bytes -= here;
    }
  }

  /// Effects: every shadow page is zapped and freed, roots in use as soon as their vCPU has loaded another, which each
  /// does before it enters again. Locking: slots lock, then the lock held throughout. Flush: done. Complexity: O(shadow
  /// pages).
  void zap_all() noexcept {
    const core::SlotsScope<State> scope(state_);
    core::ExclusiveGuard<State> g(state_);
    core::begin_generation(state_, g);
    while (core::zap_obsolete(state_, g, 64) != 0) {
    }
  }
  /// Effects: at most n shadow pages from now on, or the least that can work if that is more; excess pages go now.
  /// Soft: a fault or a root load that has begun may exceed it by up to three pages rather than fail.
  /// Returns: that least number. Locking: takes the lock. Flush: done.
  std::uint32_t set_limit(std::uint32_t n) noexcept {
    core::ExclusiveGuard<State> g(state_);
    state_.wanted_limit = n == 0 ? 1 : n;
    core::apply_limit(state_);
    static_cast<void>(core::evict(state_, g, 0));
    return core::least_limit(state_);
  }
  /// Effects: frees up to n shadow pages, obsolete ones first. Returns: how many. Flush: done.
  std::uint32_t shrink(std::uint32_t n) noexcept {
    core::ExclusiveGuard<State> g(state_);
    return core::evict(state_, g, std::uint64_t{core::available_pages(state_)} + n);
  }

  /// Returns: the verdict on every invariant. Locking: takes the lock. Complexity: O(pages * 512).
  [[nodiscard]] AuditReport audit() noexcept {
    const core::ExclusiveGuard<State> g(state_);
    return core::Audit<State>(state_, g).run();
  }
  [[nodiscard]] Counters stats() noexcept {
    const core::ExclusiveGuard<State> g(state_);
    return state_.stats.snapshot();
  }
  /// Returns: the limit in force. Locking: takes the lock.
  [[nodiscard]] std::uint32_t limit() noexcept {
    const core::ExclusiveGuard<State> g(state_);
    return state_.limit;
  }
  /// Returns: 4 KiB frames of metadata in use, hardware tables, slots and vCPU magazines excluded.
  /// Locking: takes the lock.
  [[nodiscard]] std::uint32_t metadata_frames() noexcept {
    const core::ExclusiveGuard<State> g(state_);
    return state_.pages.frames() + state_.cells.frames() + state_.hash.frames() + state_.side_frames;
  }

 private:
  static void check_host() noexcept {
    if constexpr (!HostComplete<H>)
      static_assert(HostComplete<H>,
                    "shadowmmu: Host is an incomplete type here; for host::Arena include <shadowmmu/host/arena.hpp>");
    else if constexpr (!HostFrames<H>)
      static_assert(HostFrames<H>,
                    "shadowmmu: Host lacks public noexcept alloc_frame(FrameKind) -> Result<Hpa> or free_frame(Hpa) "
                    "(concepts/host.hpp)");
    else if constexpr (!HostAddresses<H>)
      static_assert(HostAddresses<H>,
                    "shadowmmu: Host lacks public noexcept to_virt(Hpa) -> void* or to_phys(const void*) -> Hpa "
                    "(concepts/host.hpp)");
    else if constexpr (!HostGuestMemory<H>)
      static_assert(HostGuestMemory<H>,
                    "shadowmmu: Host lacks public noexcept guest_page(Gfn) or guest_exchange(Gpa, bytes, old, new) "
                    "(concepts/host.hpp)");
    else if constexpr (!HostBacking<H>)
      static_assert(HostBacking<H>,
                    "shadowmmu: Host lacks public noexcept backing(Gfn, bool) -> Backing (concepts/host.hpp)");
    else if constexpr (!HostFlush<H>)
      static_assert(HostFlush<H>,
                    "shadowmmu: Host lacks public noexcept flush(const FlushRequest&) or kick_and_wait(VcpuId) "
                    "(concepts/host.hpp)");
  }
  void destroy() noexcept {
    if constexpr (HostComplete<H>) give_everything_back();  // else check_host() has said it: one error is enough
  }
  void give_everything_back() noexcept {
    zap_all();
    State& s = state_;
    s.drain();
    for (unsigned i = 0; i < s.snapshot->count(); ++i) s.snapshot->at(i)->destroy(s.host);
    core::free_snapshot(s, s.snapshot);
    if (s.dummy_root != nullptr) s.host.free_frame(s.host.to_phys(s.dummy_root));
  }

  State state_;
};

/// A legal stand-in takes the place of an illegal combination, so that the one sentence is the one error.
template <Rule F, class A, class L, class R, class H, class C>
struct Pick {
  [[maybe_unused]] static constexpr Explain<F> kWhy{};
  using Type = Mmu<arch::X86_64, lock::None, reclaim::Fifo, H, config::Default>;
};
template <class A, class L, class R, class H, class C>
struct Pick<Rule::Ok, A, L, R, H, C> {
  using Type = Mmu<A, L, R, H, C>;
};

}  // namespace detail

/// A shadow MMU: guest page tables in, hardware page tables out. Arch: shadow format and the guests under it. Lock:
/// exclusion and memory access. Reclaim: order of eviction. Host: the embedder's environment. Config: the rest.
template <class Arch, class Lock, class Reclaim, class Host = host::Arena, class Config = config::Default>
class ShadowMmu
    : public detail::Pick<detail::diagnose<Arch, Lock, Reclaim, Config>(), Arch, Lock, Reclaim, Host, Config>::Type {
  using Base =
      typename detail::Pick<detail::diagnose<Arch, Lock, Reclaim, Config>(), Arch, Lock, Reclaim, Host, Config>::Type;

 public:
  using Base::Base;
};

}  // namespace shadowmmu
