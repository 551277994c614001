// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/shadowmmu.hpp"
#include "vm.hpp"

/// The one place that names the MMU and its policies.
namespace hv {
using Mmu = shadowmmu::ShadowMmu<shadowmmu::arch::X86_64, shadowmmu::lock::None, shadowmmu::reclaim::Fifo, Vm>;
using Vcpu = Mmu::Vcpu;
}  // namespace hv
