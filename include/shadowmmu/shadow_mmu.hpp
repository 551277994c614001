// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/arch/x86_64.hpp"
#include "shadowmmu/concepts/legal.hpp"
#include "shadowmmu/config.hpp"
#include "shadowmmu/core/age.hpp"
#include "shadowmmu/core/audit.hpp"
#include "shadowmmu/core/split.hpp"
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
  /// Whether readers need no lock: what Reader::Section asks for.
  static constexpr bool kLockless = State::kLockless;

  /// Effects: an Mmu without memory. Requires: host outlives it; its functions are not called yet. Allocates: nothing.
  explicit Mmu(H& host, const Caps& caps = {}) noexcept : state_(host, caps) {
    check_host();
    core::apply_limit(state_);
  }
  Mmu(const Mmu&) = delete;
  Mmu& operator=(const Mmu&) = delete;
  /// Effects: releases (see `release`) and gives every frame back. Requires: its vCPUs and Readers have ended; a debug
  /// build reports it where not, a release build ends the vCPUs as their destructors would.
  ~Mmu() { destroy(); }

  /// Effects: guest frames [first, first + pages) are memory that the Host backs. Errors: BadRange, Overlap,
  /// TooManySlots, OutOfMemory; then nothing changed. Locking: slots lock, then the lock. Flush: none, but where MMIO
  /// generations are used up with it (then as zap_all_fast). Allocates: 2 frames, 1 a started 128 GiB, 2 a started GiB.
  [[nodiscard]] Result<SlotId> add_slot(Gfn first, std::uint64_t pages, SlotFlags flags = {}) noexcept {
    return relieved([&]() noexcept { return core::add_slot(state_, first, pages, flags); });
  }
  /// Effects: the slot is no memory any more and no entry maps it when this returns; with it goes every shadow page, or
  /// (Config::kSlotRemoval Targeted) only what maps it or shadows tables in it. The Host's memory must be there until
  /// then. Errors: NoSuchSlot, OutOfMemory. Locking: slots lock, then the lock, which is let go on the way. Flush:
  /// done. Complexity: All: O(shadow pages); Targeted: O(pages of the slot that ever were mapped + their entries).
  [[nodiscard]] Status remove_slot(SlotId id) noexcept {
    return relieved([&]() noexcept { return core::remove_slot(state_, id); });
  }
  /// Effects: the slot lies at `first` from now on. Its memory is the Host's answer for the new gfns; until this
  /// returns also for the old ones. Faults on it meanwhile are Retry. Errors: NoSuchSlot, BadRange, Overlap, LogActive,
  /// OutOfMemory; then nothing changed. Locking, flush: as remove_slot.
  [[nodiscard]] Status move_slot(SlotId id, Gfn first) noexcept {
    return relieved([&]() noexcept { return core::place_slot(state_, id, first, 0); });
  }
  /// Effects: the slot has so many pages from now on. As move_slot in all else.
  [[nodiscard]] Status resize_slot(SlotId id, Gfn first, std::uint64_t pages) noexcept {
    if (pages == 0) return Error::BadRange;
    return relieved([&]() noexcept { return core::place_slot(state_, id, first, pages); });
  }
  /// Effects: the slot is read-only, or no longer. Errors: NoSuchSlot. Locking, flush: as zap_slot.
  [[nodiscard]] Status set_slot_flags(SlotId id, SlotFlags flags) noexcept {
    return core::set_slot_flags(state_, id, flags);
  }
  /// Effects: what maps the slot, and what shadows guest tables in it, at the time of the call is gone when this
  /// returns; the slot stays. Errors: NoSuchSlot. Locking: slots lock, then the lock, let go on the way. Flush: done.
  [[nodiscard]] Status zap_slot(SlotId id) noexcept { return core::zap_slot(state_, id); }

  /// Effects: no entry maps a gfn of the range, and none will be installed until the matching end. Calls nest.
  /// Locking: takes the lock, let go on the way. Flush: done. Complexity: O(pages of the range that ever were mapped +
  /// entries).
  void invalidate_begin(Gfn first, std::uint64_t pages) noexcept { core::invalidate_begin(state_, first, pages); }
  /// Effects: the oldest invalidation that has begun is over. Requires: one has begun; a debug build reports it where
  /// not, a release build does nothing then.
  void invalidate_end() noexcept { core::invalidate_end(state_); }
  /// Effects: begin and end in one: the Host has already changed what backs the range.
  void unmap(Gfn first, std::uint64_t pages = 1) noexcept {
    invalidate_begin(first, pages);
    invalidate_end();
  }

  /// Effects: acts on a write to guest memory that the guest's CPU did not make (emulator, DMA), after it was made.
  /// Locking: takes the lock, let go between pages. Flush: done. Complexity: O(pages of slots + their shadow pages).
  void guest_wrote(Gpa gpa, std::uint64_t bytes) noexcept { core::guest_wrote(state_, gpa, bytes); }

  /// Effects: every shadow page is obsolete at once and freed when this returns, but for Config::kDeferredPages that
  /// may still wait for readers (lock::Readers); roots in use as soon as their vCPU has loaded another, which each does
  /// before it enters again. Locking: slots lock, then the lock: for a prologue that is O(vCPUs), and in batches of at
  /// least Config::kYieldPages pages between which it is let go where somebody waits. Ends whatever vCPUs do meanwhile.
  /// Flush: one, after one kick_and_wait. Complexity: O(shadow pages).
  void zap_all_fast() noexcept { core::zap_all_fast(state_); }
  /// Effects: the prologue of zap_all_fast alone: every shadow page is obsolete. They count against the limit until
  /// they are freed, by reclaim (before any other page), by memory pressure, or by reclaim_obsolete. Locking: slots
  /// lock, then the lock. Flush: with their freeing. Complexity: O(vCPUs); where the generation's value would be used
  /// again while a page bears it (after 2^bits calls), such pages are freed first.
  void obsolete_all() noexcept { core::obsolete_all(state_); }
  /// Effects: frees up to `budget` obsolete pages, readers being waited for. Returns: how many. Locking: takes the
  /// lock, lets it go on the way. Flush: done where owed.
  std::uint32_t reclaim_obsolete(std::uint32_t budget) noexcept { return core::reclaim_obsolete(state_, budget); }
  /// Effects: every MMIO entry made so far is invalid. Locking: none; once in 2^(generation bits) calls as
  /// zap_all_fast. Flush: none. Complexity: O(1). Source: KVM, "fast invalidate all mmio sptes" (2013).
  void invalidate_mmio() noexcept { core::MmioGeneration<State>::invalidate(state_); }
  /// Effects: the VM ends: everything is zapped and freed, roots that vCPUs still have loaded as these let them go.
  /// Requires: no vCPU is in the guest, nor enters it meanwhile.
  /// Locking: slots lock, then the lock: held throughout, or let go on the way (Config::kTeardown). Flush: one.
  void release() noexcept { core::release_all(state_); }

  /// Returns: whether a leaf that maps the range was used since clear_young. Locking: takes the lock, let go on the
  /// way. Flush: none, so that uses by way of a TLB may go unseen. Complexity: O(gfns that ever were mapped + entries).
  [[nodiscard]] bool test_young(Gfn first, std::uint64_t pages) noexcept {
    return core::age_range(state_, first, pages, false);
  }
  /// Effects: the leaves of the range look unused from now on. Returns: what test_young would have. As test_young else.
  bool clear_young(Gfn first, std::uint64_t pages) noexcept { return core::age_range(state_, first, pages, true); }

  /// Effects: writes to the slot are logged from now on, and what maps it largely is mapped by 4 KiB pages as it is
  /// written. Errors: NoSuchSlot, LogActive, OutOfMemory; then nothing changed. Allocates: up to 9 frames a started
  /// GiB. Locking: slots lock, then the lock, let go on the way. Flush: done. Complexity: as test_young.
  [[nodiscard]] Status start_dirty_log(SlotId id, DirtyMethod m = DirtyMethod::WriteProtect) noexcept {
    return relieved([&]() noexcept { return core::start_dirty_log(state_, id, m); });
  }
  /// Effects: the log ends; large mappings come back as they are used. Errors: NoSuchSlot, LogInactive. As above else.
  [[nodiscard]] Status stop_dirty_log(SlotId id) noexcept { return core::stop_dirty_log(state_, id); }
  /// Returns: 64-bit words of a slot's log; bit n of word i stands for the slot's gfn 64 i + n.
  [[nodiscard]] static constexpr std::uint64_t dirty_log_words(std::uint64_t pages) noexcept {
    return (pages + 63U) / 64U;
  }
  /// Effects: words [first, first + count) of the log go to `out` and are cleared; whoever copies the pages they name
  /// after this returns misses no write, but of a page whose fault is still under way without the lock (lock::Readers):
  /// the next call names it. Errors: NoSuchSlot, LogInactive, BadRange. Locking: slots lock, then the lock, let go on
  /// the way. Flush: done. Complexity: O(words + pages that were written); by D bits O(gfns).
  [[nodiscard]] Status fetch_dirty_log(SlotId id, std::uint64_t first, std::uint64_t count,
                                       std::uint64_t* out) noexcept {
    return core::take_log(state_,
                          core::LogRequest{.slot = id, .first = first, .count = count, .rearm = true, .out = out});
  }
  /// Effects: the same without clearing: clear_dirty_log follows, right before each page is copied.
  [[nodiscard]] Status read_dirty_log(SlotId id, std::uint64_t first, std::uint64_t count,
                                      std::uint64_t* out) noexcept {
    return core::take_log(state_, core::LogRequest{.slot = id, .first = first, .count = count, .out = out});
  }
  /// Effects: the pages of `mask` in word `word` are clean; their next writes will be seen. Errors, locking, flush: as
  /// fetch_dirty_log.
  [[nodiscard]] Status clear_dirty_log(SlotId id, std::uint64_t word, std::uint64_t mask) noexcept {
    return core::take_log(state_, core::LogRequest{.slot = id, .first = word, .count = 1, .mask = mask, .rearm = true});
  }
  /// Effects: `count` guest physical addresses that hardware logged as written (PML) are in their slots' logs.
  void drain_dirty_buffer(const std::uint64_t* gpas, std::uint64_t count) noexcept {
    core::drain_dirty_buffer(state_, gpas, count);
  }
  /// Effects: large leaves of the slot are split down to 4 KiB now, none evicted for it. Errors: NoSuchSlot,
  /// OutOfMemory (frames or shadow pages ended; the rest is split on demand). Locking: slots lock; the lock for one at
  /// a time.
  [[nodiscard]] Status split_large_pages(SlotId id) noexcept {
    return relieved([&]() noexcept { return core::split_large_pages(state_, id); });
  }
  /// Effects: up to `budget` 2 MiB regions that code had split (Caps::nx_huge) may be mapped large again. Returns: how
  /// many. Locking: takes the lock, let go on the way. Flush: done. To be called now and then.
  std::uint32_t recover_exec_splits(std::uint32_t budget) noexcept { return core::recover_exec_splits(state_, budget); }

  /// Effects: at most n shadow pages from now on, or the least that can work if that is more; excess pages go now.
  /// Soft: a fault or a root load that has begun may exceed it by up to three pages rather than fail.
  /// Returns: that least number. Locking: takes the lock, let go after every 8 pages, fewer full ones. Flush: done, one
  /// each time.
  std::uint32_t set_limit(std::uint32_t n) noexcept { return core::set_limit(state_, n); }
  /// Effects: frees up to n shadow pages, obsolete ones first. Returns: how many. Locking, flush: as set_limit.
  std::uint32_t shrink(std::uint32_t n) noexcept { return core::shrink_by(state_, n); }

  /// What a thread that is no vCPU needs to look at shadow tables, and dirty logs, beside everybody else: by reader
  /// sections where the lock policy has readers (lock::Readers), else under the lock. Used by one thread at a time.
  class Reader {
   public:
    /// Effects: registers the reader. Requires: mmu outlives it. Locking: slots lock, then the lock, O(1).
    explicit Reader(Mmu& mmu) noexcept : state_(mmu.state_) {
      const core::SlotsScope<State> scope(state_);
      const core::ExclusiveGuard<State> g(state_);
      state_.grace.add(record_);
      state_.readers += 1;
    }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    /// Requires: no Section of it is open.
    ~Reader() {
      const core::SlotsScope<State> scope(state_);
      const core::ExclusiveGuard<State> g(state_);
      state_.grace.remove(record_);
      state_.readers -= 1;
    }

    /// Several looks in one section, which cost less than a section each. Nests, also with lookup and translate. While
    /// one is open its thread must not call what takes a lock of this Mmu (lock::Checked reports it) or flushes, the
    /// log and age functions below included, nor wait for a thread that may: unlinked pages wait for it, and at the
    /// bound their writers do.
    class Section {
     public:
      explicit Section(Reader& r) noexcept requires(State::kLockless) : section_(r.state_, r.record_) {}

     private:
      core::ReadSection<State> section_;
    };

    /// Returns: what the shadow tables of the vCPU hold for the address; not present where it has no root now, or only
    /// one that a zap of everything, or its own change of CR3 or role, has ended. Requires: the vCPU is not destroyed
    /// meanwhile. Complexity: O(levels).
    [[nodiscard]] EntryInfo lookup(const Vcpu& vcpu, Gva address) noexcept {
      const core::TableSection<State> section(state_, record_);
      return core::lookup(state_, section, vcpu.v_, address);
    }
    /// Effects: translates as an access of the vCPU would, A and D included, with registers that it had at some moment
    /// of the call. Requires, complexity: as lookup; not from an interrupt that may have stopped the vCPU's own thread,
    /// whose registers are waited for where they are being changed. Locking: a section.
    [[nodiscard]] Translated translate(const Vcpu& vcpu, Gva address, AccessRequest request,
                                       CpuMode mode = {}) noexcept {
      const core::RegisterView view = core::view_registers(state_, vcpu.v_);
      const core::ReadSection<State> section(state_, record_);
      return core::translate(state_, view, section, hint_, address, request, mode);
    }
    /// Effects, errors: as Mmu::fetch_dirty_log, but for a page whose fault is still under way in another thread: it
    /// may be named by this call or the next. Locking: a section for 8 words; the lock for gfns with very many
    /// mappings, and for logs by D bits. Flush: one, done.
    [[nodiscard]] Status fetch_dirty_log(SlotId id, std::uint64_t first, std::uint64_t count,
                                         std::uint64_t* out) noexcept {
      return take({.slot = id, .first = first, .count = count, .rearm = true, .out = out});
    }
    /// Effects, locking: the same without clearing. Flush: none.
    [[nodiscard]] Status read_dirty_log(SlotId id, std::uint64_t first, std::uint64_t count,
                                        std::uint64_t* out) noexcept {
      return take({.slot = id, .first = first, .count = count, .out = out});
    }
    /// Effects: the pages of `mask` in word `word` are clean; their next writes will be seen. As fetch_dirty_log else.
    [[nodiscard]] Status clear_dirty_log(SlotId id, std::uint64_t word, std::uint64_t mask) noexcept {
      return take({.slot = id, .first = word, .count = 1, .mask = mask, .rearm = true});
    }
    /// Returns: as Mmu::test_young. Locking: a section for each 2 MiB. Flush: none.
    [[nodiscard]] bool test_young(Gfn first, std::uint64_t pages) noexcept {
      return core::young_range(state_, record_, first, pages);
    }

   private:
    [[nodiscard]] Status take(const core::LogRequest& r) noexcept { return core::take_log(state_, record_, r); }
    State& state_;
    typename State::Reader record_;
    unsigned hint_ = 0;
  };

  /// Returns: the verdict on every invariant. Locking: takes the lock. Complexity: O(pages * 512).
  [[nodiscard]] AuditReport audit() noexcept {
    const core::ExclusiveGuard<State> g(state_);
    return core::Audit<State>(state_, g).run();
  }
  [[nodiscard]] Counters stats() noexcept {
    const core::ExclusiveGuard<State> g(state_);
    Counters c = state_.stats.snapshot();
    for (const auto& v : state_.vcpus) v.template count_into<typename State::Memory>(c);
    return c;
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
    else if constexpr (!HostNotes<H>)
      static_assert(HostNotes<H>,
                    "shadowmmu: Host lacks public noexcept should_yield() -> bool or wrote(Gfn, pages) "
                    "(concepts/host.hpp)");
  }
  /// An operation that fails for want of frames is tried again as long as obsolete pages can be given back.
  template <class F>
  auto relieved(F&& operation) noexcept {
    for (;;) {
      const auto r = operation();
      if (r.ok() || r.error() != Error::OutOfMemory || !core::relieve(state_)) return r;
    }
  }
  void destroy() noexcept {
    if constexpr (HostComplete<H>) give_everything_back();  // else check_host() has said it: one error is enough
  }
  void give_everything_back() noexcept {
    State& s = state_;
    shadowmmu::detail::require(s.vcpus.empty(), "shadowmmu: an Mmu ends before its vCPU; the vCPU must end first");
    // An Mmu that has no vCPU at all needs no guest memory: where the Host lacks that, one error is enough.
    if constexpr (HostGuestMemory<H>)
      while (!s.vcpus.empty()) core::retire_vcpu(s, s.vcpus.front());
    shadowmmu::detail::require(s.readers == 0, "shadowmmu: an Mmu ends before its Reader; the Reader must end first");
    release();
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
