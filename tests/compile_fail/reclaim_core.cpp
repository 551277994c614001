// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Reclaim lacks PageState, kHooks, or public noexcept on_create, on_remove or victim; see
// concepts/reclaim.hpp
#include "use.hpp"

using namespace shadowmmu;
struct Odd : reclaim::Fifo {
#ifdef CASE_BAD
  void on_create(PageState&) noexcept {}
#else
  void on_create(PageState& p, PageFacts f) noexcept { Fifo::on_create(p, f); }
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, Odd>;

int main() { return use<Mmu>(); }
