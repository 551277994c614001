// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch::kSoftwareBits overlaps kHardwareBits or kAddressBits; move the software bits
#include "use.hpp"

using namespace shadowmmu;
struct Odd : arch::X86_64 {
#ifdef CASE_BAD
  static constexpr std::uint64_t kSoftwareBits = kHostWritable | kDirty;
#endif
};
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() { return use<Mmu>(); }
