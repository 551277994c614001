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
};
/// Everything that the suite explores: under both memory models, to two preemptions and at random beyond.
[[nodiscard]] std::vector<Named> scenarios();

}  // namespace shadowmmu::test
