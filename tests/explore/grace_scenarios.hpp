// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <memory>

#include "explore/machines.hpp"

/// Grace periods by themselves, without all that an Mmu does beside them: no lock, flush or kick orders anything here.
namespace shadowmmu::test {

/// A thing that readers find by a cell, and that is given away after a grace period.
struct Shared {
  using Domain = grace::Epochs::Domain<M>;
  Domain domain;
  Domain::Reader reader;
  std::uint64_t found = 1;  ///< cell: 0 once the thing is unlinked
  bool given_away = false;

  Shared() { domain.add(reader); }
  Shared(const Shared&) = delete;
  ~Shared() { domain.remove(reader); }

  void section() {
    domain.enter(reader);
    const bool has = M::load<Order::Acquire>(found) != 0;
    static_cast<void>(M::load<Order::Relaxed>(found));  // here another agent may go on
    sim::require(!has || !given_away, "what a section has found was given away");
    domain.leave(reader);
  }
  void give_away() {
    M::store<Order::Relaxed>(found, 0);
    domain.wait();
    given_away = true;
  }
};
/// Sections that come one after the other, beside who unlinks a thing and gives it away.
inline sim::Scenario sections_beside_a_grace_period() {
  const auto m = std::make_shared<Shared>();
  return {{[=] {
             m->section();
             m->section();
           },
           [=] { m->give_away(); }},
          [=] { return m->given_away; }};
}

}  // namespace shadowmmu::test
