// SPDX-License-Identifier: BSL-1.0
// locked: look_direct 1
// locked: look_shadow 1
// A reader's section costs one full fence, or one locked instruction, and its look costs none.
#include "vm.hpp"

using namespace shadowmmu;
using Shadow = ShadowMmu<arch::X86_64, lock::Readers<lock::Spin>, reclaim::Fifo, Vm>;
using Direct = ShadowMmu<arch::Ept, lock::Readers<lock::Spin>, reclaim::Fifo, Vm>;

extern "C" bool look_direct(Direct::Reader* r, const Direct::Vcpu* v, std::uint64_t a) {
  return r->lookup(*v, Gva{a}).present;
}
extern "C" bool look_shadow(Shadow::Reader* r, const Shadow::Vcpu* v, std::uint64_t a) {
  return r->lookup(*v, Gva{a}).present;
}
