// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: Arch::kSoftwareBits overlaps kHardwareBits or kAddressBits; move the software bits
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;
struct Odd : arch::X86_64 {
#ifdef CASE_BAD
  static constexpr std::uint64_t kSoftwareBits = kHostWritable | kDirty;
#endif
};
using Mmu = ShadowMmu<Odd, lock::None, reclaim::Fifo>;

int main() {
  host::Arena arena(16, 64);
  Mmu mmu(arena);
  Mmu::Vcpu vcpu(mmu);
  static_cast<void>(mmu.add_slot(Gfn{0}, 16));
  static_cast<void>(vcpu.handle_fault(Gva{0}, 0));
}
