// SPDX-License-Identifier: BSL-1.0
// symbols: fault_shadow fault_direct unmap_shadow
// One agent: no locked instruction may be emitted anywhere in this object.
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;

struct Vm {
  Result<Hpa> alloc_frame(FrameKind) noexcept;
  void free_frame(Hpa) noexcept;
  void* to_virt(Hpa) noexcept;
  Hpa to_phys(const void*) noexcept;
  void* guest_page(Gfn) noexcept;
  GuestExchange guest_exchange(Gpa, unsigned, std::uint64_t, std::uint64_t) noexcept;
  Backing backing(Gfn, bool) noexcept;
  void flush(const FlushRequest&) noexcept;
  void kick_and_wait(VcpuId) noexcept;
  bool should_yield() noexcept;
  void wrote(Gfn, std::uint64_t) noexcept;
};
using Shadow = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, Vm>;
using Direct = ShadowMmu<arch::Ept, lock::None, reclaim::Fifo, Vm>;

extern "C" int fault_shadow(Shadow::Vcpu* v, std::uint64_t a) {
  return static_cast<int>(v->handle_fault(Gva{a}, pferr::kWrite).kind);
}
extern "C" int fault_direct(Direct::Vcpu* v, std::uint64_t a) {
  return static_cast<int>(v->handle_fault(Gva{a}, pferr::kWrite).kind);
}
extern "C" void unmap_shadow(Shadow* m, std::uint64_t g) {
  m->unmap(Gfn{g}, 8);
  m->zap_all_fast();
}
