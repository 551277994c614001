// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <utility>
#include <variant>

#include "shadowmmu/sim/world/action.hpp"

namespace shadowmmu::sim::world {

namespace detail {

/// Returns: the action with less in it, in the order to be tried; false where there is nothing left to leave out.
inline bool simpler(Action& a, unsigned how) {
  switch (how) {
    case 0:
      return std::exchange(a.exits, true) != true;
    case 1:
      return std::exchange(a.pauses, 0) != 0;
    case 2:
      if (auto* t = std::get_if<Touch>(&a.deed); t != nullptr && t->times > 1) return t->times = 1, true;
      if (auto* i = std::get_if<Instruction>(&a.deed); i != nullptr && i->addresses > 2) return i->addresses = 2, true;
      if (auto* e = std::get_if<EditEntry>(&a.deed); e != nullptr && e->then != Then::Forgets)
        return e->then = Then::Forgets, true;
      return false;
    case 3:
      if (auto* t = std::get_if<Touch>(&a.deed); t != nullptr && t->offset != 0) return t->offset = 0, true;
      if (auto* e = std::get_if<EditEntry>(&a.deed); e != nullptr && e->by != By::Store) return e->by = By::Store, true;
      return false;
    default:
      return false;
  }
}

}  // namespace detail

/// Returns: a part of the sequence, its actions made simpler where they can be, that still fails. Complexity: some
/// times the length in runs of `fails`.
template <class Fails>
[[nodiscard]] Actions shrink(Actions actions, Fails&& fails) {
  for (std::size_t chunk = (actions.size() + 1) / 2; chunk > 0; chunk /= 2)
    for (std::size_t at = 0; at + chunk <= actions.size();) {
      Actions less = actions;
      less.erase(less.begin() + static_cast<std::ptrdiff_t>(at),
                 less.begin() + static_cast<std::ptrdiff_t>(at + chunk));
      if (fails(less))
        actions = std::move(less);
      else
        at += chunk;
    }
  for (std::size_t at = 0; at < actions.size(); ++at)
    for (unsigned how = 0; how < 4; ++how) {
      Actions less = actions;
      if (detail::simpler(less[at], how) && fails(less)) actions = std::move(less);
    }
  return actions;
}

}  // namespace shadowmmu::sim::world
