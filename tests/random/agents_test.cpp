// SPDX-License-Identifier: BSL-1.0
#include "random/hand_over.hpp"
#include "random/seeds.hpp"

/// Two vCPUs and the host in the middle of operations at the same time.
namespace {
using namespace shadowmmu;

struct FewDeferred : test::SmallLimit {
  static constexpr unsigned kDeferredPages = 6;
};
struct Narrow : config::Default {
  static constexpr unsigned kInstructionAddresses = 6;
  using Generation = std::uint8_t;
  static constexpr unsigned kMmioGenerationBits = 2;
  static constexpr config::SlotRemoval kSlotRemoval = config::SlotRemoval::Targeted;
};

TEST_CASE("random guests and a host that act inside each other's operations, with readers") {
  using Lock = lock::Readers<test::HandOver>;
  test::run_all<ShadowMmu<arch::X86_64, Lock, test::AnyPolicy, sim::world::Machine, FewDeferred>>(
      {.interleaved = true});
}
TEST_CASE("random guests and a host that act inside each other's operations, generations narrow") {
  test::run_all<ShadowMmu<arch::X86_64, test::HandOver, test::AnyPolicy, sim::world::Machine, Narrow>>(
      {.interleaved = true});
}
}  // namespace
