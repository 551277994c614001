// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch lacks kGuests, kRootLevel, kMaxLeafLevel or its bit masks; see concepts/arch.hpp
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
#ifdef CASE_BAD
struct Odd {
  struct Caps {};
};
#else
using Odd = arch::X86_64;
#endif
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() {
  host::Arena arena(16, 64);
  Mmu mmu(arena);
  Mmu::Vcpu vcpu(mmu);
  static_cast<void>(mmu.add_slot(Gfn{0}, 16));
  static_cast<void>(vcpu.handle_fault(Gva{0}, 0));
}
