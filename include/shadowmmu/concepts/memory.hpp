// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <concepts>
#include <cstdint>

#include "shadowmmu/memory/order.hpp"

namespace shadowmmu {

/// Static functions through which every shared cell is read and written; `memory::Smp` is the model.
template <class M>
concept MemoryAccess = requires(std::uint64_t& c, const std::uint64_t& r, std::uint64_t& e, std::uint64_t v) {
  { M::kManyAgents } -> std::convertible_to<bool>;
  { M::template load<memory::Order::Acquire>(r) }
  noexcept->std::same_as<std::uint64_t>;
  { M::template store<memory::Order::Release>(c, v) }
  noexcept;
  { M::template exchange<memory::Order::AcqRel>(c, v) }
  noexcept->std::same_as<std::uint64_t>;
  { M::template compare_exchange<memory::Order::AcqRel>(c, e, v) }
  noexcept->std::same_as<bool>;
  { M::template fetch_add<memory::Order::AcqRel>(c, v) }
  noexcept->std::same_as<std::uint64_t>;
  { M::template fence<memory::Order::SeqCst>() }
  noexcept;
  { M::pause() }
  noexcept;
  { M::plain(r) }
  noexcept->std::same_as<std::uint64_t>;
  { M::plain(c, v) }
  noexcept;
};

}  // namespace shadowmmu
