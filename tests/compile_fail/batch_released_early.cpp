// SPDX-License-Identifier: BSL-1.0
// expect: Batch<
// Zapped pages cannot be released before their flush and their quiescence: the stage is in the type.
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
using S = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo>::State;
using core::Batch;
using core::Stage;
#ifdef CASE_BAD
void use(S& s, Batch<S, Stage::Zapped>&& b) { core::Disposal<S>::release(s, std::move(b)); }
#else
void use(S& s, Batch<S, Stage::Quiet>&& b) { core::Disposal<S>::release(s, std::move(b)); }
#endif
