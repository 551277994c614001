// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Reclaim declares a hook in kHooks that it lacks or whose signature differs; see
// concepts/reclaim.hpp
#include "use.hpp"

using namespace shadowmmu;
struct Odd : reclaim::Fifo {
#ifdef CASE_BAD
  static constexpr Hook kHooks = Hook::Link;
  void on_link(PageState&) noexcept {}
#else
  static constexpr Hook kHooks = Hook::Link;
  void on_link(PageState&, PageState&) noexcept {}
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, Odd>;

int main() { return use<Mmu>(); }
