// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Checked<TestLock>, test::AnyPolicy, TestHost>;

/// One pass over everything that allocates. Returns: how many steps answered out of memory.
unsigned scenario(std::uint64_t fail_in, std::uint64_t& allocations, bool& failed) {
  unsigned refused = 0;
  TestHost host(1024, 4096);
  host.fail_in = fail_in;
  {
    Mmu mmu(host);
    const auto slot = [&](std::uint64_t first, std::uint64_t pages) {
      for (int i = 0; i < 2; ++i) {
        const auto r = mmu.add_slot(Gfn{first}, pages);
        if (r.ok()) return r.value();
        CHECK(r.error() == Error::OutOfMemory);
        refused += 1;
      }
      FAIL("add_slot fails without a reason");
      return SlotId{};
    };
    static_cast<void>(slot(0, 512));
    const SlotId high = slot(512, 512);
    std::uint64_t next = 2;
    const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
    for (std::uint64_t i = 0; i < 60; ++i) {
      std::uint64_t t = 1;
      const std::uint64_t a = i << 30;
      for (unsigned l = 4; l >= 2; --l) {
        std::uint64_t& e = table(t)[Level{l}.index(a)];
        if (e == 0) e = next++ << 12 | kPage;
        t = e >> 12 & 0xffff'ffff;
      }
      table(t)[0] = (300 + i * 12) << 12 | kPage;
    }
    {
      Mmu::Vcpu v(mmu);
      const auto entered = [&] {
        for (int i = 0; i < 3; ++i) {
          const EnterOutcome e = v.enter();
          if (e == EnterOutcome::Enter) return;
          CHECK(e == EnterOutcome::OutOfMemory);
          refused += 1;
        }
        FAIL("enter fails without a reason");
      };
      entered();
      REQUIRE(v.set_control(kLongMode) == ControlOutcome::Done);
      REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
      entered();
      const auto touch = [&](std::uint64_t a) {
        FaultOutcome o = write_fault(v, a);
        if (o.kind == Kind::OutOfMemory) {
          refused += 1;
          CHECK(test::unsound(mmu) == "");
          o = write_fault(v, a);
        }
        REQUIRE(o.kind == Kind::Resume);
        REQUIRE(v.lookup(Gva{a}).present);
      };
      for (std::uint64_t i = 0; i < 60; ++i) touch(i << 30);
      FaultOutcome o;
      o.kind = Kind::Emulate;
      o.gpa = Gpa{2 << 12};
      Status w = v.begin_write_window(o);
      if (!w.ok()) {
        CHECK(w.error() == Error::OutOfMemory);
        refused += 1;
        w = v.begin_write_window(o);
      }
      REQUIRE(w.ok());
      v.end_write_windows();
      Status s = mmu.remove_slot(high);
      if (!s.ok()) {
        CHECK(s.error() == Error::OutOfMemory);
        refused += 1;
        s = mmu.remove_slot(high);
      }
      REQUIRE(s.ok());
      entered();
      touch(0);
      CHECK(test::unsound(mmu) == "");
    }
  }
  CHECK(host.frames_used() == 0);
  allocations = host.allocations;
  failed = host.failures != 0;
  return refused;
}

TEST_CASE("every allocation in turn fails once: an error value, nothing half-done, nothing leaked, and it recovers") {
  std::uint64_t total = 0;
  bool failed = false;
  CHECK(scenario(0, total, failed) == 0);
  CHECK_FALSE(failed);
  REQUIRE(total > 100);
  for (std::uint64_t n = 1; n <= total; ++n) {
    INFO("allocation " << n << " of " << total);
    std::uint64_t ignored = 0;
    CHECK(scenario(n, ignored, failed) == 1);
    CHECK(failed);
  }
}

/// Counts allocations while the Mmu's lock is held.
struct ProbeHost : TestHost {
  using TestHost::TestHost;
  unsigned behind = 0;
  Result<Hpa> alloc_frame(FrameKind k) noexcept override {
    behind += TestLock::held ? 1U : 0U;
    return TestHost::alloc_frame(k);
  }
};

TEST_CASE("nothing is allocated behind the Mmu's lock, and an idle fault asks for nothing") {
  Bench<Mmu, ProbeHost> b;
  // The slots lock is of the same type here, so only what follows the slots is judged.
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  for (std::uint64_t i = 0; i < 8; ++i) b.map(1, 0x40'0000 + (i << 12), 400 + i);
  b.host.behind = 0;
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  REQUIRE(write_fault(v, 0x40'0000).kind == Kind::Resume);
  CHECK(b.host.behind == 0);
  const std::uint64_t before = b.host.allocations;
  b.mmu.unmap(Gfn{400}, 8);
  CHECK(write_fault(v, 0x40'0000).kind == Kind::Resume);
  CHECK(write_fault(v, 0x40'0000).kind == Kind::Resume);
  CHECK(b.host.allocations - before <= core::Magazine::kTables + core::Magazine::kMeta);
  const std::uint64_t idle = b.host.allocations;
  for (int i = 0; i < 10; ++i) CHECK(write_fault(v, 0x40'0000).kind == Kind::Resume);
  CHECK(b.host.allocations == idle);
  CHECK(b.host.behind == 0);
}

/// Has no frame below 4 GiB while `full`.
struct LowIsFull : TestHost {
  using TestHost::TestHost;
  bool full = false;
  Result<Hpa> alloc_frame(FrameKind k) noexcept override {
    if (full && k == FrameKind::TableBelow4G) return Error::OutOfMemory;
    return TestHost::alloc_frame(k);
  }
};

TEST_CASE(
    "a fault before the first entry under PAE, without a frame for the PDPT: out of memory, and then it is mapped") {
  Bench<Mmu, LowIsFull> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.table(1)[0] = 2 << 12 | 1;
  b.table(2)[0] = 3 << 12 | kPage;
  b.table(3)[4] = 400 << 12 | kPage;
  Mmu::Vcpu v(b.mmu);
  REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(v.set_control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, 0}) == ControlOutcome::Done);
  b.host.full = true;
  for (int n = 0; n < 2; ++n) CHECK(write_fault(v, 0x4000).kind == Kind::OutOfMemory);
  CHECK(test::unsound(b.mmu) == "");
  b.host.full = false;
  CHECK(write_fault(v, 0x4000).kind == Kind::Resume);
  CHECK(v.lookup(Gva{0x4000}).pfn == b.host.backing(Gfn{400}, false).pfn);
  CHECK(test::unsound(b.mmu) == "");
}
}  // namespace
