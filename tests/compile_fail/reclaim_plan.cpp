// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Reclaim::kPlan leaves no room for a fault: BeforeWalk needs refill > low >= 5; see
// eviction_plan.hpp
#include "use.hpp"

using namespace shadowmmu;
struct Odd : reclaim::Fifo {
#ifdef CASE_BAD
  static constexpr EvictionPlan kPlan{.when = EvictionPlan::When::BeforeWalk};
#else
  static constexpr EvictionPlan kPlan{.when = EvictionPlan::When::BeforeWalk, .refill = 6};
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, Odd>;

int main() { return use<Mmu>(); }
