// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/handle_fault.hpp"
#include "shadowmmu/core/lookup.hpp"
#include "shadowmmu/core/registration.hpp"
#include "shadowmmu/core/slot_ops.hpp"
#include "shadowmmu/core/window.hpp"

namespace shadowmmu {

/// One virtual CPU: its control registers, roots and faults. Used by one thread at a time.
template <class Mmu>
class BasicVcpu {
  using State = typename Mmu::State;
  friend Mmu;

 public:
  /// Effects: registers a vCPU in reset state (paging off, or direct under a second-level format). Requires: mmu
  /// outlives it; `id` is unused (a debug build reports both). Locking: slots lock, then the Mmu's lock. Allocates:
  /// nothing.
  explicit BasicVcpu(Mmu& mmu, VcpuId id = VcpuId{0}) noexcept : mmu_(mmu) { core::register_vcpu(state(), v_, id); }
  BasicVcpu(const BasicVcpu&) = delete;
  BasicVcpu& operator=(const BasicVcpu&) = delete;
  /// Effects: closes its windows, drops its roots and gives its frames back. Requires: not in the guest.
  ~BasicVcpu() {
    if (v_.registered) core::retire_vcpu(state(), v_);  // else the Mmu died first, and took it along
  }

  /// Effects: the guest's CR0, CR4 and EFER are now `c`. Returns: InjectGp where hardware would refuse (no paging mode,
  /// reserved PDPTE bits, LA57/PKE/PKS), with nothing changed. Locking: none. Flush: done where the architecture
  /// flushes.
  ControlOutcome set_control(const Controls& c) noexcept { return core::set_control(state(), v_, c); }
  /// Effects: the guest wrote CR3, even if the same value. Bit 63 (with PCIDE) keeps translations
  /// where the very CR3 that is loaded is loaded again, and nothing else. Returns: InjectGp for reserved bits or
  /// PDPTEs, with nothing changed. Locking: none. Flush: done unless kept.
  ControlOutcome set_cr3(std::uint64_t cr3) noexcept { return core::set_cr3(state(), v_, cr3); }
  [[nodiscard]] const Controls& controls() const noexcept { return v_.controls; }
  [[nodiscard]] std::uint64_t cr3() const noexcept { return v_.cr3; }

  /// Effects: makes the root ready. Must return Enter right before each run of guest code; hw_state() is valid then.
  /// Returns: Retry while another vCPU has a write window open; OutOfMemory. Locking: takes the lock if there is work.
  EnterOutcome enter() noexcept {
    const std::uint64_t owner = State::Memory::template load<memory::Order::Relaxed>(state().window_owner);
    if (owner != 0 && owner != v_.number) return EnterOutcome::Retry;
    return core::ensure_root(state(), v_) ? EnterOutcome::Enter : EnterOutcome::OutOfMemory;
  }
  /// Effects: guest code has stopped. Locking: none.
  void exit() noexcept {}
  /// Returns: registers for the hardware; load CR3 anew whenever it differs or a flush was asked for (under a
  /// second-level format `cr3` is the EPT pointer). Requires: enter() returned Enter.
  [[nodiscard]] HwState hw_state() const noexcept { return core::hw_state(mmu_.state_, v_); }

  /// Effects: answers a page fault (x86: CR2 and error code) or second-level violation (address, and the access as a
  /// page-fault code). Returns: what to do; see FaultOutcome. Locking: takes the lock. Flush: done. Allocates: up to
  /// 25 frames before the lock, twice that and one below 4 GiB where a root must be loaded first. Complexity:
  /// O(levels), plus eviction at the limit.
  [[nodiscard]] FaultOutcome handle_fault(Gva address, std::uint32_t error_code, CpuMode mode = {}) noexcept {
    const AccessRequest r{(error_code & pferr::kWrite) != 0, (error_code & pferr::kFetch) != 0,
                          (error_code & pferr::kUser) != 0};
    return core::handle_fault(state(), v_, address, r, error_code, guest::Paging::smap_enforced(mode));
  }
  /// Effects: translates as the guest's own access would, A and D included. Locking: none.
  Translated translate(Gva address, AccessRequest request, CpuMode mode = {}) noexcept {
    const core::ReadSection<State> section(state(), v_.reader);
    return core::translate(state(), v_, section, v_.slot_hint, address, request, mode);
  }

  /// Effects: the guest executed INVLPG. Locking: takes the lock. Flush: done (this vCPU, this page).
  void invlpg(Gva address) noexcept { core::invlpg(state(), v_, address); }
  /// Effects: the guest flushed everything (CR4.PGE toggled, INVPCID of all). Locking: none. Flush: done.
  void flush() noexcept { core::guest_flush(state(), v_); }

  /// Effects: lets this vCPU carry out, by single-stepping one instruction, the write that `emulate` is about; others
  /// are held out of the guest. Several windows may be open for an instruction that writes several tables.
  /// Errors: WindowBusy, NotBacked, OutOfMemory. Locking: takes the lock. Allocates: 1 frame once.
  [[nodiscard]] Status begin_write_window(const FaultOutcome& emulate) noexcept {
    return core::begin_window(state(), v_, emulate);
  }
  /// Effects: closes all windows and acts on what the instruction changed. Locking: takes the lock. Flush: done.
  void end_write_windows() noexcept { core::end_windows(state(), v_); }

  /// Returns: what the shadow tables hold for the address. Locking: a section, or (where the lock policy has no
  /// readers) the lock. Complexity: O(levels).
  [[nodiscard]] EntryInfo lookup(Gva address) noexcept {
    const core::TableSection<State> section(state(), v_.reader);
    return core::lookup(state(), section, v_, address);
  }
  [[nodiscard]] VcpuId id() const noexcept { return v_.id; }

 private:
  [[nodiscard]] State& state() noexcept { return mmu_.state_; }
  Mmu& mmu_;
  typename State::Vcpu v_;
};

}  // namespace shadowmmu
