// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <concepts>
#include <cstdint>

#include "shadowmmu/memory/smp.hpp"

/// Grace periods: how a writer learns that no reader section which may have seen an unlinked page is open any more.
namespace shadowmmu {

/// What a Grace policy keeps in one Mmu. `Reader` is the record of one thread of execution that reads; sections nest.
/// `begin` names a grace period that starts with the call: it has passed once each section that was open then has
/// ended. `add` and `remove` come under both locks of the Mmu; `begin`, `passed` and `wait` under one of them, never
/// from inside a section. Policies with `kByFlush` have no `begin`: there Host::flush (of structures) returns only when
/// every section that was open at its call has ended.
template <class D>
concept GraceDomain = requires(D& d, const D& c, typename D::Reader& r) {
  { D::kByFlush } -> std::convertible_to<bool>;
  { d.add(r) }
  noexcept;
  { d.remove(r) }
  noexcept;
  { d.enter(r) }
  noexcept;
  { d.leave(r) }
  noexcept;
}
&&(D::kByFlush || requires(D & d, const D& c, std::uint64_t period) {
  { d.begin() }
  noexcept->std::same_as<std::uint64_t>;
  { c.passed(period) }
  noexcept->std::same_as<bool>;
  { d.wait() }
  noexcept;
});

/// A Grace policy gives a domain for each memory facade.
template <class G>
concept Grace = GraceDomain<typename G::template Domain<memory::Smp>>;

}  // namespace shadowmmu
