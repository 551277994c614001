// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/ept_walker.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sim/machine.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::sim_test;
namespace {

using sim::AccessKind;
using sim::EptFeatures;
using sim::HwFeatures;
using sim::LoadOutcome;
using sim::WalkResult;
using Ept = sim::EptWalker<sim::FlatMemory>;

constexpr std::uint64_t kRoot = 0x1000, kSecond = 0x2000, kThird = 0x3000, kFourth = 0x4000;
constexpr std::uint64_t kEptRead = 1, kEptWrite = 2, kEptExec = 4, kRwx = 7, kWb = 6U << 3, kIpat = 1U << 6;
constexpr std::uint64_t kEptA = 1U << 8, kEptD = 1U << 9;
constexpr std::uint64_t kEptp = 6 | 3U << 3, kEptpFlags = 1U << 6;
constexpr std::uint64_t kAddress = std::uint64_t{1} << 39 | 2U << 30 | 3U << 21 | 4U << 12 | 0xabc;

struct Tables : Machine {
  Tables() {
    poke(kRoot + 8, kSecond | kRwx);
    poke(kSecond + 16, kThird | kRwx);
    poke(kThird + 24, kFourth | kRwx);
    poke(kFourth + 32, 0x9'8765'4000 | kRwx | kWb);
  }
  WalkResult go(AccessRequest request, bool flags = false, HwFeatures features = {}, EptFeatures ept = {}) {
    Ept walker{memory, features, ept};
    REQUIRE(walker.load({0, kRoot | kEptp | (flags ? kEptpFlags : 0), 0, 0}) == LoadOutcome::Ok);
    return walker.walk(kAddress, request);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Tables, "ept: translation, memory type and Accessed and Dirty flags only when enabled") {
  const WalkResult plain = go(kWrite);
  REQUIRE(plain.ok());
  CHECK(plain.hpa == Hpa{0x9'8765'4abc});
  CHECK(plain.caching == 6);
  CHECK(go(kRead).dirty);  // no Dirty flag to set
  CHECK(peek(kRoot + 8) == (kSecond | kRwx));
  CHECK(peek(kFourth + 32) == (0x9'8765'4000 | kRwx | kWb));
  const WalkResult read = go(kRead, true);
  CHECK_FALSE(read.dirty);
  CHECK(peek(kRoot + 8) == (kSecond | kRwx | kEptA));
  CHECK(peek(kThird + 24) == (kFourth | kRwx | kEptA));
  CHECK(peek(kFourth + 32) == (0x9'8765'4000 | kRwx | kWb | kEptA));
  CHECK(go(kWrite, true).dirty);
  CHECK(peek(kFourth + 32) == (0x9'8765'4000 | kRwx | kWb | kEptA | kEptD));
  CHECK(peek(kThird + 24) == (kFourth | kRwx | kEptA));
  poke(kFourth + 32, kRwx | kIpat);
  CHECK(go(kRead).caching == 8);
}

TEST_CASE_FIXTURE(Tables, "ept: large pages") {
  poke(kThird + 24, 0x20'0000 | kRwx | kWb | kPs);
  CHECK(go(kRead).hpa == Hpa{0x20'0000 | 4U << 12 | 0xabc});
  poke(kSecond + 16, 0x4000'0000 | kRwx | kWb | kPs);
  CHECK(go(kRead).hpa == Hpa{0x4000'0000 | 3U << 21 | 4U << 12 | 0xabc});
  CHECK(go(kRead).level == Level{3});
  CHECK(go(kRead, false, HwFeatures{46, false}).kind == AccessKind::EptMisconfig);
}

TEST_CASE("ept: a violation's qualification holds the access and what all entries together allow") {
  struct Row {
    std::uint64_t upper, leaf;
    AccessRequest request;
    std::uint32_t qualification;  // 0: allowed
  };
  const std::vector<Row> rows{
      {kRwx, kEptRead, kWrite, 2 | 1U << 3},
      {kRwx, kEptRead, kFetch, 4 | 1U << 3},
      {kRwx, kEptRead | kEptWrite, kFetch, 4 | 3U << 3},
      {kRwx, kEptExec, kRead, 1 | 4U << 3},
      {kRwx, kEptExec, kFetch, 0},
      {kEptRead | kEptExec, kRwx, kWrite, 2 | 5U << 3},
      {kEptExec, kEptRead | kEptWrite, kFetch, 4},  // the conjunction is empty
      {kRwx, 0, kRead, 1},
      {kRwx, 0, kWrite, 2},
      {0, kRwx, kFetch, 4},
      {kRwx, kEptRead, kUserRead, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.upper);
    CAPTURE(row.leaf);
    Tables machine;
    machine.poke(kSecond + 16, kThird | row.upper);
    machine.poke(kFourth + 32, 0x5000 | row.leaf | kWb);
    const WalkResult walk = machine.go(row.request, true);
    CHECK(walk.kind == (row.qualification == 0 ? AccessKind::Ok : AccessKind::EptViolation));
    CHECK(walk.error_code == row.qualification);
    if (row.qualification != 0) CHECK((machine.peek(kFourth + 32) & (kEptA | kEptD)) == 0);
  }
}

TEST_CASE("ept: misconfigurations") {
  struct Row {
    const char* name;
    std::uint64_t cell, entry;
    bool bad;
  };
  const std::uint64_t leaf = 0x5000 | kWb | kRwx;
  const std::vector<Row> rows{
      {"write only", kFourth + 32, 0x5000 | kWb | 2, true},
      {"write and execute", kFourth + 32, 0x5000 | kWb | 6, true},
      {"write and execute above", kSecond + 16, kThird | 6, true},
      {"type 0", kFourth + 32, 0x5000 | kRwx | 0U << 3, false},
      {"type 1", kFourth + 32, 0x5000 | kRwx | 1U << 3, false},
      {"type 2", kFourth + 32, 0x5000 | kRwx | 2U << 3, true},
      {"type 3", kFourth + 32, 0x5000 | kRwx | 3U << 3, true},
      {"type 4", kFourth + 32, 0x5000 | kRwx | 4U << 3, false},
      {"type 5", kFourth + 32, 0x5000 | kRwx | 5U << 3, false},
      {"type 7", kFourth + 32, 0x5000 | kRwx | 7U << 3, true},
      {"type 3 in a 2 MiB page", kThird + 24, kRwx | kPs | 3U << 3, true},
      {"type bits of a table entry", kThird + 24, kFourth | kRwx | 1U << 3, true},
      {"bit 6 of a table entry", kSecond + 16, kThird | kRwx | 1U << 6, true},
      {"bit 3 of a PML4 entry", kRoot + 8, kSecond | kRwx | 1U << 3, true},
      {"bit 7 of a PML4 entry", kRoot + 8, kSecond | kRwx | 1U << 7, true},
      {"bit 12 of a 2 MiB page", kThird + 24, kRwx | kPs | kWb | 1U << 12, true},
      {"bit 20 of a 2 MiB page", kThird + 24, kRwx | kPs | kWb | 1U << 20, true},
      {"bit 29 of a 1 GiB page", kSecond + 16, kRwx | kPs | kWb | 1U << 29, true},
      {"bit 30 of a 1 GiB page", kSecond + 16, kRwx | kPs | kWb | 1U << 30, false},
      {"bit 7 of a PTE is ignored", kFourth + 32, leaf | 1U << 7, false},
      {"bits 10 and 11 are ignored", kFourth + 32, leaf | 3U << 10, false},
      {"bits 63:52 are ignored", kFourth + 32, leaf | 0xfffULL << 52, false},
      {"bit MAXPHYADDR", kFourth + 32, leaf | 1ULL << 46, true},
      {"bit 45", kFourth + 32, leaf | 1ULL << 45, false},
      {"bit 51 above", kRoot + 8, kSecond | kRwx | 1ULL << 51, true},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string{row.name});
    Tables machine;
    machine.poke(row.cell, row.entry);
    CHECK(machine.go(kRead).kind == (row.bad ? AccessKind::EptMisconfig : AccessKind::Ok));
    machine.poke(row.cell, row.entry & ~kRwx);  // not present: a violation, whatever else it holds
    CHECK(machine.go(kRead).kind == AccessKind::EptViolation);
  }
}

TEST_CASE_FIXTURE(Tables, "ept: execute-only is a misconfiguration where it is not supported") {
  poke(kFourth + 32, 0x5000 | kWb | kEptExec);
  CHECK(go(kFetch, false, {}, EptFeatures{true, true}).ok());
  CHECK(go(kFetch, false, {}, EptFeatures{true, false}).kind == AccessKind::EptMisconfig);
}

TEST_CASE_FIXTURE(Tables, "ept: a misconfiguration below comes before a violation of rights above") {
  poke(kSecond + 16, kThird | kEptRead);
  poke(kFourth + 32, 0x5000 | kRwx | 3U << 3);
  CHECK(go(kWrite).kind == AccessKind::EptMisconfig);
  poke(kSecond + 16, 0);
  CHECK(go(kWrite).kind == AccessKind::EptViolation);
}

TEST_CASE_FIXTURE(Tables, "ept: the EPT pointer") {
  const auto load = [&](std::uint64_t eptp, bool flags_supported = true) {
    Ept walker{memory, HwFeatures{40, true}, EptFeatures{flags_supported, true}};
    return walker.load({0, eptp, 0, 0});
  };
  CHECK(load(kRoot | kEptp) == LoadOutcome::Ok);
  CHECK(load(kRoot | 0 | 3U << 3) == LoadOutcome::Ok);
  CHECK(load(kRoot | 1 | 3U << 3) == LoadOutcome::GeneralProtection);
  CHECK(load(kRoot | 6 | 2U << 3) == LoadOutcome::GeneralProtection);
  CHECK(load(kRoot | kEptp | 1U << 7) == LoadOutcome::GeneralProtection);
  CHECK(load(kRoot | kEptp | 1ULL << 40) == LoadOutcome::GeneralProtection);
  CHECK(load(kRoot | kEptp | kEptpFlags, true) == LoadOutcome::Ok);
  CHECK(load(kRoot | kEptp | kEptpFlags, false) == LoadOutcome::GeneralProtection);
}

TEST_CASE_FIXTURE(Tables, "ept: a table outside memory is a bus error; an address beyond 48 bits is a violation") {
  Ept walker{memory, {}, {}};
  REQUIRE(walker.load({0, kRoot | kEptp, 0, 0}) == LoadOutcome::Ok);
  CHECK(walker.walk(kAddress | 1ULL << 48, kRead).kind == AccessKind::EptViolation);
  poke(kThird + 24, 0x3f00'0000 | kRwx);
  CHECK(walker.walk(kAddress, kRead).kind == AccessKind::Bus);
}

}  // namespace
