// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/sim/conformance.h"

/// Which mistake the naive MMU makes.
enum class NaiveMistake {
  None,
  MissingFlush,  ///< INVLPG drops its tables, and leaves the TLB as it is
  WrongRole,     ///< what was mapped while CR0.WP was clear serves after it is set
  LostDirty,     ///< a read of a writable page maps it writable, whose D then stays clear
};

/// Returns: the functions of an MMU that makes this mistake.
const shadowmmu_kit_mmu& naive_mmu(NaiveMistake mistake);
/// Returns: the same without a mistake, whose tables lie in memory of its own.
const shadowmmu_kit_mmu& naive_mmu_with_tables_of_its_own();
