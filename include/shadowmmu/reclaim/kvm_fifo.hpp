// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/fifo.hpp"

namespace shadowmmu::reclaim {

/// FIFO as KVM does it: before a fault, when fewer than `Low` pages are left under the limit, the oldest go until
/// `Refill` are, whatever the fault is about to walk through. With a small limit the batch empties much of the cache.
/// Source: Linux, KVM_MIN_FREE_MMU_PAGES and KVM_REFILL_PAGES. Cost: as Fifo's; a batch is one flush.
template <std::uint16_t Low = 5, std::uint16_t Refill = 25, EvictionPlan::When When = EvictionPlan::When::BeforeWalk>
class KvmFifo : public Fifo {
 public:
  static constexpr EvictionPlan kPlan{.when = When, .low = Low, .refill = Refill};
  static_assert(plan_sane(kPlan));
};
static_assert(Reclaim<KvmFifo<>> && ReclaimPlans<KvmFifo<>>);

}  // namespace shadowmmu::reclaim
