// SPDX-License-Identifier: BSL-1.0
// symbols: uniprocessor
// One agent: no locked instruction may be emitted anywhere in this object.
#include <cstdint>

#include "shadowmmu/memory/up.hpp"

using shadowmmu::memory::Order;
using shadowmmu::memory::Up;

extern "C" bool uniprocessor(std::uint64_t* cell, std::uint64_t* other) {
  std::uint64_t expected = Up::fetch_add<Order::AcqRel>(*cell, 1);
  Up::fence<Order::SeqCst>();
  Up::store<Order::SeqCst>(*other, Up::exchange<Order::SeqCst>(*cell, 2));
  return Up::compare_exchange<Order::SeqCst>(*cell, expected, 3);
}
