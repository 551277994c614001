// SPDX-License-Identifier: BSL-1.0
#include "random/seeds.hpp"

namespace {
using namespace shadowmmu;

/// Generations that wrap every 256 zap-alls and MMIO generations that wrap every 4; slots take only their own;
/// instructions of six addresses are promised.
struct Narrow : config::Default {
  static constexpr unsigned kInstructionAddresses = 6;
  using Generation = std::uint8_t;
  static constexpr unsigned kMmioGenerationBits = 2;
  static constexpr unsigned kPreviousRoots = 1;
  static constexpr unsigned kPrefetch = 1;
  static constexpr config::SlotRemoval kSlotRemoval = config::SlotRemoval::Targeted;
  static constexpr config::Teardown kTeardown = config::Teardown::Yield;
};

/// Few pages wait for readers, so that writers reach the bound.
struct FewDeferred : test::SmallLimit {
  static constexpr unsigned kDeferredPages = 6;
};

TEST_CASE("random guests under a checked spin lock with readers") {
  using Lock = lock::Readers<lock::Checked<lock::Spin>>;
  test::run_all<ShadowMmu<arch::X86_64, Lock, test::AnyPolicy, sim::world::Machine, FewDeferred>>({});
}
TEST_CASE("random guests with narrow generations, targeted slots and without prefetch") {
  test::run_all<ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, sim::world::Machine, Narrow>>({});
}
}  // namespace
