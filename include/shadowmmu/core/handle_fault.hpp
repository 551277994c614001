// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/fast_fault.hpp"
#include "shadowmmu/core/fault.hpp"

/// A fault from its beginning to its outcome: without the lock where that is possible, else walk the guest's tables,
/// ask what backs the page, then, under the lock, install one entry.
namespace shadowmmu::core {

/// Effects: notes which of the vCPU's open write windows this fault hits.
template <class S>
void find_windows(Fault<S>& f) noexcept {
  if (S::Memory::plain(f.s.window_owner) == 0) return;
  for (const WriteWindow& w : f.v.window) {
    if (!w.open || w.gfn != f.walk.gfn) continue;
    if (w.supervisor_write)
      f.supervisor_window = f.supervisor_window || (w.address.value() ^ f.address.value()) < kPageSize;
    if (w.tracked) f.window = true;
  }
}

/// What a fault comes to once the guest's tables and the Host have been asked.
struct Resolved {
  enum class Next : std::uint8_t { Answer, RememberMmio, Install } next = Next::Answer;
  FaultOutcome answer{};
  std::uint64_t Counters::*counter = nullptr;  ///< what the answer counts as, if anything

  [[nodiscard]] static Resolved as(FaultOutcome o, std::uint64_t Counters::*which = nullptr) noexcept {
    return {Next::Answer, o, which};
  }
};

/// Effects: the part of a fault that needs no lock: walks, finds the slot, asks what backs the page. Locking: a
/// section.
template <class S>
[[nodiscard]] Resolved resolve(Fault<S>& f, bool smap_enforced) noexcept {
  using Kind = FaultOutcome::Kind;
  S& s = f.s;
  auto& v = f.v;
  const AccessRequest request = f.request;
  if (walk_guest(s, v, *f.slots, v.slot_hint, f.address, request, smap_enforced, f.walk) == guest::WalkEnd::Fault)
    return Resolved::as(FaultOutcome::inject(PageFault{f.address, f.walk.error_code}), &Counters::faults_guest);
  f.granted = f.walk.rights;
  const Gpa gpa = address_of(f.walk.gfn) + (f.address.value() & kPageMask);
  const FaultOutcome mmio = FaultOutcome::at(Kind::Mmio, gpa, request);
  f.slot = f.slots->find(f.walk.gfn, v.slot_hint);
  if (f.slot == nullptr) {
    // Memory that is moving is memory all the same: the vCPU tries again until it has arrived, or is gone.
    if (f.slots->retiring(f.walk.gfn)) return Resolved::as(FaultOutcome::of(Kind::Retry), &Counters::faults_retried);
    return {Resolved::Next::RememberMmio, mmio, nullptr};
  }
  if (request.write && f.slot->read_only()) return Resolved::as(mmio, &Counters::faults_mmio);
  f.backing = s.host.backing(f.walk.gfn, request.write);
  switch (f.backing.kind) {
    case Backing::Kind::None:
      return Resolved::as(mmio, &Counters::faults_mmio);
    case Backing::Kind::Pending: {
      FaultOutcome o = FaultOutcome::at(Kind::Pending, gpa, request);
      o.token = f.backing.token;
      return Resolved::as(o, &Counters::faults_retried);
    }
    case Backing::Kind::Poisoned:
      return Resolved::as(FaultOutcome::at(Kind::HostError, gpa, request));
    case Backing::Kind::ReadOnly:
      if (request.write) return Resolved::as(mmio, &Counters::faults_mmio);
      f.backing.writable = false;
      break;
    case Backing::Kind::Memory:
    case Backing::Kind::Device:
      if (request.write && !f.backing.writable) return Resolved::as(FaultOutcome::at(Kind::HostError, gpa, request));
      break;
  }
  if (!addressable(s, f.backing)) return Resolved::as(FaultOutcome::at(Kind::HostError, gpa, request));
  find_windows(f);
  if (!rewrite_for_wp(f)) {
    FaultOutcome o = FaultOutcome::at(Kind::Emulate, gpa, request);
    o.address = f.address.value();
    o.reason = EmulateReason::SupervisorWrite;
    return Resolved::as(o, &Counters::faults_emulated);
  }
  return {Resolved::Next::Install, {}, nullptr};
}

/// Effects: answers a hardware fault of v. Locking: takes the Mmu's lock, once where the root is ready, in no section.
/// Allocates: before.
template <class S>
[[nodiscard]] FaultOutcome handle_fault(S& s, typename S::Vcpu& v, Gva address, AccessRequest request,
                                        std::uint32_t error_code, bool smap_enforced) noexcept {
  using Kind = FaultOutcome::Kind;
  if (!ensure_root(s, v)) return FaultOutcome::of(Kind::OutOfMemory);
  const std::uint64_t mmio_generation = MmioGeneration<S>::now(s);
  if (may_be_mmio(s, error_code)) {
    Gpa at;
    if (last_mmio_hit(s, v, address, request, smap_enforced, at)) {
      S::Memory::plain(v.mmio_cached, S::Memory::plain(v.mmio_cached) + 1);
      return FaultOutcome::at(Kind::Mmio, at, request);
    }
    if (check_mmio(s, v, address, request, smap_enforced, at) == MmioCheck::Hit)
      return FaultOutcome::at(Kind::Mmio, at, request);
  }
  if (may_be_fast<S>(v, request, error_code)) {
    const ReadSection<S> section(s, v.reader);
    if (fast_fault(s, v, section, address)) {
      S::Memory::plain(v.fast_faults, S::Memory::plain(v.fast_faults) + 1);
      return FaultOutcome::of(Kind::Resume);
    }
  }
  if (!v.magazine.ready() && !supply(s, v)) return FaultOutcome::of(Kind::OutOfMemory);
  Fault<S> f(s, v, address, request);
  f.mmio_generation = mmio_generation;
  f.smap_lifted = v.paging.smap() && !smap_enforced && !request.user && !request.fetch &&
                  (error_code & (pferr::kPresent | pferr::kReserved)) == pferr::kPresent;
  const Resolved r = [&]() noexcept {
    const ReadSection<S> section(s, v.reader);
    hint_path(s, v, address);  // the guest's tables are walked meanwhile
    f.look_at(section.slots());
    f.invalidate_seq = S::Memory::template load<Order::Acquire>(s.invalidate_seq);
    return resolve(f, smap_enforced);
  }();
  switch (r.next) {
    case Resolved::Next::Install:
      return install(f);
    case Resolved::Next::RememberMmio:
      remember_mmio(f);
      return r.answer;
    case Resolved::Next::Answer:
      break;
  }
  if (r.counter != nullptr) {
    const ExclusiveGuard<S> g(s);
    s.stats.add(&Counters::faults);
    s.stats.add(r.counter);
  }
  return r.answer;
}

}  // namespace shadowmmu::core
