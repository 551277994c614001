// SPDX-License-Identifier: BSL-1.0
// expect: nodiscard
// An operation that can fail says so in a value: who does not look at it is told.
#include "use.hpp"

#pragma GCC diagnostic error "-Wunused-result"
using Mmu = shadowmmu::ShadowMmu<shadowmmu::arch::Ept, shadowmmu::lock::None, shadowmmu::reclaim::Default,
                                 shadowmmu::host::Arena>;
bool remove_memory(Mmu& mmu, shadowmmu::SlotId slot) {
#ifdef CASE_BAD
  mmu.remove_slot(slot);
  return true;
#else
  return mmu.remove_slot(slot).ok();
#endif
}
