// SPDX-License-Identifier: BSL-1.0
// expect: push_back
// Nothing but a generation change adds to the obsolete pages.
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
using S = ShadowMmu<arch::X86_64, lock::Spin, reclaim::Fifo>::State;
void use(S& s, S::Page& p) {
#ifdef CASE_BAD
  s.obsolete.push_back(p);
#else
  s.live.push_back(p);
#endif
}
