// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/hw_walker.hpp"

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
using sim::HwFeatures;
using sim::LoadOutcome;
using sim::WalkResult;
using Hardware = sim::HwWalker<sim::FlatMemory>;

constexpr std::uint64_t kRoot = 0x1000, kSecond = 0x2000, kThird = 0x3000, kFourth = 0x4000, kAll = kP | kW | kU;
constexpr std::uint64_t kAddress = std::uint64_t{1} << 39 | 2U << 30 | 3U << 21 | 4U << 12 | 0xabc;

struct Shadow : Machine {
  Shadow() {
    poke(kRoot + 1 * 8, kSecond | kAll);
    poke(kSecond + 2 * 8, kThird | kAll);
    poke(kThird + 3 * 8, kFourth | kAll);
    poke(kFourth + 4 * 8, 0x9'8765'4000 | kAll);
  }
  WalkResult go(const Controls& controls, AccessRequest request, CpuMode mode, HwFeatures features = {}) {
    Hardware walker{memory, features};
    REQUIRE(walker.load(state_of(controls, kRoot)) == LoadOutcome::Ok);
    return walker.walk(kAddress, request, mode, false);
  }
  WalkResult go(const Controls& controls, AccessRequest request, HwFeatures features = {}) {
    return go(controls, request, mode_of(request), features);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Shadow, "walker: 4-level read sets Accessed everywhere, write sets Dirty on the leaf alone") {
  const WalkResult read = go(kLong, kUserRead);
  REQUIRE(read.ok());
  CHECK(read.hpa == Hpa{0x9'8765'4abc});
  CHECK(read.level == Level{1});
  CHECK(read.rights == Access::kAll);
  CHECK_FALSE(read.dirty);
  CHECK(peek(kRoot + 8) == (kSecond | kAll | kA));
  CHECK(peek(kSecond + 16) == (kThird | kAll | kA));
  CHECK(peek(kThird + 24) == (kFourth | kAll | kA));
  CHECK(peek(kFourth + 32) == (0x9'8765'4000 | kAll | kA));
  const WalkResult write = go(kLong, kUserWrite);
  CHECK(write.dirty);
  CHECK(peek(kThird + 24) == (kFourth | kAll | kA));
  CHECK(peek(kFourth + 32) == (0x9'8765'4000 | kAll | kA | kD));
  CHECK(go(kLong, kUserRead).dirty);
}

TEST_CASE_FIXTURE(Shadow, "walker: it names the tables it came through, with the rights left there") {
  poke(kSecond + 16, kThird | kP | kW);
  poke(kThird + 24, kFourth | kP | kU);
  const WalkResult walk = go(kLong, kRead);
  REQUIRE(walk.step_count == 3);
  CHECK(walk.steps[0].table == Hpa{kSecond});
  CHECK(walk.steps[0].level == Level{3});
  CHECK(walk.steps[0].shift == 39);
  CHECK(walk.steps[0].rights == Access::kAll);
  CHECK(walk.steps[1].shift == 30);
  CHECK(walk.steps[1].rights == (Access::kWrite | Access::kExec));
  CHECK(walk.steps[2].table == Hpa{kFourth});
  CHECK(walk.steps[2].rights == Access::kExec);

  Hardware walker{memory, {}};
  REQUIRE(walker.load(state_of(kLong, 0x3f'0000)) == LoadOutcome::Ok);  // a root outside memory is not looked at
  const WalkResult resumed = walker.walk(kAddress, kRead, kKernel, false, &walk.steps[2]);
  REQUIRE(resumed.ok());
  CHECK(resumed.rights == Access::kExec);
  CHECK(resumed.step_count == 0);
}

TEST_CASE_FIXTURE(Shadow, "walker: a refused access leaves the leaf's flags alone") {
  poke(kFourth + 32, 0x9'8765'4000 | kP | kU);
  CHECK(go(kLong, kUserWrite).error_code == (pferr::kPresent | pferr::kWrite | pferr::kUser));
  CHECK(peek(kFourth + 32) == (0x9'8765'4000 | kP | kU));
  CHECK(peek(kThird + 24) == (kFourth | kAll | kA));
}

TEST_CASE("walker: error codes") {
  struct Row {
    const char* name;
    std::uint64_t leaf;
    Controls controls;
    AccessRequest request;
    CpuMode mode;
    std::uint32_t code;
  };
  const Controls smep = with_cr4(kLong, cr4::kSmep), smap = with_cr4(kLong, cr4::kSmap);
  const std::vector<Row> rows{
      {"absent, read", 0, kLong, kRead, kKernel, 0},
      {"absent, user write", 0, kLong, kUserWrite, kApp, 6},
      {"absent, fetch", 0, kLong, kFetch, kKernel, 0x10},
      {"absent, fetch, no NXE and no SMEP", 0, kLongNoNx, kFetch, kKernel, 0},
      {"absent, fetch, SMEP only", 0, with_cr4(kLongNoNx, cr4::kSmep), kFetch, kKernel, 0x10},
      {"supervisor page, user read", kP | kW, kLong, kUserRead, kApp, 5},
      {"read-only, supervisor write, WP", kP, kLong, kWrite, kKernel, 3},
      {"XD, user fetch", kP | kU | kNx, kLong, kUserFetch, kApp, 0x15},
      {"XD is reserved without NXE", kP | kU | kNx, kLongNoNx, kUserRead, kApp, 0xd},
      {"SMEP", kP | kU, smep, kFetch, kKernel, 0x11},
      {"SMAP", kP | kU, smap, kRead, kKernel, 1},
      {"SMAP, AC at CPL 3", kP | kU, smap, kRead, kAppAc, 1},
      {"address bit beyond MAXPHYADDR", kP | kU | 1ULL << 46, kLong, kUserWrite, kApp, 0xf},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string{row.name});
    Shadow machine;
    machine.poke(kFourth + 32, row.leaf);
    const WalkResult walk = machine.go(row.controls, row.request, row.mode);
    CHECK(walk.kind == AccessKind::PageFault);
    CHECK(walk.error_code == row.code);
  }
}

TEST_CASE_FIXTURE(Shadow, "walker: what CR0.WP, AC and SMEP let through") {
  poke(kFourth + 32, 0x5000 | kP | kU);
  CHECK(go(without_wp(kLong), kWrite).ok());
  CHECK(go(with_cr4(kLong, cr4::kSmap), kRead, kKernelAc).ok());
  CHECK_FALSE(go(without_wp(kLong), kUserWrite).ok());
  poke(kFourth + 32, 0x5000 | kP);
  CHECK(go(with_cr4(kLong, cr4::kSmep | cr4::kSmap), kFetch).ok());
  CHECK(go(with_cr4(kLong, cr4::kSmep | cr4::kSmap), kRead).ok());
}

TEST_CASE_FIXTURE(Shadow, "walker: large pages and the PAT bits of both kinds of leaf") {
  poke(kFourth + 32, 0x6000 | kAll | 1U << 7 | 1U << 4);
  CHECK(go(kLong, kRead).caching == 6);
  poke(kThird + 24, 0x20'0000 | kAll | kPs | 1U << 12 | 1U << 3);
  const WalkResult two = go(kLong, kRead);
  CHECK(two.hpa == Hpa{0x20'0000 | 4U << 12 | 0xabc});
  CHECK(two.shift == 21);
  CHECK(two.caching == 5);
  poke(kThird + 24, 0x20'0000 | kAll | kPs | 1U << 3);
  CHECK(go(kLong, kRead).caching == 1);
  for (const unsigned bit : {13U, 20U}) {
    poke(kThird + 24, 0x20'0000 | kAll | kPs | 1U << bit);
    CHECK(go(kLong, kRead).error_code == 9);
  }
  poke(kSecond + 16, 0x1'4000'0000 | kAll | kPs);
  CHECK(go(kLong, kRead).hpa == Hpa{0x1'4000'0000 | 3U << 21 | 4U << 12 | 0xabc});
  CHECK(go(kLong, kRead, HwFeatures{46, false}).error_code == 9);
}

TEST_CASE_FIXTURE(Shadow, "walker: a table outside memory is a bus error, a page outside it is not") {
  CHECK(go(kLong, kRead).ok());  // 0x9'8765'4000 is far beyond this memory
  poke(kThird + 24, 0x3f00'0000 | kAll);
  CHECK(go(kLong, kRead).kind == AccessKind::Bus);
}

TEST_CASE("walker: loading control registers that hardware refuses changes nothing") {
  Shadow machine;
  Hardware walker{machine.memory, HwFeatures{40, true}};
  REQUIRE(walker.load(state_of(kLong, kRoot)) == LoadOutcome::Ok);
  CHECK(walker.load(state_of(kLong, kRoot | 1ULL << 40)) == LoadOutcome::GeneralProtection);
  CHECK(walker.load(state_of(kPaeNx, kRoot | 1ULL << 32)) == LoadOutcome::GeneralProtection);
  CHECK(walker.load(state_of({kLong.cr0, 0, kLong.efer}, kRoot)) == LoadOutcome::GeneralProtection);
  CHECK(walker.load(state_of(kPaeNx, 0x3f00'0000)) == LoadOutcome::Bus);
  for (const unsigned bit : {1U, 2U, 5U, 6U, 7U, 8U, 40U, 51U, 63U}) {
    machine.poke(0x6000 + 24, 0x2001 | 1ULL << bit);
    CHECK(walker.load(state_of(kPaeNx, 0x6000)) == LoadOutcome::GeneralProtection);
    machine.poke(0x6000 + 24, 0x2000 | 1ULL << bit);
    Hardware other{machine.memory, HwFeatures{40, true}};
    CHECK(other.load(state_of(kPaeNx, 0x6000)) == LoadOutcome::Ok);
  }
  CHECK(walker.walk(kAddress, kRead, kKernel, false).ok());
}

TEST_CASE("walker: PAE keeps the PDPTEs of the last load, from a 32-byte boundary") {
  Machine machine;
  machine.poke(0x1020 + 3 * 8, 0x2000 | kP);
  machine.poke(0x2000 + 511 * 8, 0x3000 | kAll);
  machine.poke(0x3000 + 510 * 8, 0x7'0000'0000 | kAll);
  Hardware walker{machine.memory, {}};
  REQUIRE(walker.load(state_of(kPaeNx, 0x1020)) == LoadOutcome::Ok);
  const std::uint64_t address = 3U << 30 | 511U << 21 | 510U << 12 | 7U;
  CHECK(walker.walk(address, kUserWrite, kApp, false).hpa == Hpa{0x7'0000'0007});
  CHECK(machine.peek(0x1020 + 24) == (0x2000 | kP));                      // no Accessed flag in a PDPTE
  CHECK(walker.walk(address | 1ULL << 32, kUserRead, kApp, false).ok());  // 32-bit linear addresses
  machine.poke(0x1020 + 24, 0);
  CHECK(walker.walk(address, kUserWrite, kApp, false).ok());
  REQUIRE(walker.load(state_of(kPaeNx, 0x1020)) == LoadOutcome::Ok);
  CHECK(walker.walk(address, kUserWrite, kApp, false).error_code == 6);
  machine.poke(0x1020 + 24, 0x2000 | kP);
  REQUIRE(walker.load(state_of(kPaeNx, 0x1020)) == LoadOutcome::Ok);
  machine.poke(0x3000 + 510 * 8, kAll | 1ULL << 52);
  CHECK(walker.walk(address, kUserWrite, kApp, false).error_code == 0xf);
}

TEST_CASE("walker: flags are set by compare-exchange: an entry that changed meanwhile is left as it is") {
  std::uint64_t cell = 0x5000 | kP;
  CHECK_FALSE(sim::detail::set_flags(&cell, 0x5000 | kP | kW, kA));
  CHECK(cell == (0x5000 | kP));
  CHECK(sim::detail::set_flags(&cell, 0x5000 | kP, kA | kD));
  CHECK(cell == (0x5000 | kP | kA | kD));
  cell = 0;  // all flags were there when it was read: nothing to write
  CHECK(sim::detail::set_flags(&cell, 0x5000 | kP | kA, kA));
  CHECK(cell == 0);
}

}  // namespace
