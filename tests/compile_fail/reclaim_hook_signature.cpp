// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Reclaim declares a hook in kHooks that it lacks or whose signature differs; see
// concepts/reclaim.hpp
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

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

int main() {
  host::Arena arena(16, 64);
  Mmu mmu(arena);
  Mmu::Vcpu vcpu(mmu);
  static_cast<void>(mmu.add_slot(Gfn{0}, 16));
  static_cast<void>(vcpu.handle_fault(Gva{0}, 0));
}
