// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch's MMIO entries lack a function of concepts/arch.hpp, have a generation of fewer than 19
#include "use.hpp"

using namespace shadowmmu;
struct Odd : arch::X86_64 {
#ifdef CASE_BAD
  static constexpr std::uint64_t kMmioGenerationMask = arch::X86_64::kMmioGenerationMask | kWrite;
#endif
};
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() { return use<Mmu>(); }
