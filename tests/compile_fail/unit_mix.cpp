// SPDX-License-Identifier: BSL-1.0
// expect: shadowmmu: a frame number is not an address
// Shows the harness at work; the other cases name illegal combinations of policies.
#include <type_traits>

#include "shadowmmu/types.hpp"

template <class A, class B>
struct SameUnit {
  static_assert(std::is_same_v<A, B>, "shadowmmu: a frame number is not an address");
};
#ifdef CASE_BAD
template struct SameUnit<shadowmmu::Gfn, shadowmmu::Gpa>;
#else
template struct SameUnit<shadowmmu::Gfn, shadowmmu::Gfn>;
#endif
