// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>

#include "shadowmmu/concepts/arch.hpp"
#include "shadowmmu/concepts/config.hpp"
#include "shadowmmu/concepts/host.hpp"
#include "shadowmmu/concepts/lock.hpp"
#include "shadowmmu/concepts/reclaim.hpp"

/// One line for each way to combine policies wrongly. To add a rule: an enumerator, a branch, a sentence, a test in
/// tests/compile_fail.
namespace shadowmmu::detail {

enum class Rule : unsigned char {
  Ok,
  ArchGeometry,
  ArchOverlap,
  ArchKeys,
  ArchEntries,
  ArchMmio,
  LockExclusion,
  LockMemory,
  LockTokens,
  LockReaders,
  ReclaimCore,
  ReclaimCallable,
  ReclaimDeclared,
  ReclaimPlan,
  ReclaimSize,
  Config,
  ConfigMmio,
};

/// Room for a policy's state in the two cache lines of a shadow page.
inline constexpr std::size_t kMaxPageState = 24;

/// Readers are other threads; the memory facade of a lock for one thread has no atomics for them.
template <class L>
concept ReadersOfOneThread = requires {
  typename L::GracePolicy;
}
&&!L::Memory::kManyAgents;

template <class A, class L, class R, class C>
consteval Rule diagnose() {
  if constexpr (!ArchGeometry<A>)
    return Rule::ArchGeometry;
  else if constexpr (!ArchDisjoint<A>)
    return Rule::ArchOverlap;
  else if constexpr (!ArchKeysClear<A>)
    return Rule::ArchKeys;
  else if constexpr (!ArchEntries<A>)
    return Rule::ArchEntries;
  else if constexpr (!ArchMmio<A>)
    return Rule::ArchMmio;
  else if constexpr (!LockExclusion<L>)
    return Rule::LockExclusion;
  else if constexpr (!LockMemory<L>)
    return Rule::LockMemory;
  else if constexpr (!LockTokens<L>)
    return Rule::LockTokens;
  else if constexpr (ReadersOfOneThread<L>)
    return Rule::LockReaders;
  else if constexpr (!ReclaimCore<R>)
    return Rule::ReclaimCore;
  else if constexpr (!ReclaimHooksCallable<R>)
    return Rule::ReclaimCallable;
  else if constexpr (!ReclaimHooksDeclared<R>)
    return Rule::ReclaimDeclared;
  else if constexpr (!ReclaimPlanSane<R>)
    return Rule::ReclaimPlan;
  else if constexpr (sizeof(typename R::PageState) > kMaxPageState)
    return Rule::ReclaimSize;
  else if constexpr (!ConfigSane<C>)
    return Rule::Config;
  else if constexpr (C::kMmioGenerationBits > A::kMmioGenerationBits)
    return Rule::ConfigMmio;
  else
    return Rule::Ok;
}

template <Rule R>
struct Explain {
  static_assert(R != Rule::ArchGeometry,
                "shadowmmu: Arch lacks kGuests, kRootLevel, kMaxLeafLevel or its bit masks; see concepts/arch.hpp");
  static_assert(R != Rule::ArchOverlap,
                "shadowmmu: Arch::kSoftwareBits overlaps kHardwareBits or kAddressBits; move the software bits");
  static_assert(R != Rule::ArchKeys,
                "shadowmmu: Arch::kSoftwareBits uses bits 62:59, where protection keys live; move the software bits");
  static_assert(R != Rule::ArchEntries,
                "shadowmmu: Arch lacks a noexcept entry function of concepts/arch.hpp (present, leaf, make_leaf, ...)");
  static_assert(
      R != Rule::ArchMmio,
      "shadowmmu: Arch's MMIO entries lack a function of concepts/arch.hpp, have a generation of fewer than 19 "
      "bits, or parts that overlap");
  static_assert(
      R != Rule::LockExclusion,
      "shadowmmu: Lock lacks public noexcept lock(), unlock() or contended() const; add them or mark them noexcept");
  static_assert(R != Rule::LockMemory,
                "shadowmmu: Lock::Memory is no memory facade; use memory::Smp, or memory::Up for one thread");
  static_assert(
      R != Rule::LockTokens,
      "shadowmmu: Lock lacks Token, token() or verify(Token); an empty struct and two empty functions will do");
  static_assert(R != Rule::LockReaders,
                "shadowmmu: Lock is lock::Readers over a lock for one thread, whose memory no other thread may read; "
                "use lock::Readers<lock::Spin>, or the lock alone");
  static_assert(R != Rule::ReclaimCore,
                "shadowmmu: Reclaim lacks PageState, kHooks, or public noexcept on_create, on_remove or victim; see "
                "concepts/reclaim.hpp");
  static_assert(R != Rule::ReclaimCallable,
                "shadowmmu: Reclaim declares a hook in kHooks that it lacks or whose signature differs; see "
                "concepts/reclaim.hpp");
  static_assert(
      R != Rule::ReclaimDeclared,
      "shadowmmu: Reclaim has a hook that kHooks does not declare, so it would never be called; add it to kHooks");
  static_assert(R != Rule::ReclaimPlan,
                "shadowmmu: Reclaim::kPlan leaves no room for a fault: BeforeWalk needs refill > low >= 5; see "
                "eviction_plan.hpp");
  static_assert(R != Rule::ReclaimSize,
                "shadowmmu: Reclaim::PageState is larger than 24 bytes, which breaks the two-line shadow page; keep "
                "state elsewhere");
  static_assert(R != Rule::Config, "shadowmmu: Config has values that make no sense together; see concepts/config.hpp");
  static_assert(R != Rule::ConfigMmio,
                "shadowmmu: Config::kMmioGenerationBits is more than the format has; 0 takes all of them");
  static constexpr bool kDone = true;
};

}  // namespace shadowmmu::detail
