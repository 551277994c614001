// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Config has values that make no sense together; see concepts/config.hpp
#include "use.hpp"

using namespace shadowmmu;
struct Odd : config::Default {
#ifdef CASE_BAD
  static constexpr EvictionPlan kEviction{.when = EvictionPlan::When::BeforeWalk, .low = 5, .refill = 3};
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, host::Arena, Odd>;

int main() { return use<Mmu>(); }
