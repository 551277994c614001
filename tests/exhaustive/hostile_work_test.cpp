// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"
#include "support/counting_memory.hpp"

/// Structures that a hostile guest builds so that work grows: tables shared at every level, one table below very many
/// entries, obsolete pages that nobody collects. What is counted is work, not time.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, WorkLock, test::AnyPolicy, TestHost>;

/// Entries, list nodes and lines of side words that one critical section may look at, whatever a guest builds
/// (docs/LOCKING.md). Zapping a page whose entries stand on long lists has its own, larger bound: its 512 entries, each
/// with a list of kLongChain leaves in nodes of 14.
constexpr std::uint64_t kMostTouched = 4096;
constexpr std::uint64_t kMostTouchedByZap = 512 * (config::Default::kLongChain / 14 + 2);

/// Returns: what was touched in the longest hold while f ran.
template <class F>
std::uint64_t longest(F&& f) {
  WorkLock::most = 0;
  f();
  return WorkLock::most;
}

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
    const std::uint64_t touched = longest([&] {
      REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
      REQUIRE(v.enter() == EnterOutcome::Enter);
    });
    CHECK(touched <= kMostTouched);
    CHECK(touched > 512);  // it has scanned the leaf table
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
      CHECK(longest([&] { REQUIRE(read_fault(v, t << 30 | i << 21).kind == Kind::Resume); }) <= kMostTouched);
      n += 1;
      if (n % 500 == 0) CHECK(b.mmu.audit().violations == 0);
    }
  CHECK(b.mmu.stats().parents_dropped == 7);
  CHECK(v.lookup(Gva{std::uint64_t{4} << 30 | std::uint64_t{511} << 21}).present);
  CHECK(longest([&] {
          REQUIRE(write_fault(v, std::uint64_t{4} << 30 | std::uint64_t{511} << 21).kind == Kind::Resume);
        }) <= kMostTouched);
  CHECK(longest([&] {
          for (int w = 0; w < 3; ++w) b.mmu.guest_wrote(Gpa{14 << 12}, 8);  // a directory floods
        }) <= kMostTouchedByZap);
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
    const std::uint64_t touched = longest([&] {
      mmu.obsolete_all();
      REQUIRE(v.enter() == EnterOutcome::Enter);
    });
    if (touched > kMostTouched) FAIL_CHECK("round " << n << " touched " << touched);
  }
  CHECK(mmu.stats().pages_used_highest < 32);
  CHECK(write_fault(v, 0).kind == Kind::Emulate);
  CHECK_FALSE(v.lookup(Gva{0}).rights.write());
  CHECK(mmu.audit().violations == 0);
}
TEST_CASE("30,000 leaves that map one frame: taking it back, and giving up their tables") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(400);
  b.table(1)[0] = 2 << 12 | kPage;
  b.table(2)[0] = 3 << 12 | kPage;
  for (std::uint64_t t = 0; t < 59; ++t) {
    b.table(3)[t] = (100 + t) << 12 | kPage;
    for (unsigned i = 0; i < 512; ++i) b.table(100 + t)[i] = 400 << 12 | kPage;
  }
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  std::uint64_t faults = 0;
  for (std::uint64_t n = 0; n < 30'000; ++n) {
    const std::uint64_t touched = longest([&] { REQUIRE(read_fault(v, n << 12).kind == Kind::Resume); });
    if (touched > faults) faults = touched;
  }
  CHECK(faults <= kMostTouched);
  SUBCASE("taking it back") {
    CHECK(longest([&] { b.mmu.unmap(Gfn{400}); }) <= kMostTouched);
  }
  SUBCASE("giving up their tables") {
    CHECK(longest([&] { b.mmu.shrink(62); }) <= kMostTouchedByZap);
  }
  CHECK(b.mmu.audit().violations == 0);
}
}  // namespace
