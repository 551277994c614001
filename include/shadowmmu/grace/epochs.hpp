// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/grace.hpp"
#include "shadowmmu/intrusive.hpp"
#include "shadowmmu/memory/order.hpp"

namespace shadowmmu::grace {

/// Built-in grace periods: a counter that writers advance, and for each reader a record that says since when it reads.
/// No thread-local, no global state; a section costs two stores on the reader's own cache line and a fence.
/// Invariant: a record that shows e is of a section that sees every unlinking made before the counter became e.
/// Source: epoch-based reclamation after Fraser, "Practical lock-freedom" (2004).
struct Epochs {
  template <class M>
  class Domain {
    using Order = memory::Order;

   public:
    static constexpr bool kByFlush = false;

    struct alignas(64) Reader {
      std::uint64_t since = 0;  ///< cell: the counter when the outermost section began; 0 outside
      std::uint32_t depth = 0;  ///< sections that are open; only its owner's
      ListMemberHook hook;
    };

    void add(Reader& r) noexcept { readers_.push_back(r); }
    /// Requires: r is in no section.
    void remove(Reader& r) noexcept { readers_.erase(readers_.iterator_to(r)); }

    void enter(Reader& r) noexcept {
      if (r.depth++ != 0) return;
      // The mark comes before every read of the section. This fence pairs with the writer's in `begin`: either the
      // writer sees the mark, or the section sees what was unlinked before the writer looked. A counter that is old by
      // then only makes writers wait longer.
      // Release, for the sections before: a writer that reads this mark knows that they have ended.
      M::template store<Order::Release>(r.since, M::template load<Order::Relaxed>(now_));
      M::template fence<Order::SeqCst>();
    }
    void leave(Reader& r) noexcept {
      if (--r.depth == 0) M::template store<Order::Release>(r.since, 0);
    }

    [[nodiscard]] std::uint64_t begin() noexcept {
      const std::uint64_t period = M::template fetch_add<Order::AcqRel>(now_, 1) + 1;
      // What was unlinked before is visible before any mark is looked at.
      M::template fence<Order::SeqCst>();
      return period;
    }
    /// Complexity: O(readers), a look at a line of each.
    [[nodiscard]] bool passed(std::uint64_t period) const noexcept {
      for (const Reader& r : readers_) {
        const std::uint64_t since = M::template load<Order::Acquire>(r.since);
        if (since != 0 && since < period) return false;
      }
      return true;
    }
    void wait() noexcept {
      const std::uint64_t period = begin();
      while (!passed(period)) M::pause();
    }

   private:
    alignas(64) std::uint64_t now_ = 1;  ///< cell
    MemberList<Reader, &Reader::hook> readers_;
  };
};
static_assert(Grace<Epochs>);

}  // namespace shadowmmu::grace
