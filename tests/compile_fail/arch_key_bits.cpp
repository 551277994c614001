// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch::kSoftwareBits uses bits 62:59, where protection keys live; move the software bits
#include "use.hpp"

using namespace shadowmmu;
struct Odd : arch::X86_64 {
#ifdef CASE_BAD
  static constexpr std::uint64_t kSoftwareBits = std::uint64_t{1} << 60;
  static constexpr std::uint64_t kHardwareBits = kPresent | kWrite;
#endif
};
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() { return use<Mmu>(); }
