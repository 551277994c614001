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
  /// Of the complete searches, with store buffers and sequentially consistent: what is long, or has three agents with
  /// much to do, has too many interleavings.
  unsigned tso_preemptions = 2, sc_preemptions = 2;
  unsigned cxx_preemptions = 1;  ///< under the C++ memory model, at least; with --long two
};
/// Everything that the suite explores, under each memory model, and at random beyond.
[[nodiscard]] std::vector<Named> scenarios();

}  // namespace shadowmmu::test
