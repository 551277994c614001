// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/oracle.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sim/machine.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::sim_test;
namespace {

using sim::EntryUpdate;
using sim::Oracle;
using sim::OracleAccess;
using sim::OracleCpu;
using sim::OracleVerdict;
using Reference = Oracle<sim::FlatMemory>;

// Tables in frames 1 (root), 2, 3, 4; the mapped address uses index 1 everywhere, so each level has its own entry.
constexpr std::uint64_t kRoot = 0x1000, kSecond = 0x2000, kThird = 0x3000, kFourth = 0x4000;

std::uint64_t four_level_address() { return std::uint64_t{1} << 39 | 1U << 30 | 1U << 21 | 1U << 12 | 0x234; }

struct FourLevel : Machine {
  FourLevel() {
    poke(kRoot + 8, kSecond | kP | kW | kU);
    poke(kSecond + 8, kThird | kP | kW | kU);
    poke(kThird + 8, kFourth | kP | kW | kU);
    poke(kFourth + 8, 0x1'2345'6000 | kP | kW | kU);
  }
  OracleVerdict go(const Controls& controls, AccessRequest request, unsigned max_phys = 40, bool has_1g = true) {
    return go(controls, {request, mode_of(request), false}, max_phys, has_1g);
  }
  OracleVerdict go(const Controls& controls, const OracleAccess& access, unsigned max_phys = 40, bool has_1g = true) {
    OracleCpu cpu{controls, kRoot, {}, max_phys, has_1g};
    return Reference{memory, cpu}.translate(Gva{four_level_address()}, access);
  }
};

}  // namespace

TEST_CASE("oracle: without paging the linear address is the physical one, cut to 32 bits") {
  Machine machine;
  const OracleCpu cpu{Controls{cr0::kPe, 0, 0}, 0, {}, 40, true};
  const OracleVerdict v = Reference{machine.memory, cpu}.translate(Gva{0x1'8765'4321}, {kWrite, kApp, false});
  CHECK_FALSE(v.fault);
  CHECK(v.gpa == Gpa{0x8765'4321});
  CHECK(v.rights == Access::all());
  CHECK(v.updates.empty());
}

TEST_CASE_FIXTURE(FourLevel,
                  "oracle: 4-level, 4 KiB: address, level, Accessed on every level, Dirty on the leaf only") {
  const OracleVerdict read = go(kLong, kRead);
  REQUIRE_FALSE(read.fault);
  CHECK(read.gpa == Gpa{0x1'2345'6234});
  CHECK(read.level == Level{1});
  REQUIRE(read.updates.size() == 4);
  CHECK(read.updates[0].gpa == Gpa{kRoot + 8});
  CHECK(read.updates[0].value == (kSecond | kP | kW | kU | kA));
  CHECK(read.updates[0].bytes == 8);
  CHECK(read.updates[3].gpa == Gpa{kFourth + 8});
  CHECK(read.updates[3].value == (0x1'2345'6000 | kP | kW | kU | kA));

  const OracleVerdict write = go(kLong, kWrite);
  REQUIRE(write.updates.size() == 4);
  CHECK(write.updates[2].value == (kFourth | kP | kW | kU | kA));
  CHECK(write.updates[3].value == (0x1'2345'6000 | kP | kW | kU | kA | kD));

  CHECK(peek(kFourth + 8) == (0x1'2345'6000 | kP | kW | kU));  // translate itself writes nothing
  Reference::apply(memory, write);
  CHECK(peek(kFourth + 8) == (0x1'2345'6000 | kP | kW | kU | kA | kD));
  CHECK(go(kLong, kWrite).updates.empty());
}

TEST_CASE_FIXTURE(FourLevel, "oracle: 4-level large pages take their offset from the address") {
  poke(kThird + 8, 0x12'3460'0000 | kP | kW | kU | kPs | 1U << 12);  // bit 12 is PAT
  OracleVerdict v = go(kLong, kRead);
  REQUIRE_FALSE(v.fault);
  CHECK(v.gpa == Gpa{0x12'3460'0000 | 0x1234});
  CHECK(v.level == Level{2});
  CHECK(v.updates.size() == 3);
  poke(kSecond + 8, 0x12'4000'0000 | kP | kW | kU | kPs | 1U << 12);
  v = go(kLong, kWrite);
  REQUIRE_FALSE(v.fault);
  CHECK(v.gpa == Gpa{0x12'4000'0000 | 0x20'1234});
  CHECK(v.level == Level{3});
  CHECK(v.updates.size() == 2);
  CHECK(v.updates[1].value == (0x12'4000'0000 | kP | kW | kU | kPs | 1U << 12 | kA | kD));
}

TEST_CASE_FIXTURE(FourLevel, "oracle: 4-level reserved bits, by level, MAXPHYADDR, NXE and 1 GiB support") {
  struct Row {
    const char* name;
    std::uint64_t cell, entry;
    Controls controls;
    unsigned max_phys;
    bool has_1g;
    bool reserved;
  };
  const std::uint64_t flags = kP | kW | kU;
  const std::vector<Row> rows{
      {"PML4E bit 7", kRoot + 8, flags | kPs, kLong, 40, true, true},
      {"PML4E bit MAXPHYADDR", kRoot + 8, kSecond | flags | 1ULL << 40, kLong, 40, true, true},
      {"PML4E bit 51", kRoot + 8, kSecond | flags | 1ULL << 51, kLong, 40, true, true},
      {"PML4E bit 52 is ignored", kRoot + 8, kSecond | flags | 1ULL << 52, kLong, 40, true, false},
      {"PML4E bit 62 is ignored", kRoot + 8, kSecond | flags | 1ULL << 62, kLong, 40, true, false},
      {"PML4E XD without NXE", kRoot + 8, kSecond | flags | kNx, kLongNoNx, 40, true, true},
      {"PML4E XD with NXE", kRoot + 8, kSecond | flags | kNx, kLong, 40, true, false},
      {"PDPTE bit 36 at MAXPHYADDR 36", kSecond + 8, kThird | flags | 1ULL << 36, kLong, 36, true, true},
      {"PDPTE PS without 1 GiB pages", kSecond + 8, flags | kPs, kLong, 40, false, true},
      {"PDPTE PS with 1 GiB pages", kSecond + 8, flags | kPs, kLong, 40, true, false},
      {"1 GiB bit 13", kSecond + 8, flags | kPs | 1U << 13, kLong, 40, true, true},
      {"1 GiB bit 29", kSecond + 8, flags | kPs | 1U << 29, kLong, 40, true, true},
      {"1 GiB bit 12 is PAT", kSecond + 8, flags | kPs | 1U << 12, kLong, 40, true, false},
      {"2 MiB bit 13", kThird + 8, flags | kPs | 1U << 13, kLong, 40, true, true},
      {"2 MiB bit 20", kThird + 8, flags | kPs | 1U << 20, kLong, 40, true, true},
      {"2 MiB bit 21 is address", kThird + 8, flags | kPs | 1U << 21, kLong, 40, true, false},
      {"2 MiB bit 40", kThird + 8, flags | kPs | 1ULL << 40, kLong, 40, true, true},
      {"PTE bit 7 is PAT", kFourth + 8, 0x5000 | flags | kPs, kLong, 40, true, false},
      {"PTE bit 40", kFourth + 8, 0x5000 | flags | 1ULL << 40, kLong, 40, true, true},
      {"PTE bit 39", kFourth + 8, 0x5000 | flags | 1ULL << 39, kLong, 40, true, false},
      {"PTE bit 51 at MAXPHYADDR 52", kFourth + 8, 0x5000 | flags | 1ULL << 51, kLong, 52, true, false},
      {"PTE XD without NXE", kFourth + 8, 0x5000 | flags | kNx, kLongNoNx, 40, true, true},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string{row.name});
    FourLevel fresh;
    fresh.poke(row.cell, row.entry);
    const OracleVerdict v = fresh.go(row.controls, kUserRead, row.max_phys, row.has_1g);
    CHECK(v.fault == row.reserved);
    if (row.reserved) CHECK(v.error_code == (pferr::kPresent | pferr::kReserved | pferr::kUser));
    fresh.poke(row.cell, row.entry & ~kP);  // reserved bits count in present entries only
    const OracleVerdict absent = fresh.go(row.controls, kUserRead, row.max_phys, row.has_1g);
    CHECK(absent.fault);
    CHECK(absent.error_code == pferr::kUser);
  }
}

TEST_CASE_FIXTURE(FourLevel, "oracle: a reserved bit is reported although the rights would refuse too") {
  poke(kSecond + 8, kThird | kP);  // neither writable nor user
  poke(kFourth + 8, 0x5000 | kP | 1ULL << 45);
  CHECK(go(kLong, kUserWrite).error_code == (pferr::kPresent | pferr::kReserved | pferr::kUser | pferr::kWrite));
}

TEST_CASE_FIXTURE(FourLevel, "oracle: not present at each level, and where there is no memory") {
  for (const std::uint64_t cell : {kRoot + 8, kSecond + 8, kThird + 8, kFourth + 8}) {
    FourLevel fresh;
    fresh.poke(cell, fresh.peek(cell) & ~kP);
    CHECK(fresh.go(kLong, kWrite).error_code == pferr::kWrite);
    CHECK(fresh.go(kLong, kUserRead).error_code == pferr::kUser);
    CHECK(fresh.go(kLong, kRead).error_code == 0);
    CHECK(fresh.go(kLong, kFetch).error_code == pferr::kFetch);
    CHECK(fresh.go(kLongNoNx, kFetch).error_code == 0);
    CHECK(fresh.go(with_cr4(kLongNoNx, cr4::kSmep), kUserFetch).error_code == (pferr::kFetch | pferr::kUser));
  }
  poke(kThird + 8, 0x7f'0000'0000 | kP | kW | kU);  // beyond memory
  const OracleVerdict v = go(kLong, kRead);
  CHECK(v.fault);
  CHECK(v.error_code == 0);
  CHECK(v.may_update.size() == 3);
}

TEST_CASE_FIXTURE(FourLevel,
                  "oracle: on a fault nothing is owed, Accessed in the entries above may be set, Dirty never") {
  poke(kFourth + 8, 0x5000 | kP | kU);
  const OracleVerdict v = go(kLong, kUserWrite);
  CHECK(v.error_code == (pferr::kPresent | pferr::kWrite | pferr::kUser));
  CHECK(v.updates.empty());
  REQUIRE(v.may_update.size() == 3);
  for (const EntryUpdate& update : v.may_update) {
    CHECK(update.gpa != Gpa{kFourth + 8});
    CHECK((update.value & (kA | kD)) == kA);
  }
}

TEST_CASE("oracle: the rights of SDM 4.6.1, every combination that decides") {
  struct Row {
    const char* name;
    std::uint64_t rights;  // of the leaf, on top of P
    Controls controls;
    AccessRequest request;
    CpuMode mode;
    bool implicit;
    bool allowed;
  };
  const Controls smap = with_cr4(kLong, cr4::kSmap), smep = with_cr4(kLong, cr4::kSmep);
  const Controls no_wp = without_wp(kLong), smap_no_wp = without_wp(smap);
  const std::vector<Row> rows{
      {"supervisor reads supervisor", 0, kLong, kRead, kKernel, false, true},
      {"supervisor writes read-only supervisor, WP", 0, kLong, kWrite, kKernel, false, false},
      {"supervisor writes read-only supervisor, no WP", 0, no_wp, kWrite, kKernel, false, true},
      {"supervisor writes read-only user, WP", kU, kLong, kWrite, kKernel, false, false},
      {"supervisor writes read-only user, no WP", kU, no_wp, kWrite, kKernel, false, true},
      {"supervisor writes writable", kW, kLong, kWrite, kKernel, false, true},
      {"user reads supervisor", kW, kLong, kUserRead, kApp, false, false},
      {"user reads user", kU, kLong, kUserRead, kApp, false, true},
      {"user writes read-only, no WP", kU, no_wp, kUserWrite, kApp, false, false},
      {"user writes writable", kU | kW, kLong, kUserWrite, kApp, false, true},
      {"user fetches", kU, kLong, kUserFetch, kApp, false, true},
      {"user fetches XD", kU | kNx, kLong, kUserFetch, kApp, false, false},
      {"user fetches supervisor", 0, kLong, kUserFetch, kApp, false, false},
      {"user reads XD", kU | kNx, kLong, kUserRead, kApp, false, true},
      {"supervisor fetches XD", kNx, kLong, kFetch, kKernel, false, false},
      {"supervisor fetches user, no SMEP", kU, kLong, kFetch, kKernel, false, true},
      {"supervisor fetches user, SMEP", kU, smep, kFetch, kKernel, false, false},
      {"supervisor fetches supervisor, SMEP", 0, smep, kFetch, kKernel, false, true},
      {"SMEP does not concern data", kU, smep, kRead, kKernel, false, true},
      {"user fetches user, SMEP", kU, smep, kUserFetch, kApp, false, true},
      {"SMAP read", kU, smap, kRead, kKernel, false, false},
      {"SMAP read with AC", kU, smap, kRead, kKernelAc, false, true},
      {"SMAP implicit read with AC", kU, smap, kRead, kKernelAc, true, false},
      {"SMAP read from CPL 3 is implicit, AC or not", kU, smap, kRead, kAppAc, false, false},
      {"SMAP read of supervisor", 0, smap, kRead, kKernel, false, true},
      {"SMAP implicit read of supervisor", 0, smap, kRead, kKernel, true, true},
      {"SMAP does not concern fetches", kU, smap, kFetch, kKernel, false, true},
      {"SMAP does not concern user accesses", kU, smap, kUserRead, kApp, false, true},
      {"SMAP write with AC, read-only, WP", kU, smap, kWrite, kKernelAc, false, false},
      {"SMAP write with AC, read-only, no WP", kU, smap_no_wp, kWrite, kKernelAc, false, true},
      {"SMAP write, read-only, no WP", kU, smap_no_wp, kWrite, kKernel, false, false},
      {"no SMAP: implicit read", kU, kLong, kRead, kKernel, true, true},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string{row.name});
    FourLevel machine;
    machine.poke(kFourth + 8, 0x5000 | kP | row.rights);
    const OracleVerdict v = machine.go(row.controls, OracleAccess{row.request, row.mode, row.implicit});
    CHECK(v.fault != row.allowed);
    if (!row.allowed) CHECK(v.error_code == (pferr::kPresent | row.request.error_bits()));
    CHECK(v.rights.write() == ((row.rights & kW) != 0));
    CHECK(v.rights.user() == ((row.rights & kU) != 0));
    CHECK(v.rights.exec() == ((row.rights & kNx) == 0));
  }
}

TEST_CASE("oracle: each level takes rights away") {
  for (const std::uint64_t cell : {kRoot + 8, kSecond + 8, kThird + 8, kFourth + 8}) {
    FourLevel machine;
    const std::uint64_t entry = machine.peek(cell);
    machine.poke(cell, entry & ~kW);
    CHECK(machine.go(kLong, kWrite).error_code == 3);
    machine.poke(cell, entry & ~kU);
    CHECK(machine.go(kLong, kUserRead).error_code == 5);
    CHECK_FALSE(machine.go(with_cr4(kLong, cr4::kSmep | cr4::kSmap), kFetch).fault);  // now a supervisor address
    machine.poke(cell, entry | kNx);
    CHECK(machine.go(kLong, kFetch).error_code == 0x11);
    CHECK(machine.go(kLong, kUserFetch).error_code == 0x15);
  }
}

TEST_CASE("oracle: a self-mapped table gives one update for an entry used twice") {
  Machine machine;
  machine.poke(kRoot + 511 * 8, kRoot | kP | kW);
  OracleCpu cpu{kLong, kRoot, {}, 40, true};
  const OracleVerdict v = Reference{machine.memory, cpu}.translate(Gva{~0ULL << 3}, {kWrite, kKernel, false});
  REQUIRE_FALSE(v.fault);
  CHECK(v.gpa == Gpa{kRoot + 0xff8});
  REQUIRE(v.updates.size() == 1);
  CHECK(v.updates[0].value == (kRoot | kP | kW | kA | kD));
}

TEST_CASE("oracle: five levels when CR4.LA57 is set") {
  FourLevel machine;
  machine.poke(0x5000 + 16, kRoot | kP | kW | kU);
  OracleCpu cpu{with_cr4(kLong, cr4::kLa57), 0x5000, {}, 40, true};
  const Gva gva{std::uint64_t{2} << 48 | four_level_address()};
  CHECK(Reference{machine.memory, cpu}.translate(gva, {kRead, kKernel, false}).gpa == Gpa{0x1'2345'6234});
  CHECK(Reference{machine.memory, cpu}.translate(gva, {kRead, kKernel, false}).updates.size() == 5);
  machine.poke(0x5000 + 16, kRoot | kP | kPs);
  CHECK(Reference{machine.memory, cpu}.translate(gva, {kRead, kKernel, false}).error_code == 9);
}

}  // namespace
