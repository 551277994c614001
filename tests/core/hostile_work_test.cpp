// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

/// Structures that a hostile guest builds so that work grows: tables shared at every level, one table below very many
/// entries, obsolete pages that nobody collects. What is counted is work, not time.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;

TEST_CASE("four tables with 512^3 paths: a CR3 load syncs the one unsync page once") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  for (unsigned i = 0; i < 512; ++i)
    for (std::uint64_t t = 1; t <= 3; ++t) b.table(t)[i] = (t + 1) << 12 | kPage;
  b.table(4)[0] = 400 << 12 | kPage;
  b.table(4)[1] = 4 << 12 | kPage;  // the leaf table itself
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (unsigned l = 4; l >= 2; --l)
    for (unsigned i = 0; i < 512; ++i)
      REQUIRE(read_fault(v, std::uint64_t{i} << Level{l}.shift()).kind == Kind::Resume);
  for (unsigned round = 0; round < 3; ++round) {
    REQUIRE(write_fault(v, 0x1000).kind == Kind::Resume);
    const std::uint64_t synced = b.mmu.stats().pages_synced;
    REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    CHECK(b.mmu.stats().pages_synced == synced + 1);
    CHECK_FALSE(v.lookup(Gva{0x1000}).rights.write());
    CHECK(b.mmu.audit().violations == 0);
  }
}
TEST_CASE("one leaf table below 2,560 directory entries: its parents stay few, and what they map stays right") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(400);
  b.table(1)[0] = 2 << 12 | kPage;
  for (std::uint64_t t = 0; t < 5; ++t) {
    b.table(2)[t] = (10 + t) << 12 | kPage;
    for (unsigned i = 0; i < 512; ++i) b.table(10 + t)[i] = 5 << 12 | kPage;
  }
  b.table(5)[0] = 400 << 12 | kPage;
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  std::uint64_t n = 0;
  for (std::uint64_t t = 0; t < 5; ++t)
    for (std::uint64_t i = 0; i < 512; ++i) {
      REQUIRE(read_fault(v, t << 30 | i << 21).kind == Kind::Resume);
      n += 1;
      if (n % 500 == 0) CHECK(b.mmu.audit().violations == 0);
    }
  CHECK(b.mmu.stats().parents_dropped == 2);
  CHECK(v.lookup(Gva{std::uint64_t{4} << 30 | std::uint64_t{511} << 21}).present);
  CHECK(b.mmu.audit().violations == 0);
}
TEST_CASE("70,000 generations that nobody collects: a table's pages stay few, and the guest's top table is tracked") {
  TestHost host(1024, 4096);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  mmu.set_limit(80000);
  Mmu::Vcpu v(mmu);
  static_cast<std::uint64_t*>(host.guest_page(Gfn{1}))[0] = 1 << 12 | kPage;  // maps itself
  run_long(v, 1);
  for (unsigned n = 0; n < 70'000; ++n) {
    mmu.obsolete_all();
    REQUIRE(v.enter() == EnterOutcome::Enter);
  }
  CHECK(mmu.stats().pages_used_highest < 32);
  CHECK(write_fault(v, 0).kind == Kind::Emulate);
  CHECK_FALSE(v.lookup(Gva{0}).rights.write());
  CHECK(mmu.audit().violations == 0);
}
}  // namespace
