// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Reclaim declares a hook in kHooks that it lacks or whose signature differs; see
// concepts/reclaim.hpp
#include "use.hpp"

using namespace shadowmmu;
struct Odd : reclaim::Fifo {
#ifdef CASE_BAD
  static constexpr Hook kHooks = Hook::Entry;
  void on_entyr(PageState&, unsigned) noexcept {}
#else
  static constexpr Hook kHooks = Hook::Entry;
  void on_entry(PageState&, unsigned) noexcept {}
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, Odd>;

int main() { return use<Mmu>(); }
