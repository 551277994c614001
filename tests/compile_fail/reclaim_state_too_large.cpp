// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Reclaim::PageState is larger than 24 bytes, which breaks the two-line shadow page; keep state
// elsewhere
#include "use.hpp"

using namespace shadowmmu;
struct Odd {
  struct PageState {
#ifdef CASE_BAD
    std::uint64_t words[4];
#else
    std::uint64_t words[3];
#endif
  };
  static constexpr Hook kHooks = Hook::None;
  void on_create(PageState&, PageFacts) noexcept {}
  void on_remove(PageState&) noexcept {}
  template <class View>
  PageState* victim(const View&) noexcept {
    return nullptr;
  }
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, Odd>;

int main() { return use<Mmu>(); }
