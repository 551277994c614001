// SPDX-License-Identifier: BSL-1.0
// expect: words_
// A side word is read together with its entry or not at all.
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
using S = ShadowMmu<arch::X86_64, lock::Spin, reclaim::Fifo>::State;
S::Page* use(S& s, S::Page& p) {
#ifdef CASE_BAD
  return &s.page(p.side.words_[3]);
#else
  return core::child_of(s, p, 3);
#endif
}
