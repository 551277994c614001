// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch lacks kGuests, kRootLevel, kMaxLeafLevel or its bit masks; see concepts/arch.hpp
#include "use.hpp"

using namespace shadowmmu;
#ifdef CASE_BAD
struct Odd {
  struct Caps {};
};
#else
using Odd = arch::X86_64;
#endif
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() { return use<Mmu>(); }
