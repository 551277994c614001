// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/conformance.hpp"

#include <doctest/doctest.h>

#include <string>

#include "conformance/naive.hpp"

extern "C" int run_an_mmu_that_cannot_be_made(void (*say)(void* to, const char* line), void* to);

/// The kit, tried on a second MMU and on three mistakes in it.
namespace {

struct Verdict {
  int result = 0;
  std::string words;
};
Verdict verdict(const shadowmmu_kit_mmu& mmu, std::uint64_t seeds) {
  Verdict v;
  shadowmmu_kit_options o{};
  o.first_seed = 1;
  o.seeds = seeds;
  o.say = [](void* to, const char* line) { static_cast<Verdict*>(to)->words += line; };
  o.to = &v;
  v.result = shadowmmu_kit_run(&mmu, &o);
  MESSAGE(v.words);
  return v;
}
constexpr std::uint64_t kEnough = 5;  ///< seeds in which docs/CONFORMANCE.md says that each mistake shows
bool says(const Verdict& v, const char* words) { return v.words.find(words) != std::string::npos; }

TEST_CASE("a naive MMU that flushes everything conforms") {
  const Verdict v = verdict(naive_mmu(NaiveMistake::None), 200);
  CHECK(v.result == 0);
}
TEST_CASE("an MMU with table memory of its own is walked there") {
  CHECK(verdict(naive_mmu_with_tables_of_its_own(), 60).result == 0);
  shadowmmu_kit_mmu astray = naive_mmu_with_tables_of_its_own();
  astray.table = [](void*, std::uint64_t) -> void* { return nullptr; };
  const Verdict v = verdict(astray, 1);
  CHECK(v.result == 1);
  CHECK((says(v, "no table") || says(v, "refuses the hardware state")));
}
TEST_CASE("a flush that is missing is told with the translation that outlived it") {
  const Verdict v = verdict(naive_mmu(NaiveMistake::MissingFlush), kEnough);
  CHECK(v.result == 1);
  CHECK((says(v, "by a translation that no flush has taken from its TLB") || says(v, "that no TLB may hold")));
  CHECK(says(v, "INVLPG"));
}
TEST_CASE("tables that serve another CR0.WP are told by what they allow") {
  const Verdict v = verdict(naive_mmu(NaiveMistake::WrongRole), kEnough);
  CHECK(v.result == 1);
  CHECK((says(v, "the guest's tables forbid it") || says(v, "must fault")));
  CHECK(says(v, "toggles CR0.WP"));
}
TEST_CASE("a D flag that is lost is told") {
  const Verdict v = verdict(naive_mmu(NaiveMistake::LostDirty), kEnough);
  CHECK(v.result == 1);
  CHECK((says(v, "would leave A or D clear") || says(v, "without its A and D bits")));
}
TEST_CASE("an MMU that lacks a function is refused in one sentence") {
  shadowmmu_kit_mmu mmu = naive_mmu(NaiveMistake::None);
  mmu.invlpg = nullptr;
  const Verdict v = verdict(mmu, 1);
  CHECK(v.result == 2);
  CHECK(says(v, "lacks a function"));
}
TEST_CASE("a C file offers an MMU, and is told what it lacks") {
  Verdict v;
  const auto say = [](void* to, const char* line) { static_cast<Verdict*>(to)->words += line; };
  CHECK(run_an_mmu_that_cannot_be_made(say, &v) == 2);
  CHECK(says(v, "lacks a function"));
}
}  // namespace
