// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Config has values that make no sense together; see concepts/config.hpp
// A generation that is a bool does not count: adding one to true stays true.
#include "use.hpp"

using namespace shadowmmu;
struct Odd : config::Default {
#ifdef CASE_BAD
  using Generation = bool;
#else
  using Generation = std::uint8_t;
#endif
};
using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, host::Arena, Odd>;

int main() { return use<Mmu>(); }
