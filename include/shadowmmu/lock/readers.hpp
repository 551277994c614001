// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/concepts/grace.hpp"
#include "shadowmmu/concepts/lock.hpp"
#include "shadowmmu/grace/epochs.hpp"
#include "shadowmmu/lock/spin.hpp"

namespace shadowmmu::lock {

/// Any lock, and readers that need none: shadow tables may be looked at, and their entries write-protected, beside its
/// holder. Pages that the holder unlinks are freed after a grace period; at most Config::kDeferredPages of them wait.
/// Reader sections never take the lock, so a holder that waits for them does not wait for itself.
template <class L, class G = grace::Epochs>
struct Readers : L {
  using GracePolicy = G;
};
static_assert(Lock<Readers<Spin>>);

}  // namespace shadowmmu::lock
