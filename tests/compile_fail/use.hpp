// SPDX-License-Identifier: BSL-1.0
#pragma once
// What every case does with its Mmu: enough to instantiate the whole of it.
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

template <class Mmu>
int use() {
  shadowmmu::host::Arena arena(16, 64);
  Mmu mmu(arena);
  typename Mmu::Vcpu vcpu(mmu);
  static_cast<void>(mmu.add_slot(shadowmmu::Gfn{0}, 16));
  return static_cast<int>(vcpu.handle_fault(shadowmmu::Gva{0}, 0).kind);
}
