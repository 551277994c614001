// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Reclaim has a hook that kHooks does not declare, so it would never be called; add it to kHooks
#include "use.hpp"

using namespace shadowmmu;
struct Odd : reclaim::Fifo {
#ifdef CASE_BAD
  void on_root_load(PageState&) noexcept {}
#else
  static constexpr Hook kHooks = Hook::RootLoad;
  void on_root_load(PageState&) noexcept {}
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, Odd>;

int main() { return use<Mmu>(); }
