// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/cpu.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <set>

#include "sim/machine.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::sim_test;
namespace {

using sim::AccessKind;
using sim::AccessResult;
using sim::CpuConfig;
using sim::LoadOutcome;
using TestCpu = sim::Cpu<sim::FlatMemory>;

constexpr std::uint64_t kRoot = 0x1000, kSecond = 0x2000, kThird = 0x3000, kFourth = 0x4000, kOther = 0x5000;
constexpr std::uint64_t kAll = kP | kW | kU, kPage0 = 0x10'0000;

CpuConfig forgetting_nothing() {
  CpuConfig config;
  config.caches.never_evict = true;
  return config;
}

/// Maps 2 MiB from address 0 with 4 KiB pages at kPage0 and up, writable and user.
struct Running : Machine {
  explicit Running(const CpuConfig& config = forgetting_nothing()) : cpu(memory, config) {
    poke(kRoot, kSecond | kAll);
    poke(kSecond, kThird | kAll);
    poke(kThird, kFourth | kAll);
    for (unsigned i = 0; i < 512; ++i) poke(kFourth + 8 * i, (kPage0 + i * kPageSize) | kAll);
    REQUIRE(cpu.load(state_of(kLong, kRoot)) == LoadOutcome::Ok);
  }
  AccessResult go(std::uint64_t address, AccessRequest request = kRead) {
    return cpu.access(address, request, mode_of(request));
  }
  void leaf(unsigned index, std::uint64_t entry) { poke(kFourth + 8 * index, entry); }

  TestCpu cpu;
};

}  // namespace

TEST_CASE_FIXTURE(Running, "cpu: a translation once cached outlives its entry until a flush reaches it") {
  CHECK(go(0x1234).hpa == Hpa{kPage0 + 0x1234});
  leaf(1, 0);
  CHECK(go(0x1234).hpa == Hpa{kPage0 + 0x1234});
  CHECK(cpu.stats().hits == 1);
  CHECK(cpu.stats().walks == 1);
  SUBCASE("flush_all") { cpu.flush_all(); }
  SUBCASE("flush_page, any address within the page") { cpu.flush_page(Gva{0x1fff}); }
  SUBCASE("flush_range over it") { cpu.flush_range(0, 2); }
  SUBCASE("load") { REQUIRE(cpu.load(state_of(kLong, kRoot)) == LoadOutcome::Ok); }
  CHECK(go(0x1234).kind == AccessKind::PageFault);
  CHECK_FALSE(cpu.cached(Gva{0x1234}).has_value());
}

TEST_CASE_FIXTURE(Running, "cpu: a flush that does not reach the page leaves it cached") {
  for (const std::uint64_t page : {1U, 2U, 3U, 4U}) CHECK(go(page << 12).ok());
  for (unsigned page = 1; page <= 4; ++page) leaf(page, 0);
  cpu.flush_page(Gva{0x2000});
  cpu.flush_range(0x3abc, 1);
  cpu.flush_range(0x4000, 0);
  CHECK(go(0x1000).ok());
  CHECK_FALSE(go(0x2000).ok());
  CHECK_FALSE(go(0x3000).ok());
  CHECK(go(0x4000).ok());
  cpu.flush_range(0x4000, ~std::uint64_t{0});
  CHECK(go(0x1000).ok());
  CHECK_FALSE(go(0x4000).ok());
}

TEST_CASE_FIXTURE(Running, "cpu: an absent entry is never cached") {
  leaf(1, 0);
  CHECK(go(0x1000).kind == AccessKind::PageFault);
  leaf(1, kPage0 | kAll);
  CHECK(go(0x1000).hpa == Hpa{kPage0});
}

TEST_CASE_FIXTURE(Running, "cpu: rights taken away stay usable until the flush") {
  CHECK(go(0x1000, kUserWrite).ok());
  leaf(1, kPage0 | kP | kA | kD);
  CHECK(go(0x1000, kUserWrite).ok());
  cpu.flush_page(Gva{0x1000});
  CHECK(go(0x1000, kUserWrite).error_code == 7);
}

TEST_CASE("cpu: rights added are seen after one fault at the latest") {
  for (const bool refill : {true, false}) {
    CAPTURE(refill);
    CpuConfig config = forgetting_nothing();
    config.refill_on_fault = refill;
    Running machine{config};
    machine.leaf(1, kPage0 | kP | kU);
    CHECK(machine.go(0x1000, kUserRead).ok());
    machine.leaf(1, kPage0 | kAll);
    const AccessResult first = machine.go(0x1000, kUserWrite);
    CHECK(first.ok() == refill);
    if (!refill) CHECK(first.error_code == 7);
    CHECK(machine.cpu.stats().refills == (refill ? 1U : 0U));
    CHECK(machine.go(0x1000, kUserWrite).ok());
  }
}

TEST_CASE("cpu: a refusal inherited from a cached upper entry goes away the same way") {
  for (const bool refill : {true, false}) {
    CAPTURE(refill);
    CpuConfig config = forgetting_nothing();
    config.refill_on_fault = refill;
    Running machine{config};
    machine.poke(kThird, kFourth | kP | kU);
    CHECK(machine.go(0x1000, kUserRead).ok());
    machine.poke(kThird, kFourth | kAll);
    CHECK(machine.go(0x2000, kUserWrite).ok() == refill);  // no leaf is cached, but the read-only PDE is
    CHECK(machine.go(0x2000, kUserWrite).ok());
  }
}

TEST_CASE_FIXTURE(Running,
                  "cpu: the first write through a clean translation sets Dirty in memory, later ones do not look") {
  CHECK(go(0x1000).ok());
  CHECK((peek(kFourth + 8) & (kA | kD)) == kA);
  CHECK_FALSE(cpu.cached(Gva{0x1000})->dirty);
  CHECK(go(0x1000, kWrite).ok());
  CHECK((peek(kFourth + 8) & kD) == kD);
  CHECK(cpu.stats().dirty_assists == 1);
  leaf(1, (kPage0 + kPageSize) | kAll | kA);
  CHECK(go(0x1000, kWrite).ok());
  CHECK((peek(kFourth + 8) & kD) == 0);  // cleared without a flush: the write left no trace
  cpu.flush_page(Gva{0x1000});
  CHECK(go(0x1000, kWrite).ok());
  CHECK((peek(kFourth + 8) & kD) == kD);
}

TEST_CASE_FIXTURE(Running, "cpu: a write through a clean translation meets the entry as it is now") {
  CHECK(go(0x1000).ok());
  SUBCASE("gone") {
    leaf(1, 0);
    CHECK(go(0x1000, kWrite).error_code == 2);
  }
  SUBCASE("read-only") {
    leaf(1, (kPage0 + kPageSize) | kP | kU);
    CHECK(go(0x1000, kWrite).error_code == 3);
  }
  SUBCASE("elsewhere") {
    leaf(1, (kPage0 + 0x7000) | kAll);
    CHECK(go(0x1000, kWrite).hpa == Hpa{kPage0 + 0x7000});
  }
}

TEST_CASE_FIXTURE(Running, "cpu: Accessed cleared without a flush is not set again by a hit") {
  CHECK(go(0x1000).ok());
  leaf(1, kPage0 | kAll);
  CHECK(go(0x1000).ok());
  CHECK((peek(kFourth + 8) & kA) == 0);
}

TEST_CASE_FIXTURE(Running, "cpu: an upper entry stays cached when leaves are flushed, and walks start below it") {
  CHECK(go(0x1000).ok());
  REQUIRE(cpu.cached_table(Gva{0x1000}).has_value());
  CHECK(cpu.cached_table(Gva{0x1000})->table == Hpa{kFourth});
  poke(kThird, kOther | kAll);  // an empty table
  cpu.flush_range(0, 512);
  CHECK(go(0x1000).hpa == Hpa{kPage0 + 0x1000});  // still through the old table
  SUBCASE("INVLPG of an address under it drops it") {
    cpu.flush_page(Gva{0x1f'f000});
    CHECK(go(0x2000).error_code == 0);
    CHECK_FALSE(go(0x2000).ok());
  }
  SUBCASE("INVLPG elsewhere does not") {
    cpu.flush_page(Gva{0x20'0000});
    CHECK(go(0x2000).hpa == Hpa{kPage0 + 0x2000});
  }
  SUBCASE("a full flush drops it") {
    cpu.flush_all();
    CHECK(cpu.tlb().structures() == 0);
    CHECK_FALSE(go(0x2000).ok());
  }
}

TEST_CASE_FIXTURE(Running, "cpu: a freed table that is still cached is walked as whatever it has become") {
  CHECK(go(0x1000).ok());
  poke(kThird, 0);
  leaf(2, 0x6'6666'6000 | kAll);  // the frame was reused
  CHECK(go(0x2000).hpa == Hpa{0x6'6666'6000});
}

TEST_CASE_FIXTURE(Running,
                  "cpu: a cached large page outlives its split, and flush_page drops it from any address in it") {
  poke(kThird, 0x20'0000 | kAll | kPs);
  CHECK(go(0x5678).hpa == Hpa{0x20'5678});
  CHECK(cpu.cached(Gva{0x1f'ffff})->level == Level{2});
  poke(kThird, kFourth | kAll);
  CHECK(go(0x9000).hpa == Hpa{0x20'9000});
  SUBCASE("flush_page") { cpu.flush_page(Gva{0x1f'f000}); }
  SUBCASE("flush_range that only overlaps it") { cpu.flush_range(0x7000, 1); }
  CHECK(go(0x9000).hpa == Hpa{kPage0 + 0x9000});
}

TEST_CASE("cpu: of two cached page sizes either may answer, and INVLPG drops both") {
  std::set<std::uint64_t> answers;
  for (std::uint64_t seed = 0; seed < 32; ++seed) {
    CpuConfig config = forgetting_nothing();
    config.seed = seed;
    Running machine{config};
    CHECK(machine.go(0x1000).ok());
    machine.poke(kThird, 0x20'0000 | kAll | kPs);
    machine.cpu.flush_page(Gva{0x2000});  // the upper entries go, the leaf of 0x1000 stays
    CHECK(machine.go(0x2000).hpa == Hpa{0x20'2000});
    answers.insert(machine.go(0x1000).hpa.value());
    machine.poke(kThird, 0);
    machine.cpu.flush_page(Gva{0x1000});
    CHECK_FALSE(machine.go(0x1000).ok());
    CHECK_FALSE(machine.go(0x2000).ok());
  }
  CHECK(answers == std::set<std::uint64_t>{kPage0 + 0x1000, 0x20'1000});
}

TEST_CASE("cpu: capacity makes entries go, now these and now those; never_evict keeps them all") {
  CpuConfig small;
  small.caches = {8, 2, false};
  Running machine{small};
  for (unsigned page = 0; page < 512; ++page) CHECK(machine.go(page * kPageSize).ok());
  CHECK(machine.cpu.tlb().pages() == 8);
  CHECK(machine.cpu.tlb().structures() == 2);
  CHECK(machine.cpu.tlb().evictions() >= 504);
  unsigned recent = 0;
  for (unsigned page = 504; page < 512; ++page) recent += machine.cpu.cached(Gva{page * kPageSize}) ? 1U : 0U;
  CHECK(recent >= 1);
  CHECK(recent < 8);  // not first in, first out

  Running keeper;
  for (unsigned page = 0; page < 512; ++page) CHECK(keeper.go(page * kPageSize).ok());
  CHECK(keeper.cpu.tlb().pages() == 512);
  CHECK(keeper.cpu.tlb().evictions() == 0);
}

TEST_CASE("cpu: the same seed evicts the same entries") {
  CpuConfig small;
  small.caches = {8, 2, false};
  const auto survivors = [&](std::uint64_t seed) {
    small.seed = seed;
    Running machine{small};
    std::set<unsigned> left;
    for (unsigned page = 0; page < 64; ++page) (void)machine.go(page * kPageSize);
    for (unsigned page = 0; page < 64; ++page) {
      if (machine.cpu.cached(Gva{page * kPageSize})) left.insert(page);
    }
    return left;
  };
  CHECK(survivors(3) == survivors(3));
  CHECK(survivors(3) != survivors(4));
}

TEST_CASE_FIXTURE(Running, "cpu: a table outside memory is reported, also when reached from a cached entry") {
  CHECK(go(0x1000).ok());
  poke(kRoot, 0x3f00'0000 | kAll);
  CHECK(go(0x2000).ok());  // the paging-structure cache hides it
  cpu.flush_all();
  CHECK(go(0x2000).kind == AccessKind::Bus);
}

TEST_CASE_FIXTURE(Running, "cpu: a refused load leaves registers and caches as they were") {
  CHECK(go(0x1000).ok());
  CHECK(cpu.load(state_of(kLong, kRoot | 1ULL << 60)) == LoadOutcome::GeneralProtection);
  CHECK(cpu.state().cr3 == kRoot);
  CHECK(cpu.cached(Gva{0x1000}).has_value());
}

TEST_CASE("cpu: PAE PDPTEs are read at load and by no flush") {
  Machine machine;
  machine.poke(kRoot, kSecond | kP);
  machine.poke(kSecond, 0x80'0000 | kAll | kPs);
  TestCpu cpu{machine.memory, forgetting_nothing()};
  REQUIRE(cpu.load(state_of(kPaeNx, kRoot)) == LoadOutcome::Ok);
  CHECK(cpu.access(0x1234, kUserWrite, kApp).hpa == Hpa{0x80'1234});
  machine.poke(kRoot, 0);
  cpu.flush_all();
  CHECK(cpu.access(0x1234, kUserWrite, kApp).ok());
  REQUIRE(cpu.load(state_of(kPaeNx, kRoot)) == LoadOutcome::Ok);
  CHECK(cpu.access(0x1234, kUserWrite, kApp).error_code == 6);
}

TEST_CASE("cpu: SMAP and CR0.WP apply to cached translations too") {
  Running machine;
  REQUIRE(machine.cpu.load(state_of(with_cr4(kLong, cr4::kSmap), kRoot)) == LoadOutcome::Ok);
  CHECK(machine.cpu.access(0x1000, kUserRead, kApp).ok());
  CHECK(machine.cpu.access(0x1000, kRead, kKernel).error_code == 1);
  CHECK(machine.cpu.access(0x1000, kRead, kKernelAc).ok());
  CHECK(machine.cpu.access(0x1000, kRead, kKernelAc, true).error_code == 1);
}

namespace {

constexpr std::uint64_t kRwx = 7, kWb = 6U << 3, kEptp = 6 | 3U << 3 | 1U << 6;

struct Extended : Machine {
  static CpuConfig config() {
    CpuConfig c = forgetting_nothing();
    c.ept = true;
    return c;
  }
  Extended() : cpu(memory, config()) {
    poke(kRoot, kSecond | kRwx);
    poke(kSecond, kThird | kRwx);
    poke(kThird, kFourth | kRwx);
    for (unsigned i = 0; i < 512; ++i) poke(kFourth + 8 * i, (kPage0 + i * kPageSize) | kRwx | kWb);
    REQUIRE(cpu.load({0, kRoot | kEptp, 0, 0}) == LoadOutcome::Ok);
  }
  TestCpu cpu;
};

}  // namespace

TEST_CASE_FIXTURE(Extended, "cpu: EPT translations go stale and are flushed like the others") {
  CHECK(cpu.access(0x1234, kWrite).hpa == Hpa{kPage0 + 0x1234});
  CHECK(cpu.access(0x1234, kRead).caching == 6);
  poke(kFourth + 8, 1 | kWb | kPage0);
  CHECK(cpu.access(0x1234, kWrite).ok());
  cpu.flush_all();
  const AccessResult refused = cpu.access(0x1234, kWrite);
  CHECK(refused.kind == AccessKind::EptViolation);
  CHECK(refused.error_code == (2 | 1U << 3));
  CHECK(cpu.access(0x1234, kRead).ok());
}

TEST_CASE_FIXTURE(Extended, "cpu: a misconfiguration is reported and never cached") {
  poke(kFourth + 8, kPage0 | 6);
  CHECK(cpu.access(0x1000, kRead).kind == AccessKind::EptMisconfig);
  CHECK_FALSE(cpu.cached(Gva{0x1000}).has_value());
  poke(kFourth + 8, kPage0 | kRwx | kWb);
  CHECK(cpu.access(0x1000, kRead).ok());
}

TEST_CASE("cpu: an EPT refusal may come from the cache when refill is off") {
  CpuConfig config = Extended::config();
  config.refill_on_fault = false;
  Extended machine;
  TestCpu cpu{machine.memory, config};
  REQUIRE(cpu.load({0, kRoot | kEptp, 0, 0}) == LoadOutcome::Ok);
  machine.poke(kFourth + 8, kPage0 | 5 | kWb);
  CHECK(cpu.access(0x1000, kRead).ok());
  machine.poke(kFourth + 8, kPage0 | kRwx | kWb);
  const AccessResult stale = cpu.access(0x1000, kWrite);
  CHECK(stale.kind == AccessKind::EptViolation);
  CHECK(stale.error_code == (2 | 5U << 3));
  CHECK(cpu.access(0x1000, kWrite).ok());
}

}  // namespace
