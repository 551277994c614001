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
  Backing backing(Gfn g, bool write) noexcept {
    const Backing b = TestHost::backing(g, write);
    if (auto m = std::exchange(meddle, nullptr)) m();
    return b;
  }
};
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, MeddlingHost>;

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
  CHECK(r.mmu.audit().violations == 0);
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
  CHECK(r.mmu.audit().violations == 0);
}
TEST_CASE("everything is zapped during the fault: the stale root takes no entry") {
  Racing r;
  r.host.meddle = [&] { r.mmu.zap_all_fast(); };
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Retry);
  CHECK(r.mmu.audit().violations == 0);
  REQUIRE(r.vcpu->enter() == EnterOutcome::Enter);
  CHECK(write_fault(*r.vcpu, 0x40'0000).kind == Kind::Resume);
}
TEST_CASE("Host answers: pending, poisoned, read-only, gone") {
  struct Answers : TestHost {
    using TestHost::TestHost;
    Backing answer{};
    bool armed = false;
    Backing backing(Gfn g, bool write) noexcept { return armed ? answer : TestHost::backing(g, write); }
  };
  using M = ShadowMmu<arch::X86_64, lock::None, test::AnyPolicy, Answers>;
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
  CHECK(b.mmu.audit().violations == 0);
}
}  // namespace
