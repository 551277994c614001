// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <vector>

#include "shadowmmu/sim/oracle.hpp"
#include "sim/machine.hpp"

/// The oracle outside long mode: PAE and 32-bit paging.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::sim_test;
namespace {

using sim::Oracle;
using sim::OracleCpu;
using sim::OracleVerdict;
using Reference = Oracle<sim::FlatMemory>;

constexpr std::uint64_t kRoot = 0x1000, kSecond = 0x2000, kThird = 0x3000;

}  // namespace

namespace {

struct Pae : Machine {
  std::array<std::uint64_t, 4> pdptes{0, kSecond | kP, 0, 0};
  Pae() {
    poke(kSecond + 16, kThird | kP | kW | kU);
    poke(kThird + 24, 0x1'2345'6000 | kP | kW | kU);
  }
  OracleVerdict go(const Controls& controls, AccessRequest request, unsigned max_phys = 40) {
    OracleCpu cpu{controls, kRoot, pdptes, max_phys, true};
    return Reference{memory, cpu}.translate(Gva{1U << 30 | 2U << 21 | 3U << 12 | 0x567},
                                            {request, mode_of(request), false});
  }
};

}  // namespace

TEST_CASE_FIXTURE(Pae, "oracle: PAE goes through the PDPTE registers, not through memory") {
  poke(kRoot + 8, 0);
  const OracleVerdict v = go(kPaeNx, kUserWrite);
  REQUIRE_FALSE(v.fault);
  CHECK(v.gpa == Gpa{0x1'2345'6567});
  REQUIRE(v.updates.size() == 2);  // a PDPTE has no Accessed flag
  CHECK(v.updates[0].gpa == Gpa{kSecond + 16});
  CHECK(v.updates[1].value == (0x1'2345'6000 | kP | kW | kU | kA | kD));
  pdptes[1] = kSecond;
  CHECK(go(kPaeNx, kUserWrite).error_code == (pferr::kUser | pferr::kWrite));
}

TEST_CASE("oracle: PAE reserved bits include 62:52") {
  struct Row {
    std::uint64_t cell, extra;
    Controls controls;
    unsigned max_phys;
    bool reserved;
  };
  const std::vector<Row> rows{
      {kSecond + 16, 1ULL << 52, kPaeNx, 40, true},  {kSecond + 16, 1ULL << 62, kPaeNx, 52, true},
      {kSecond + 16, 1ULL << 40, kPaeNx, 40, true},  {kSecond + 16, kNx, kPaeNx, 40, false},
      {kSecond + 16, kNx, kPaeNoNx, 40, true},       {kThird + 24, 1ULL << 52, kPaeNx, 40, true},
      {kThird + 24, 1ULL << 62, kPaeNoNx, 52, true}, {kThird + 24, 1ULL << 39, kPaeNx, 40, false},
      {kThird + 24, 1ULL << 36, kPaeNx, 36, true},   {kThird + 24, kPs, kPaeNx, 40, false},
      {kThird + 24, kNx, kPaeNoNx, 40, true},
  };
  for (const Row& row : rows) {
    CAPTURE(row.cell);
    CAPTURE(row.extra);
    Pae machine;
    machine.poke(row.cell, machine.peek(row.cell) | row.extra);
    const OracleVerdict v = machine.go(row.controls, kRead, row.max_phys);
    CHECK(v.fault == row.reserved);
    if (row.reserved) CHECK(v.error_code == 9);
  }
}

TEST_CASE_FIXTURE(Pae, "oracle: PAE 2 MiB pages") {
  poke(kSecond + 16, 0x12'3460'0000 | kP | kPs | 1U << 12);
  CHECK(go(kPaeNx, kRead).gpa == Gpa{0x12'3460'0000 | 0x3567});
  CHECK(go(kPaeNx, kRead).level == Level{2});
  poke(kSecond + 16, 0x12'3460'0000 | kP | kPs | 1U << 13);
  CHECK(go(kPaeNx, kRead).error_code == 9);
}

TEST_CASE("oracle: PDPTEs are read from a 32-byte boundary and refused when reserved bits are set") {
  Machine machine;
  machine.poke(0x1028, 0x2001);
  const auto loaded = Reference::read_pdptes(machine.memory, 0x103f);  // 0x1020
  CHECK(loaded == std::array<std::uint64_t, 4>{0, 0x2001, 0, 0});
  CHECK(Reference::pdptes_loadable(loaded, 40));
  for (const unsigned bit : {1U, 2U, 5U, 8U, 40U, 63U}) {
    CHECK_FALSE(Reference::pdptes_loadable({0, 0, 0, 0x2001 | 1ULL << bit}, 40));
    CHECK(Reference::pdptes_loadable({0, 0, 0, 0x2000 | 1ULL << bit}, 40));  // absent: not looked at
  }
  for (const unsigned bit : {3U, 4U, 9U, 39U}) CHECK(Reference::pdptes_loadable({0x2001 | 1ULL << bit, 0, 0, 0}, 40));
  CHECK(Reference::read_pdptes(machine.memory, 0x7000'0000) == std::array<std::uint64_t, 4>{});
}

namespace {

struct Legacy : Machine {
  Legacy() {
    poke(kRoot + 4 * 4, kSecond | kP | kW | kU, 4);
    poke(kSecond + 5 * 4, 0x8765'4000 | kP | kW | kU, 4);
  }
  OracleVerdict go(const Controls& controls, AccessRequest request, unsigned max_phys = 40) {
    OracleCpu cpu{controls, kRoot | 0x18, {}, max_phys, true};
    return Reference{memory, cpu}.translate(Gva{4U << 22 | 5U << 12 | 0x678}, {request, mode_of(request), false});
  }
};

}  // namespace

TEST_CASE_FIXTURE(Legacy, "oracle: 32-bit paging with 4-byte entries") {
  const OracleVerdict v = go(kLegacy, kUserWrite);
  REQUIRE_FALSE(v.fault);
  CHECK(v.gpa == Gpa{0x8765'4678});
  REQUIRE(v.updates.size() == 2);
  CHECK(v.updates[0].gpa == Gpa{kRoot + 16});
  CHECK(v.updates[0].bytes == 4);
  CHECK(v.updates[1].value == (0x8765'4000 | kP | kW | kU | kA | kD));
  // No execute-disable here, whatever EFER says; bit 4 of the code needs PAE or SMEP.
  Controls nxe = kLegacy;
  nxe.efer = efer::kNxe;
  CHECK_FALSE(go(nxe, kUserFetch).fault);
  poke(kSecond + 20, 0x8765'4000 | kP, 4);
  CHECK(go(nxe, kUserFetch).error_code == (pferr::kPresent | pferr::kUser));
  CHECK(go(with_cr4(nxe, cr4::kSmep), kUserFetch).error_code == (pferr::kPresent | pferr::kUser | pferr::kFetch));
}

TEST_CASE_FIXTURE(Legacy, "oracle: bit 7 of a PDE is ignored without CR4.PSE and maps 4 MiB with it") {
  poke(kRoot + 16, kSecond | kP | kW | kU | kPs, 4);
  CHECK(go(kLegacy, kRead).gpa == Gpa{0x8765'4678});
  poke(kRoot + 16, 0xc040'0000 | kP | kW | kU | kPs, 4);
  const OracleVerdict v = go(kLegacyPse, kWrite);
  CHECK(v.gpa == Gpa{0xc040'0000 | 5U << 12 | 0x678});
  CHECK(v.level == Level{2});
  REQUIRE(v.updates.size() == 1);
  CHECK(v.updates[0].value == (0xc040'0000 | kP | kW | kU | kPs | kA | kD));
}

TEST_CASE_FIXTURE(Legacy, "oracle: PSE-36 puts bits 39:32 into 20:13, and reserves what MAXPHYADDR leaves over") {
  const std::uint64_t base = 0x0040'0000 | kP | kPs;
  poke(kRoot + 16, base | 0xffU << 13, 4);
  CHECK(go(kLegacyPse, kRead, 40).gpa == Gpa{0xff'0040'5678});
  CHECK(go(kLegacyPse, kRead, 52).gpa == Gpa{0xff'0040'5678});
  CHECK(go(kLegacyPse, kRead, 39).error_code == 9);
  poke(kRoot + 16, base | 0x0fU << 13, 4);
  CHECK(go(kLegacyPse, kRead, 36).gpa == Gpa{0x0f'0040'5678});
  CHECK(go(kLegacyPse, kRead, 35).error_code == 9);
  poke(kRoot + 16, base | 1U << 13, 4);
  CHECK(go(kLegacyPse, kRead, 33).gpa == Gpa{0x1'0040'5678});
  CHECK(go(kLegacyPse, kRead, 32).error_code == 9);
  poke(kRoot + 16, base | 1U << 21, 4);
  CHECK(go(kLegacyPse, kRead, 40).error_code == 9);
  CHECK(go(kLegacy, kRead, 40).error_code == 0);  // without PSE the same entry names a table that maps nothing
  poke(kRoot + 16, base | 1U << 12, 4);
  CHECK_FALSE(go(kLegacyPse, kRead, 32).fault);
}

}  // namespace
