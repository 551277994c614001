// SPDX-License-Identifier: BSL-1.0
// expect: nodiscard
// A flush that is owed is a value: dropping it is an error in our builds.
#include "shadowmmu/flush.hpp"

#pragma GCC diagnostic error "-Wunused-result"
shadowmmu::FlushOwed change() { return shadowmmu::FlushOwed::all(); }
void use([[maybe_unused]] shadowmmu::FlushOwed& owed) {
#ifdef CASE_BAD
  change();
#else
  owed |= change();
#endif
}
