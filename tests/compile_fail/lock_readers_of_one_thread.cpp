// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Lock is lock::Readers over a lock for one thread, whose memory no other thread may read; use
// lock::Readers<lock::Spin>, or the lock alone
#include "use.hpp"

using namespace shadowmmu;
#ifdef CASE_BAD
using Inner = lock::None;
#else
using Inner = lock::Spin;
#endif
using Mmu = ShadowMmu<arch::X86_64, lock::Readers<Inner>, reclaim::Fifo>;

int main() { return use<Mmu>(); }
