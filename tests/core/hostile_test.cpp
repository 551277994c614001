// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

/// Tables that a hostile guest may write: whatever they hold, the guest gets faults or MMIO, no entry ever names a host
/// frame that no slot owns, and every invariant stands.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Checked<TestLock>, test::AnyPolicy, TestHost, SmallLimit>;

Controls mode(unsigned i) {
  switch (i % 4) {
    case 0:
      return kLongMode;
    case 1:
      return {cr0::kPe | cr0::kPg, cr4::kPae | cr4::kSmep, efer::kLme | efer::kLma};
    case 2:
      return {cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kNxe};
    default:
      return {cr0::kPe | cr0::kPg, cr4::kPse, 0};
  }
}

void torment(std::uint64_t seed, std::uint64_t keep, std::uint64_t force) {
  TestHost host(1024, 4096, seed);
  {
    Mmu mmu(host);
    REQUIRE(mmu.add_slot(Gfn{0}, 900).ok());
    mmu.set_limit(40);
    sim::Random rng(seed);
    for (std::uint64_t g = 0; g < 64; ++g) {
      auto* t = static_cast<std::uint64_t*>(host.guest_page(Gfn{g}));
      for (unsigned i = 0; i < 512; ++i) t[i] = (rng.next() & keep) | force;
    }
    Mmu::Vcpu v(mmu);
    for (unsigned round = 0; round < 12; ++round) {
      static_cast<void>(v.set_control({cr0::kPe, 0, 0}));
      const Controls c = mode(round);
      // PDPTEs have reserved bits of their own: let half of them be loadable.
      if (round % 4 == 2 && round > 4)
        for (unsigned i = 0; i < 4; ++i) static_cast<std::uint64_t*>(host.guest_page(Gfn{5}))[i] = (20 + i) << 12 | 1;
      static_cast<void>(v.set_cr3(round % 4 == 2 ? 5 << 12 : rng.below(64) << 12));
      if (v.set_control(c) != ControlOutcome::Done) continue;
      for (int n = 0; n < 150; ++n) {
        REQUIRE(v.enter() == EnterOutcome::Enter);
        const std::uint64_t a = round % 4 < 2 ? rng.next() & 0xffff'ffff'ffff : rng.next() & 0xffff'ffff;
        const auto code = static_cast<std::uint32_t>(rng.next() & (pferr::kWrite | pferr::kUser | pferr::kFetch));
        const FaultOutcome o =
            v.handle_fault(Gva{a}, code, CpuMode{static_cast<std::uint8_t>(code & 4 ? 3 : 0), rng.flip()});
        const bool known = o.kind == Kind::Resume || o.kind == Kind::Retry || o.kind == Kind::InjectPageFault ||
                           o.kind == Kind::Mmio || o.kind == Kind::Emulate;
        REQUIRE(known);
        if (o.kind == Kind::Mmio) CHECK(frame_of(o.gpa).value() >= 900);
        if (const EntryInfo e = v.lookup(Gva{a}); e.present) CHECK(host.gfn_at(address_of(e.pfn)) < 900);
        if (o.kind == Kind::Emulate) {
          const Status s = v.begin_write_window(o);
          if (s.ok()) v.end_write_windows();
        }
      }
      const AuditReport r = mmu.audit();
      INFO(std::string(r.first == nullptr ? "" : r.first));
      REQUIRE(r.violations == 0);
    }
  }
  CHECK(host.frames_used() == 0);
}

TEST_CASE("every entry random") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) torment(seed, ~0ULL, 0);
}
TEST_CASE("every entry random and present, inside and just outside memory") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) torment(seed, 0x8000'0000'004f'ffff, 1);
}
TEST_CASE("every entry a table among themselves: loops and self-maps of all levels") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) torment(seed, 0x3'f066, 1);
}
TEST_CASE("a chain of one frame: PML4, PDPT, PD, PT and page are the same") {
  TestHost host(64, 1024);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 64).ok());
  auto* t = static_cast<std::uint64_t*>(host.guest_page(Gfn{7}));
  for (unsigned i = 0; i < 512; ++i) t[i] = 7 << 12 | kPage;
  Mmu::Vcpu v(mmu);
  run_long(v, 7);
  sim::Random rng(3);
  for (int n = 0; n < 200; ++n) {
    const std::uint64_t a = rng.next() & 0x7fff'ffff'ffff;
    CHECK(read_fault(v, a).kind == Kind::Resume);
    const FaultOutcome o = write_fault(v, a, true);
    REQUIRE(o.kind == Kind::Emulate);
    REQUIRE(v.begin_write_window(o).ok());
    CHECK(write_fault(v, a).kind == Kind::Resume);
    v.end_write_windows();
    CHECK(v.enter() == EnterOutcome::Enter);
  }
  CHECK(test::unsound(mmu) == "");
}
}  // namespace
