// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch lacks a noexcept entry function of concepts/arch.hpp (present, leaf, make_leaf, ...)
#include "use.hpp"

using namespace shadowmmu;
struct Odd : arch::X86_64 {
#ifdef CASE_BAD
  static bool present(std::uint64_t e) { return (e & 1) != 0; }
#endif
};
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() { return use<Mmu>(); }
