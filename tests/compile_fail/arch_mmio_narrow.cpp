// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch's MMIO entries lack a function of concepts/arch.hpp, have a generation of fewer than 19
#include "use.hpp"

using namespace shadowmmu;
struct Odd : arch::X86_64 {
#ifdef CASE_BAD
  static constexpr unsigned kMmioGenerationBits = 18;
#endif
};
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() { return use<Mmu>(); }
