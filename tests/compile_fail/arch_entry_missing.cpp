// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch lacks a noexcept entry function of concepts/arch.hpp (present, leaf, make_leaf, ...)
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
struct Odd : arch::X86_64 {
#ifdef CASE_BAD
  static bool present(std::uint64_t e) { return (e & 1) != 0; }
#endif
};
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() {
  host::Arena arena(16, 64);
  Mmu mmu(arena);
  Mmu::Vcpu vcpu(mmu);
  static_cast<void>(mmu.add_slot(Gfn{0}, 16));
  static_cast<void>(vcpu.handle_fault(Gva{0}, 0));
}
