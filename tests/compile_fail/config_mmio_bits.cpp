// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Config::kMmioGenerationBits is more than the format has; 0 takes all of them
#include "use.hpp"

using namespace shadowmmu;
struct Wide : config::Default {
#ifdef CASE_BAD
  static constexpr unsigned kMmioGenerationBits = 20;
#else
  static constexpr unsigned kMmioGenerationBits = 19;
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, host::Arena, Wide>;

int main() { return use<Mmu>(); }
