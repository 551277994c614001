// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "reclaim/model.hpp"

namespace shadowmmu::bench {

/// The leaf tables alone, as equal objects of an ordinary cache: what a cache simulator would make of the trace. An
/// insertion is no hit, so that a newcomer's A bit is clear. Returns: misses.
template <class Policy>
[[nodiscard]] std::uint64_t flat_misses(const Tree& tree, std::uint32_t capacity) {
  struct Object : Policy::PageState {
    std::uint32_t table = 0;
    bool accessed = false;
  };
  struct View {
    [[nodiscard]] bool pinned(typename Policy::PageState&) const noexcept { return false; }
    [[nodiscard]] unsigned live(typename Policy::PageState&) const noexcept { return 1; }
    [[nodiscard]] Level level(typename Policy::PageState&) const noexcept { return Level{1}; }
    [[nodiscard]] bool test_and_clear_accessed(typename Policy::PageState& s) const noexcept {
      return std::exchange(static_cast<Object&>(s).accessed, false);
    }
  };
  std::vector<std::unique_ptr<Object>> cached(tree.tables.size());
  Policy policy;
  Foresight future{&tree, 0};
  if constexpr (requires { policy.attach(future); }) policy.attach(future);
  std::uint64_t misses = 0;
  std::uint32_t used = 0;
  for (; future.now < tree.steps.size(); ++future.now) {
    const std::uint32_t table = tree.steps[future.now].leaf;
    if (table == Tree::kNone) continue;
    std::unique_ptr<Object>& at = cached[table];
    if (at != nullptr) {
      at->accessed = true;
      if constexpr (requires { policy.hit(*at); }) policy.hit(*at);
      continue;
    }
    misses += 1;
    if (used == capacity) {
      auto& victim = static_cast<Object&>(*policy.victim(View{}));
      policy.on_remove(victim);
      cached[victim.table].reset();
    } else {
      used += 1;
    }
    at = std::make_unique<Object>();
    at->table = table;
    policy.on_create(*at, PageFacts{Level{1}, false, table});
    if constexpr (requires { policy.created(*at, table); }) policy.created(*at, table);
  }
  return misses;
}

}  // namespace shadowmmu::bench
