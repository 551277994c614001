// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Lock::Memory is no memory facade; use memory::Smp, or memory::Up for one thread
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
struct Odd : lock::None {
#ifdef CASE_BAD
  struct Memory {};
#endif
};
using Mmu = ShadowMmu<arch::X86_64, Odd, reclaim::Fifo>;

int main() {
  host::Arena arena(16, 64);
  Mmu mmu(arena);
  Mmu::Vcpu vcpu(mmu);
  static_cast<void>(mmu.add_slot(Gfn{0}, 16));
  static_cast<void>(vcpu.handle_fault(Gva{0}, 0));
}
