// SPDX-License-Identifier: BSL-1.0
#include <functional>

#include "core/world.hpp"

/// What happens between a fault's walk and its lock: the Host's backing() is the window, so it plays the other agents.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

struct MeddlingHost : TestHost {
  using TestHost::TestHost;
  std::function<void()> meddle;
  Backing backing(Gfn g, bool write) noexcept override {
    const Backing b = TestHost::backing(g, write);
    if (auto m = std::exchange(meddle, nullptr)) m();
    return b;
  }
};
using Mmu = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;

struct Racing : Bench<Mmu, MeddlingHost> {
  Racing() {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    map(1, 0x40'0000, 400);
    map(1, 0x40'1000, 401);
    vcpu = std::make_unique<Mmu::Vcpu>(mmu);
    run_long(*vcpu, 1);
    REQUIRE(write_fault(*vcpu, 0x40'1000).kind == Kind::Resume);  // the path exists, and prefetch has run
    mmu.unmap(Gfn{400});
  }
  ~Racing() { vcpu.reset(); }
  std::unique_ptr<Mmu::Vcpu> vcpu;
};

TEST_CASE("the Host takes the frame back during the fault: nothing is installed, the guest retries") {
  Racing r;
  r.host.meddle = [&] {
    r.mmu.invalidate_begin(Gfn{400}, 1);
    r.host.rebase(Gfn{400}, 7);
    r.mmu.invalidate_end();
  };
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Retry);
  CHECK_FALSE(r.vcpu->lookup(Gva{0x40'0000}).present);
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Resume);
  CHECK(r.vcpu->lookup(Gva{0x40'0000}).pfn == r.host.backing(Gfn{400}, true).pfn);
  CHECK(test::unsound(r.mmu) == "");
}
TEST_CASE("while an invalidation of the range is in progress nothing is installed there, elsewhere it is") {
  Racing r;
  r.mmu.unmap(Gfn{401});
  r.mmu.invalidate_begin(Gfn{400}, 1);
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Retry);
  CHECK(write_fault(*r.vcpu, 0x40'1000).kind == Kind::Resume);
  r.mmu.invalidate_end();
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Resume);
}
TEST_CASE("the guest's entry changes between walk and lock: not installed") {
  Racing r;
  r.host.meddle = [&] { r.table(r.leaf_table(1, 0x40'0000))[0] = 402 << 12 | kPage; };
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Retry);
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Resume);
  CHECK(r.vcpu->lookup(Gva{0x40'0000}).pfn == r.host.backing(Gfn{402}, true).pfn);
}
TEST_CASE("the directory entry changes between walk and lock: no page of the old table is linked") {
  Racing r;
  r.mmu.zap_all_fast();
  REQUIRE(r.vcpu->enter() == EnterOutcome::Enter);
  std::uint64_t* pd = nullptr;
  std::uint64_t t = 1;
  for (unsigned l = 4; l >= 3; --l) t = r.table(t)[Level{l}.index(0x40'0000)] >> 12 & 0xffff'ffff;
  pd = r.table(t);
  r.table(90)[0] = 403 << 12 | kPage;
  r.host.meddle = [&] { pd[Level{2}.index(0x40'0000)] = 90 << 12 | kPage; };
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Retry);
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Resume);
  CHECK(r.vcpu->lookup(Gva{0x40'0000}).pfn == r.host.backing(Gfn{403}, true).pfn);
  CHECK(test::unsound(r.mmu) == "");
}
TEST_CASE("everything is zapped during the fault: the stale root takes no entry") {
  Racing r;
  r.host.meddle = [&] { r.mmu.zap_all_fast(); };
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Retry);
  CHECK(test::unsound(r.mmu) == "");
  REQUIRE(r.vcpu->enter() == EnterOutcome::Enter);
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Resume);
}
TEST_CASE("Host answers: pending, poisoned, read-only, gone") {
  struct Answers : TestHost {
    using TestHost::TestHost;
    Backing answer{};
    bool armed = false;
    Backing backing(Gfn g, bool write) noexcept override { return armed ? answer : TestHost::backing(g, write); }
  };
  using M = Mmu;
  Bench<M, Answers> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, 0x40'0000, 400);
  M::Vcpu v(b.mmu);
  run_long(v, 1);
  b.host.armed = true;
  b.host.answer.kind = Backing::Kind::Pending;
  b.host.answer.token = 77;
  CHECK(write_fault(v, 0x40'0000).kind == Kind::Pending);
  CHECK(write_fault(v, 0x40'0000).token == 77);
  b.host.answer.kind = Backing::Kind::Poisoned;
  CHECK(read_fault(v, 0x40'0000).kind == Kind::HostError);
  b.host.answer.kind = Backing::Kind::None;
  CHECK(read_fault(v, 0x40'0000).kind == Kind::Mmio);
  b.host.armed = false;
  b.host.set_read_only(Gfn{400}, true);
  CHECK(write_fault(v, 0x40'0000).kind == Kind::Mmio);
  CHECK(read_fault(v, 0x40'0000).kind == Kind::Resume);
  CHECK_FALSE(v.lookup(Gva{0x40'0000}).rights.write());
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a large page's entry changes between walk and lock, in a table that was not shadowed before: not linked") {
  for (const std::uint64_t instead : {std::uint64_t{0}, std::uint64_t{512 << 12 | 0xa7}}) {
    CAPTURE(instead);
    MeddlingHost host(1024, 4096);
    Mmu mmu(host);
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
    table(1)[0] = 2 << 12 | kPage;
    table(2)[0] = 3 << 12 | kPage;
    table(2)[1] = 4 << 12 | kPage;
    table(3)[0] = table(4)[0] = 512 << 12 | 0xe7;  // both directories map the same 2 MiB
    Mmu::Vcpu v(mmu);
    run_long(v, 1);
    REQUIRE(write_fault(v, 0x5000).kind == Kind::Resume);  // the direct child has a leaf
    constexpr std::uint64_t kOther = 0x4000'5000;
    host.meddle = [&] { table(4)[0] = instead; };  // another vCPU, with no exit: directory 4 is not shadowed yet
    CHECK(write_fault(v, kOther).kind == Kind::Retry);
    v.invlpg(Gva{kOther});
    CHECK_FALSE(v.lookup(Gva{kOther}).present);
    CHECK(table(4)[0] == instead);
    CHECK(test::unsound(mmu) == "");
  }
}

/// Runs a turn right before the lock is taken.
/// Memory at [32768, 33792) lies in 2 MiB pages of the Host's.
struct HighHost : TestHost {
  HighHost() : TestHost(1024, 4096) {}
  HighHost(std::uint64_t, std::uint64_t) : HighHost() {}
  void* guest_page(Gfn g) noexcept override { return g.value() >= kHigh ? nullptr : TestHost::guest_page(g); }
  Backing backing(Gfn g, bool w) noexcept override {
    if (g.value() < kHigh) return TestHost::backing(g, w);
    Backing b;
    b.kind = Backing::Kind::Memory;
    b.pfn = Pfn{(std::uint64_t{7} << 18) + g.value()};
    b.level = Level{2};
    return b;
  }
  static constexpr std::uint64_t kHigh = 32768;
};
TEST_CASE("a large leaf stands where another vCPU's older walk expects a table: it goes, and the guest retries") {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
  for (const bool again : {false, true}) {
    CAPTURE(again);
    Bench<M, HighHost> b;
    REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
    REQUIRE(b.mmu.add_slot(Gfn{HighHost::kHigh}, 1024).ok());
    constexpr std::uint64_t kA = 0x4000'0000;
    b.map(1, kA, 300);
    std::uint64_t pd = 1;
    for (unsigned l = 4; l >= 3; --l) pd = b.table(pd)[Level{l}.index(kA)] >> 12 & 0xffff'ffff;
    M::Vcpu v0(b.mmu, VcpuId{0});
    M::Vcpu v1(b.mmu, VcpuId{1});
    run_long(v0, 1);
    run_long(v1, 1);
    b.map(1, kA + 0x20'0000, 301);  // the directory is shadowed already
    REQUIRE(read_fault(v1, kA + 0x20'0000).kind == Kind::Resume);
    if (again) REQUIRE(read_fault(v0, kA + 0x20'0000).kind == Kind::Resume);  // v0 remembers the directory
    TestLock::turn = [&] {
      b.table(pd)[Level{2}.index(kA)] = HighHost::kHigh << 12 | kPage | 0x80;
      b.mmu.guest_wrote(Gpa{(pd << 12) + Level{2}.index(kA) * 8}, 8);
      REQUIRE(write_fault(v1, kA + 0x5000).kind == Kind::Resume);
      REQUIRE(v1.lookup(Gva{kA}).level == Level{2});
    };
    CHECK(read_fault(v0, kA).kind == Kind::Retry);
    CHECK(test::unsound(b.mmu) == "");
    CHECK(read_fault(v0, kA).kind == Kind::Resume);
    CHECK(test::unsound(b.mmu) == "");
  }
}
}  // namespace
