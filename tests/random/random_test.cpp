// SPDX-License-Identifier: BSL-1.0
#include "random/seeds.hpp"

namespace {
using namespace shadowmmu;

TEST_CASE("random guests see exactly what the architecture gives") {
  test::run_all<ShadowMmu<arch::X86_64, lock::None, test::AnyPolicy, sim::world::Machine, test::SmallLimit>>({});
}
}  // namespace
