// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "reclaim/tree.hpp"

namespace shadowmmu::bench {

/// One value of one parameter of the default policy or of the plan, all others as they are.
struct Variant {
  std::string parameter, value;
  bool standard = false;  ///< the value that the library has
  /// Returns: refaults. Of the model, which evicts what the Mmu evicts.
  std::function<std::uint64_t(const Tree&, std::uint32_t limit)> refaults;
};
[[nodiscard]] std::vector<Variant> variants();

}  // namespace shadowmmu::bench
