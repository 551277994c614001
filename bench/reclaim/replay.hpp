// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "reclaim/machine.hpp"
#include "reclaim/model.hpp"

namespace shadowmmu::bench {

/// Returns: what the policy comes to on the real Mmu. Where the CPU caches nothing the model does the same beside it:
/// it tells which guest pages could be reached, which the Mmu's counters do not, and has to agree. Throws:
/// std::runtime_error as Machine, or where model and Mmu differ.
template <class Policy, ArchKind Kind>
[[nodiscard]] Figures replay(const Tree& tree, const Setup& setup) {
  Probe::here() = Probe{};
  Probe::here().setup = &setup;
  Figures f;
  EvictionPlan plan;
  {
    Machine<Studied<Policy>, Kind> machine(tree, setup);
    f = machine.run();
    plan = Studied<Policy>{}.kPlan;
  }
  if (setup.tlb != 0) return f;
  const auto names = identities(tree, Probe::here().role);
  Figures m = Model<Policy>(tree, setup.limit, plan, &names).run();
  if (m.faults != f.faults || m.leaf_refills != f.leaf_refills || m.link_refills != f.link_refills ||
      m.evictions != f.evictions || m.live_zapped != f.live_zapped || m.a_bit_reads != f.a_bit_reads)
    throw std::runtime_error(tree.name + ": the model and the Mmu disagree");
  f.mapped_mean = m.mapped_mean;
  f.mapped_sd = m.mapped_sd;
  f.sawtooth = m.sawtooth;
  f.largest_drop = m.largest_drop;
  f.mapped = std::move(m.mapped);
  return f;
}

}  // namespace shadowmmu::bench
