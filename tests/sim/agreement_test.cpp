// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shadowmmu/sim/hw_walker.hpp"
#include "shadowmmu/sim/oracle.hpp"
#include "shadowmmu/sim/random.hpp"
#include "sim/machine.hpp"

/// Two walkers, written apart, over one memory that is guest and host at once: they must agree in everything.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::sim_test;
namespace {

using sim::AccessKind;
using sim::Random;
using Hardware = sim::HwWalker<sim::FlatMemory>;
using Reference = sim::Oracle<sim::FlatMemory>;

constexpr std::size_t kFrames = 6;  // so few that tables often map themselves
#ifdef SHADOWMMU_LONG
constexpr unsigned kRounds = 40000;
#else
constexpr unsigned kRounds = 1500;
#endif
constexpr unsigned kWalksPerRound = 40;

enum Mode : unsigned { kNone, kThirtyTwo, kPaeMode, kFour, kFive, kModes };

Controls random_controls(Random& random, unsigned mode) {
  Controls c;
  c.cr0 = cr0::kPe | (mode == kNone ? 0 : cr0::kPg) | (random.flip() ? cr0::kWp : 0);
  c.cr4 = (random.flip() ? cr4::kPse : 0) | (random.flip() ? cr4::kSmep : 0) | (random.flip() ? cr4::kSmap : 0);
  if (mode >= kPaeMode) c.cr4 |= cr4::kPae;
  if (mode == kFive) c.cr4 |= cr4::kLa57;
  c.efer = random.chance(3, 4) ? efer::kNxe : 0;
  if (mode >= kFour) c.efer |= efer::kLma | efer::kLme;
  return c;
}

std::uint64_t random_entry(Random& random, unsigned mode) {
  std::uint64_t entry = random.below(kFrames) << kPageShift;
  if (random.chance(15, 16)) entry |= kP;
  if (random.chance(4, 5)) entry |= kW;
  if (random.chance(4, 5)) entry |= kU;
  entry |= random.next() & (kA | kD | 0x18U | 0xf00U);
  if (random.chance(1, 10)) {
    entry |= kPs;
    if (random.chance(3, 4)) entry = (entry & 0xfff) | (random.below(64) << 30) | (random.flip() ? 1U << 12 : 0U);
    if (random.chance(1, 4)) entry |= std::uint64_t{1} << (12 + random.below(18));
  }
  if (mode == kThirtyTwo) return entry & 0xffff'ffffU;
  if (random.chance(1, 16)) entry |= kNx;
  if (random.chance(1, 16)) entry |= std::uint64_t{1} << (32 + random.below(31));
  return entry;
}

void fill(Machine& machine, Random& random, unsigned mode) {
  const unsigned bytes = mode == kThirtyTwo ? 4 : 8;
  for (std::uint64_t at = 0; at < kFrames * kPageSize; at += bytes) machine.poke(at, random_entry(random, mode), bytes);
}

std::vector<std::uint64_t> snapshot(Machine& machine) {
  std::vector<std::uint64_t> words(kFrames * kPageSize / 8);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = machine.peek(i * 8);
  return words;
}

void mark(std::vector<std::uint64_t>& words, const sim::EntryUpdate& update) {
  std::uint64_t& word = words[update.gpa.value() / 8];
  word |= update.value << (update.bytes == 4 && (update.gpa.value() & 4U) != 0 ? 32 : 0);
}

}  // namespace

TEST_CASE("the oracle and the hardware walker agree on random tables, in every mode") {
  Random random{20260601};
  std::map<std::string, unsigned> seen;
  Machine machine{kFrames};
  for (unsigned round = 0; round < kRounds; ++round) {
    const unsigned mode = static_cast<unsigned>(random.below(kModes));
    fill(machine, random, mode);
    const std::array<unsigned, 6> widths{32, 35, 36, 40, 46, 52};
    const unsigned width = random.pick(widths);
    const bool has_1g = random.flip();
    sim::OracleCpu cpu{random_controls(random, mode), random.below(kFrames) << kPageShift, {}, width, has_1g};
    if (mode == kPaeMode) {
      cpu.cr3 |= random.below(128) << 5;
      for (unsigned i = 0; i < 4; ++i) {
        std::uint64_t entry = random.below(kFrames) << kPageShift | (random.chance(7, 8) ? kP : 0);
        if (random.chance(1, 16)) entry |= std::uint64_t{1} << random.below(64);
        machine.poke(cpu.cr3 + 8 * i, entry);
      }
      cpu.pdptes = Reference::read_pdptes(machine.memory, cpu.cr3);
    }
    Hardware hardware{machine.memory, sim::HwFeatures{width, has_1g}};
    const bool loaded = hardware.load(state_of(cpu.controls, cpu.cr3)) == sim::LoadOutcome::Ok;
    REQUIRE(loaded == (mode != kPaeMode || Reference::pdptes_loadable(cpu.pdptes, width)));
    if (!loaded) {
      ++seen["refused to load"];
      continue;
    }
    const Reference oracle{machine.memory, cpu};
    std::vector<std::uint64_t> before = snapshot(machine);
    for (unsigned walk = 0; walk < kWalksPerRound; ++walk) {
      const bool fetch = random.chance(1, 3);
      const AccessRequest request{!fetch && random.flip(), fetch, random.flip()};
      const CpuMode cpl{static_cast<std::uint8_t>(request.user || random.chance(1, 5) ? 3 : 0), random.flip()};
      const bool implicit = !request.user && random.chance(1, 4);
      const std::uint64_t address = random.next() & 0x00ff'ffff'ffff'ffffU;
      const sim::OracleVerdict verdict = oracle.translate(Gva{address}, {request, cpl, implicit});
      const sim::WalkResult got = hardware.walk(address, request, cpl, implicit);

      std::vector<std::uint64_t> expected = before;
      const std::vector<std::uint64_t> after = snapshot(machine);
      CAPTURE(mode);
      CAPTURE(address);
      if (verdict.fault) {
        if (got.kind == AccessKind::Bus) {
          REQUIRE((verdict.error_code & pferr::kPresent) == 0);  // the oracle reads 0 where there is no memory
        } else {
          REQUIRE(got.kind == AccessKind::PageFault);
          REQUIRE(got.error_code == verdict.error_code);
        }
        for (const sim::EntryUpdate& update : verdict.may_update) mark(expected, update);
        ++seen[std::to_string(mode) + (got.kind == AccessKind::Bus               ? " bus"
                                       : (verdict.error_code & pferr::kReserved) ? " reserved"
                                       : (verdict.error_code & pferr::kPresent)  ? " rights"
                                                                                 : " absent")];
      } else {
        REQUIRE(got.kind == AccessKind::Ok);
        REQUIRE(got.hpa.value() == verdict.gpa.value());
        REQUIRE(got.level == verdict.level);
        REQUIRE(got.rights == verdict.rights.bits());
        for (const sim::EntryUpdate& update : verdict.updates) mark(expected, update);
        ++seen[std::to_string(mode) + " level " + std::to_string(verdict.level.value())];
      }
      REQUIRE(after == expected);
      before = after;
    }
  }
  for (const char* needed : {"refused to load", "0 level 1", "1 level 1", "1 level 2", "1 rights",   "1 reserved",
                             "1 absent",        "2 level 1", "2 level 2", "2 rights",  "2 reserved", "2 absent",
                             "3 level 1",       "3 level 2", "3 level 3", "3 rights",  "3 reserved", "3 absent",
                             "4 level 1",       "4 level 2", "4 level 3", "4 rights",  "4 reserved", "4 absent"}) {
    CAPTURE(std::string{needed});
    CHECK(seen[needed] >= 20);
  }
}

}  // namespace
