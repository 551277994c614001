// SPDX-License-Identifier: BSL-1.0
#include "random/hand_over.hpp"
#include "random/seeds.hpp"

namespace {
using namespace shadowmmu;
using Lock = lock::Readers<test::HandOver>;
using Mmu = ShadowMmu<arch::Ept, Lock, test::AnyPolicy, sim::world::Machine, test::SmallLimit>;

TEST_CASE("random guests on second-level tables whose A and D the hardware keeps") {
  test::run_all<Mmu>({.second_level = true});
}
TEST_CASE("random guests on second-level tables without A and D") {
  test::run_all<Mmu>({.second_level = true, .accessed_dirty = false});
}
TEST_CASE("random guests on second-level tables and a host that act inside each other's operations") {
  test::run_all<Mmu>({.second_level = true, .interleaved = true});
}
}  // namespace
