// SPDX-License-Identifier: BSL-1.0
// A whole embedding in user space: one VM whose memory lies scattered over host frames, one vCPU in long mode, a few
// faults, and what the hardware tables hold afterwards. Exits with 0 if everything came out as the guest's tables say.
#include <cstdio>
#include <vector>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;

/// The embedder's side: an arena for frames and guest memory, and a backing of our own.
class Vm : public host::Arena {
 public:
  static constexpr std::uint64_t kPages = 256;
  Vm() : Arena(kPages, 1024) {}

  // Guest frame g lies at host frame 255 - g: a translation that forgets the Host goes wrong at once.
  static std::uint64_t place(std::uint64_t g) noexcept { return kPages - 1 - g; }
  void* guest_page(Gfn g) noexcept { return g.value() < kPages ? Arena::guest_page(Gfn{place(g.value())}) : nullptr; }
  Backing backing(Gfn g, bool write) noexcept {
    return g.value() < kPages ? Arena::backing(Gfn{place(g.value())}, write) : Backing{};
  }
  GuestExchange guest_exchange(Gpa a, unsigned bytes, std::uint64_t old, std::uint64_t now) noexcept {
    return Arena::guest_exchange(address_of(Gfn{place(frame_of(a).value())}) + (a.value() & kPageMask), bytes, old,
                                 now);
  }
  std::uint64_t* table(std::uint64_t g) noexcept { return static_cast<std::uint64_t*>(guest_page(Gfn{g})); }
};

using Mmu = ShadowMmu<arch::X86_64, lock::Spin, reclaim::Default, Vm>;

namespace {
int failures = 0;
void expect(bool ok, const char* what) {
  std::printf("%-64s %s\n", what, ok ? "yes" : "NO");
  failures += ok ? 0 : 1;
}
}  // namespace

int main() {
  Vm vm;
  Mmu mmu(vm);
  if (!mmu.add_slot(Gfn{0}, Vm::kPages).ok()) return 1;

  // The guest builds its tables: frames 1 to 4, one level each; 0x40'0000 -> frame 100, read-only.
  constexpr std::uint64_t kAt = 0x40'0000;
  for (unsigned level = 4; level >= 2; --level) vm.table(5 - level)[Level{level}.index(kAt)] = (6 - level) << 12 | 7;
  vm.table(4)[Level{1}.index(kAt)] = 100 << 12 | 5;

  {
    Mmu::Vcpu vcpu(mmu);
    constexpr Controls kLong{cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe};
    expect(vcpu.set_control(kLong) == ControlOutcome::Done, "the guest enters long mode");
    expect(vcpu.set_cr3(1 << 12) == ControlOutcome::Done, "and loads CR3");
    expect(vcpu.enter() == EnterOutcome::Enter, "a root is ready");
    std::printf("the hardware runs with CR3 = %#llx\n", static_cast<unsigned long long>(vcpu.hw_state().cr3));
    vcpu.exit();

    // The CPU reports a user read of an address that the (empty) shadow does not map.
    FaultOutcome o = vcpu.handle_fault(Gva{kAt + 0x123}, pferr::kUser, CpuMode{3, false});
    expect(o.kind == FaultOutcome::Kind::Resume, "the read is filled in");
    const EntryInfo e = vcpu.lookup(Gva{kAt});
    expect(e.present && e.pfn == vm.backing(Gfn{100}, false).pfn,
           "the entry names the frame that backs guest frame 100");
    expect(!e.rights.write() && e.rights.user(), "with the guest's rights");
    expect((vm.table(4)[0] & 0x20) != 0, "the guest sees its accessed bit");

    o = vcpu.handle_fault(Gva{kAt}, pferr::kUser | pferr::kWrite | pferr::kPresent, CpuMode{3, false});
    expect(o.kind == FaultOutcome::Kind::InjectPageFault && o.error_code == 7,
           "a write faults in the guest, error code 7");

    // The guest's kernel grants the write and flushes, as it must.
    vm.table(4)[0] |= 2;
    mmu.guest_wrote(Gpa{4 << 12}, 8);
    vcpu.invlpg(Gva{kAt});
    o = vcpu.handle_fault(Gva{kAt}, pferr::kUser | pferr::kWrite, CpuMode{3, false});
    expect(o.kind == FaultOutcome::Kind::Resume && vcpu.lookup(Gva{kAt}).rights.write(), "now the write goes through");

    // The host takes the frame back.
    mmu.unmap(Gfn{100});
    expect(!vcpu.lookup(Gva{kAt}).present, "an unmapped frame is reachable no more");
    expect(mmu.audit().violations == 0, "every invariant holds");
  }
  return failures == 0 ? 0 : 1;
}
