// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Config has values that make no sense together; see concepts/config.hpp
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
struct Odd : config::Default {
#ifdef CASE_BAD
  static constexpr unsigned kRefillPages = 3;
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, host::Arena, Odd>;

int main() {
  host::Arena arena(16, 64);
  Mmu mmu(arena);
  Mmu::Vcpu vcpu(mmu);
  static_cast<void>(mmu.add_slot(Gfn{0}, 16));
  static_cast<void>(vcpu.handle_fault(Gva{0}, 0));
}
