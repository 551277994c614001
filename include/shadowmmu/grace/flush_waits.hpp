// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/grace.hpp"

namespace shadowmmu::grace {

/// Grace periods by the flush interrupt: a reader runs with interrupts off, and Host::flush (of structures) returns
/// only when every CPU on which a reader may run has taken its interrupt. No record is written; each batch of pages
/// owes a flush, those of an earlier generation too. `Irq`: static `State disable()` and `void restore(State)`,
/// noexcept. Source: KVM's walk_shadow_page_lockless_begin (2012).
template <class Irq>
struct FlushWaits {
  template <class>
  class Domain {
   public:
    static constexpr bool kByFlush = true;

    struct Reader {
      std::uint32_t depth = 0;  ///< sections that are open
      decltype(Irq::disable()) saved{};
    };
    void add(Reader&) noexcept {}
    void remove(Reader&) noexcept {}
    void enter(Reader& r) noexcept {
      if (r.depth == 0) r.saved = Irq::disable();
      r.depth += 1;
    }
    void leave(Reader& r) noexcept {
      r.depth -= 1;
      if (r.depth == 0) Irq::restore(r.saved);
    }
  };
};

}  // namespace shadowmmu::grace
