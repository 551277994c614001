// SPDX-License-Identifier: BSL-1.0
// expect: deleted
// A walk that lets the lock go cannot be one over live pages, to which vCPUs add at every yield: it need not end.
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
using S = ShadowMmu<arch::X86_64, lock::Spin, reclaim::Fifo>::State;
void zap_everything(S& s) {
  core::ExclusiveGuard<S> g(s);
#ifdef CASE_BAD
  core::Progress walk(s.live);
  while (!s.live.empty()) {
    core::prepare_zap(s, g, s.live.front());
#else
  core::Progress walk(s.obsolete);
  while (!s.obsolete.empty()) {
    core::prepare_zap(s, g, s.obsolete.front());
#endif
    g.yield_after(walk, 1);
  }
}
