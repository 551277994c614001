// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Host is an incomplete type here; for host::Arena include <shadowmmu/host/arena.hpp>
#include "shadowmmu/shadowmmu.hpp"
#ifndef CASE_BAD
#include "shadowmmu/host/arena.hpp"
#endif

using namespace shadowmmu;
// A Host that is still incomplete where the Mmu is declared is fine, as long as it is complete where it is used.
struct Vm;
struct Machine;
using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo>;
void use(host::Arena& arena) { Mmu mmu(arena); }
