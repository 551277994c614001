// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <string>

namespace shadowmmu::test {

/// Returns: what the audit says first, for people; nothing where the tables are sound.
template <class Mmu>
[[nodiscard]] std::string unsound(Mmu& mmu) {
  const auto a = mmu.audit();
  if (a.violations == 0) return {};
  return std::string(a.first) + ", at " + std::to_string(a.at) + " (" + std::to_string(a.violations) + " violations)";
}

}  // namespace shadowmmu::test
