// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/core/control.hpp"
#include "shadowmmu/core/slot_ops.hpp"
#include "shadowmmu/core/window.hpp"

/// How a vCPU comes to an Mmu and leaves it. A vCPU is told from others by the number that it gets here, not by the id
/// that the embedder gave it: two vCPUs of one id are a mistake of the embedder's, which a debug build reports; in a
/// release build the Host cannot tell their flushes apart, and nothing else suffers.
namespace shadowmmu::core {

/// Effects: v, fresh, is a vCPU of the Mmu's. Locking: slots lock, then the Mmu's lock. Complexity: O(vCPUs) in a debug
/// build, else O(1).
template <class S>
void register_vcpu(S& s, typename S::Vcpu& v, VcpuId id) noexcept {
  v.id = id;
  reset_vcpu<S>(v);
  const SlotsScope<S> scope(s);
  const ExclusiveGuard<S> g(s);
#ifndef NDEBUG
  for (const auto& other : s.vcpus)
    shadowmmu::detail::require(other.id != id, "shadowmmu: two vCPUs of one Mmu have the same id");
#endif
  v.number = ++s.vcpu_numbers;
  v.registered = true;
  s.grace.add(v.reader);
  s.vcpus.push_back(v);
  s.vcpu_count += 1;
  apply_limit(s);
}

/// Effects: closes v's windows, drops its roots and gives its frames back; it is no vCPU of the Mmu's any more.
/// Requires: it is registered, and not in the guest. Locking: slots lock, then the Mmu's lock.
template <class S>
void retire_vcpu(S& s, typename S::Vcpu& v) noexcept {
  end_windows(s, v);
  {
    const SlotsScope<S> scope(s);
    ExclusiveGuard<S> g(s);
    unload_root(s, g, v);
    Counters c{};
    v.template count_into<typename S::Memory>(c);
    s.stats.merge(c);
    s.vcpus.erase(s.vcpus.iterator_to(v));
    s.grace.remove(v.reader);
    s.vcpu_count -= 1;
    apply_limit(s);
  }
  v.registered = false;
  v.magazine.drain(s.host);
  if (v.pdpt != nullptr) s.host.free_frame(s.host.to_phys(v.pdpt));
  for (auto& w : v.window)
    if (w.before != nullptr) s.host.free_frame(s.host.to_phys(w.before));
}

}  // namespace shadowmmu::core
