// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "reclaim/machine.hpp"

namespace shadowmmu::bench {

/// Returns: what the policy comes to on the real Mmu. Throws std::runtime_error as Machine.
template <class Policy, ArchKind Kind>
[[nodiscard]] Figures replay(const Tree& tree, const Setup& setup) {
  Probe::here() = Probe{};
  Probe::here().setup = &setup;
  Machine<Studied<Policy>, Kind> machine(tree, setup);
  return machine.run();
}

}  // namespace shadowmmu::bench
