// SPDX-License-Identifier: BSL-1.0
// symbols: fault_shadow fault_direct unmap_shadow
// One agent: no locked instruction may be emitted anywhere in this object.
#include "vm.hpp"

using namespace shadowmmu;

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
