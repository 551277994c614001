// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <cstdint>

#include "shadowmmu/concepts/memory.hpp"
#include "shadowmmu/memory/smp.hpp"
#include "shadowmmu/memory/up.hpp"
#include "shadowmmu/sim/explored_memory.hpp"

using shadowmmu::memory::Order;
using shadowmmu::memory::Smp;
using shadowmmu::memory::Up;
using shadowmmu::sim::ExploredMemory;

static_assert(shadowmmu::MemoryAccess<Smp> && shadowmmu::MemoryAccess<Up> && shadowmmu::MemoryAccess<ExploredMemory>);

TEST_CASE_TEMPLATE("every facade gives the same answers to one agent", M, Smp, Up, ExploredMemory) {
  std::uint64_t cell = 5;
  CHECK(M::template load<Order::Acquire>(cell) == 5);
  M::template store<Order::Release>(cell, 6);
  CHECK(M::template exchange<Order::AcqRel>(cell, 7) == 6);
  std::uint64_t expected = 6;
  CHECK_FALSE(M::template compare_exchange<Order::AcqRel>(cell, expected, 8));
  CHECK(expected == 7);
  CHECK(M::template compare_exchange<Order::AcqRel>(cell, expected, 8));
  CHECK(M::template fetch_add<Order::AcqRel>(cell, 2) == 8);
  CHECK(M::plain(cell) == 10);
  M::plain(cell, 11);
  M::template fence<Order::SeqCst>();
  M::pause();
  CHECK(cell == 11);
}

TEST_CASE_TEMPLATE("narrow cells wrap at their own width", M, Smp, Up, ExploredMemory) {
  std::uint8_t cell = 255;
  CHECK(M::template fetch_add<Order::Relaxed>(cell, 1) == 255);
  CHECK(cell == 0);
}
