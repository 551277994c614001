// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Lock::Memory is no memory facade; use memory::Smp, or memory::Up for one thread
#include "use.hpp"

using namespace shadowmmu;
struct Odd : lock::None {
#ifdef CASE_BAD
  struct Memory {};
#endif
};
using Mmu = ShadowMmu<arch::X86_64, Odd, reclaim::Fifo>;

int main() { return use<Mmu>(); }
