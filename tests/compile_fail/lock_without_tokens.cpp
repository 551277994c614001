// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Lock lacks Token, token() or verify(Token); an empty struct and two empty functions will do
#include "use.hpp"

using namespace shadowmmu;
struct Odd {
  using Memory = memory::Up;
  struct Token {};
#ifdef CASE_BAD
  void lock() noexcept {}
  void unlock() noexcept {}
  [[nodiscard]] bool contended() const noexcept { return false; }

#else
  void lock() noexcept {}
  void unlock() noexcept {}
  [[nodiscard]] bool contended() const noexcept { return false; }
  [[nodiscard]] Token token() const noexcept { return {}; }
  void verify(Token) const noexcept {}
#endif
};
using Mmu = ShadowMmu<arch::X86_64, Odd, reclaim::Fifo>;

int main() { return use<Mmu>(); }
