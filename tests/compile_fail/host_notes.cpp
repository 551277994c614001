// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Host lacks public noexcept should_yield() -> bool or wrote(Gfn, pages) (concepts/host.hpp)
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
struct Vm : host::Arena {
  using Arena::Arena;
#ifdef CASE_BAD
  int should_yield() noexcept { return 0; }
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, Vm>;
int main() {
  Vm vm(16, 64);
  Mmu mmu(vm);
}
