// SPDX-License-Identifier: BSL-1.0
#pragma once

/// The one vocabulary of memory orders; every access to shared cells names one.
namespace shadowmmu::memory {
enum class Order : int {
  Relaxed = __ATOMIC_RELAXED,
  Acquire = __ATOMIC_ACQUIRE,
  Release = __ATOMIC_RELEASE,
  AcqRel = __ATOMIC_ACQ_REL,
  SeqCst = __ATOMIC_SEQ_CST,
};
}  // namespace shadowmmu::memory
