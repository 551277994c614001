// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "shadowmmu/sim/explore.hpp"

namespace shadowmmu::test {

struct Named {
  std::string name;
  std::function<sim::Scenario()> make;
  /// Of the complete search with store buffers: three agents with much to do have too many interleavings.
  unsigned tso_preemptions = 2;
};
/// Everything that the suite explores, under each memory model, and at random beyond.
[[nodiscard]] std::vector<Named> scenarios();

}  // namespace shadowmmu::test
