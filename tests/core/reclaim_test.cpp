// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, TestHost>;

std::uint64_t address(std::uint64_t i) { return 0x40'0000 + (i << 21); }

TEST_CASE("at the limit the oldest pages go, one as it is needed, and never the newest or what is in use") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(64);
  for (std::uint64_t i = 0; i < 150; ++i) b.map(1, address(i), 400 + i);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  const HwState root = v.hw_state();
  for (std::uint64_t i = 0; i < 150; ++i) {
    const Kind k = write_fault(v, address(i)).kind;
    REQUIRE(k == Kind::Resume);
    CHECK(v.lookup(Gva{address(i)}).present);
    CHECK(b.mmu.stats().pages_used <= 64);
    CHECK(v.enter() == EnterOutcome::Enter);
    CHECK(v.hw_state().cr3 == root.cr3);
  }
  const Counters c = b.mmu.stats();
  CHECK(c.pages_created == 150 + 3);  // directories that faults walk through are not made again
  CHECK(c.pages_recycled == 150 + 3 - 64);
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("eviction takes the oldest leaf table first") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(64);
  for (std::uint64_t i = 0; i < 40; ++i) b.map(1, address(i), 400 + i);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t i = 0; i < 40; ++i) REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
  // The root is pinned; PDPT, PD and leaf table 0 are the oldest. The newest leaf table is found again by its hash.
  CHECK(b.mmu.shrink(3) == 3);
  CHECK(b.mmu.stats().pages_created == 43);
  REQUIRE(read_fault(v, address(39)).kind == Kind::Resume);
  CHECK(b.mmu.stats().pages_created == 43 + 2);
  REQUIRE(read_fault(v, address(0)).kind == Kind::Resume);
  CHECK(b.mmu.stats().pages_created == 43 + 3);
  for (std::uint64_t i = 0; i < 40; ++i) REQUIRE(read_fault(v, address(i)).kind == Kind::Resume);
  const AuditReport r = b.mmu.audit();
  CHECK(r.violations == 0);
  CHECK(r.pages == 43);
  CHECK(b.mmu.stats().pages_created == 43 + 3);
}

TEST_CASE("a new Mmu has room for whoever comes first") {
  Bench<Mmu> b;
  CHECK(b.mmu.limit() > 0);
}

TEST_CASE("a limit below what the vCPUs need is raised to it, and the guest gets on") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  for (std::uint64_t i = 0; i < 80; ++i) b.map(1, address(i), 400 + i);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  const std::uint32_t least = b.mmu.set_limit(0);
  CHECK(least == 49);  // sixteen paths of three tables, and the root
  CHECK(b.mmu.limit() == least);
  for (std::uint64_t i = 0; i < 80; ++i) {
    REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
    CHECK(b.mmu.stats().pages_used <= least);
  }
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("at the limit what a fault has zapped is room: nobody else goes for it") {
  constexpr std::uint64_t kAlias = 0x7f00'0000'0000, kOther = 0x80'0000'0000;
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(64);
  for (std::uint64_t i = 0; i < 80; ++i) b.map(1, address(i), 400 + i);
  b.map(1, kOther, 500);
  // One of these leaf tables, which the guest writes by kAlias, is the directory of kSecond as well. What that leads to
  // serves kThird, too.
  constexpr std::uint64_t kSecond = kOther + (1 << 30), kThird = kSecond + (1 << 30);
  const std::uint64_t leaf = b.leaf_table(1, address(79));
  b.map(1, kAlias, leaf);
  std::uint64_t* const pdpt = b.table(b.table(1)[1] >> 12 & 0xffff'ffff);
  pdpt[1] = leaf << 12 | kPage;
  pdpt[2] = 502 << 12 | kPage;
  b.table(502)[0] = 479 << 12 | kPage;
  b.table(479)[0] = 501 << 12 | kPage;
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t i = 0; i < 80; ++i) REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
  REQUIRE(read_fault(v, kThird).kind == Kind::Resume);
  REQUIRE(read_fault(v, address(79)).kind == Kind::Resume);
  REQUIRE(write_fault(v, kAlias).kind == Kind::Resume);
  CHECK(v.lookup(Gva{kAlias}).rights.write());
  CHECK(b.mmu.stats().pages_used == 64);
  // A directory is made where the unsync page was.
  const Counters before = b.mmu.stats();
  REQUIRE(read_fault(v, kSecond).kind == Kind::Resume);
  CHECK(b.mmu.stats().pages_created == before.pages_created + 1);
  CHECK(b.mmu.stats().pages_recycled == before.pages_recycled);
  CHECK(b.mmu.stats().pages_used == 64);
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("cached previous roots do not keep their pages") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, address(0), 400);
  b.next = 100;
  b.map(50, address(0), 401);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  REQUIRE(write_fault(v, address(0)).kind == Kind::Resume);
  REQUIRE(v.set_cr3(50 << 12) == ControlOutcome::Done);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  CHECK(b.mmu.shrink(100) == 4);  // all of the first space; the second's root is pinned
  REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  CHECK_FALSE(v.lookup(Gva{address(0)}).present);
  REQUIRE(write_fault(v, address(0)).kind == Kind::Resume);
  CHECK(test::unsound(b.mmu) == "");
}
}  // namespace
