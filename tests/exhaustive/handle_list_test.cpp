// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <cstdlib>
#include <set>
#include <utility>
#include <vector>

#include "shadowmmu/core/rmap.hpp"
#include "shadowmmu/memory/smp.hpp"
#include "shadowmmu/sim/random.hpp"

/// F20: the list of handles in each of its forms, against a set: empty, one handle, a chain, a fan, and back.
namespace {
using namespace shadowmmu;
using core::EntryHandle;
using List = core::HandleList<memory::Smp, true>;

struct Cells : core::CellPool {
  explicit Cells(unsigned frames) {
    for (unsigned n = 0; n < frames; ++n) grow<memory::Smp>([] { return std::calloc(1, kPageSize); });
  }
  ~Cells() {
    drain([](void* p) { std::free(p); });
  }
};
struct Modelled {
  explicit Modelled(unsigned frames) : cells(frames) {}
  void add(EntryHandle h) {
    List::add(cells, head, h);
    List::spread(cells, head, spare);
    model.insert(h.word());
  }
  void remove(EntryHandle h) {
    REQUIRE(List::remove(cells, head, h));
    model.erase(h.word());
  }
  void check() {
    std::set<std::uint32_t> found;
    List::for_each(cells, head, [&](EntryHandle h) { found.insert(h.word()); });
    REQUIRE(found == model);
    REQUIRE(List::length(cells, head) == model.size());
    REQUIRE(List::empty(head) == model.empty());
    REQUIRE(List::single(cells, head) == (model.size() == 1));
    if (!model.empty()) REQUIRE(model.contains(List::any(cells, head).word()));
    std::uint32_t calls = 0;
    const bool all = List::all_of(cells, head, [&](EntryHandle) { return ++calls < 40; });
    REQUIRE(all == (model.size() < 40));
    REQUIRE(calls == (model.size() < 40 ? model.size() : 40));
    List::Seen seen;
    List::look(cells, head, seen);
    if (seen.whole) {
      std::set<std::uint32_t> copied(seen.word, seen.word + seen.count);
      REQUIRE(copied == model);
    } else {
      REQUIRE((model.size() > List::kLong || List::is_fan(head)));
    }
  }
  Cells cells;
  std::uint32_t head = 0;
  unsigned spare = 0;
  std::set<std::uint32_t> model;
};

TEST_CASE("F20 a list grows to any length and shrinks to nothing, in any order: it holds what a set holds") {
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    CAPTURE(seed);
    Modelled m(40);
    sim::Random rng(seed);
    const std::uint32_t before = m.cells.available();
    std::vector<EntryHandle> order;
    for (std::uint32_t n = 0; n < 500; ++n) order.emplace_back(1 + n % 37, n);
    for (int round = 0; round < 2; ++round) {
      rng.shuffle(order);
      for (const EntryHandle h : order) {
        m.add(h);
        m.check();
      }
      CHECK(List::is_fan(m.head));
      rng.shuffle(order);
      for (const EntryHandle h : order) {
        m.remove(h);
        m.check();
        CHECK_FALSE(List::remove(m.cells, m.head, h));
      }
      CHECK(m.cells.available() == before);
    }
  }
}
TEST_CASE("F20 a list at the border of chain and fan: every length between, up and down") {
  Modelled m(20);
  for (unsigned top = 1; top <= 80; ++top)
    for (unsigned n = 0; n < top; ++n) {
      const EntryHandle h(3, n);
      m.add(h);
      m.check();
      if (n + 1 == top)
        for (unsigned k = 0; k < top; ++k) {
          m.remove(EntryHandle(3, k));
          m.check();
        }
    }
}
TEST_CASE("F20 without cells to spare a long list stays a chain, and is right") {
  Modelled m(1);
  m.spare = 1000;
  for (unsigned n = 0; n < 300; ++n) m.add(EntryHandle(5, n));
  m.check();
  CHECK(List::is_chain(m.head));
  for (unsigned n = 0; n < 300; n += 3) m.remove(EntryHandle(5, n));
  m.check();
}
TEST_CASE("F20 what is drained is named once each, and every cell is back") {
  for (const unsigned length : {0U, 1U, 2U, 14U, 15U, 56U, 57U, 300U}) {
    CAPTURE(length);
    Modelled m(20);
    const std::uint32_t before = m.cells.available();
    for (unsigned n = 0; n < length; ++n) m.add(EntryHandle(9, n));
    std::set<std::uint32_t> found;
    unsigned calls = 0;
    List::drain(m.cells, m.head, [&](EntryHandle h) {
      CHECK(List::empty(m.head));
      found.insert(h.word());
      calls += 1;
    });
    CHECK(found == m.model);
    CHECK(calls == length);
    CHECK(m.cells.available() == before);
    CHECK(m.cells.changes % 2 == 0);
  }
}
TEST_CASE("F20 crowded: at the length asked for, and sooner where handles of one hash were chosen") {
  Modelled even(20);
  unsigned n = 0;
  for (; n < 500 && !List::crowded(even.cells, even.head, EntryHandle(1 + n % 7, n), 392); ++n)
    even.add(EntryHandle(1 + n % 7, n));
  CHECK(n == 392);
  // All that go to the part of (2, 0), and no others.
  Modelled one(20);
  for (unsigned k = 0; k < 60; ++k) one.add(EntryHandle(1, k));
  const std::uint32_t fan = one.head;
  REQUIRE(List::is_fan(fan));
  const auto part_length = [&](EntryHandle h) {
    // The part that h would go to is the one that a trial addition lengthens.
    core::Cell& cell = *one.cells.at(fan & ~(1U << 30));
    unsigned before[14];
    for (unsigned p = 0; p < 14; ++p) before[p] = List::length(one.cells, cell.fan.part[p]);
    List::add(one.cells, one.head, h);
    unsigned which = 14;
    for (unsigned p = 0; p < 14; ++p)
      if (List::length(one.cells, cell.fan.part[p]) != before[p]) which = p;
    REQUIRE(which < 14);
    REQUIRE(List::remove(one.cells, one.head, h));
    return std::pair{which, before[which]};
  };
  const unsigned part = part_length(EntryHandle(2, 0)).first;
  bool crowded = false;
  for (std::uint32_t page = 2; page < 4000 && !crowded; ++page) {
    const EntryHandle h(page, 0);
    const auto [which, length] = part_length(h);
    if (which != part) continue;
    crowded = List::crowded(one.cells, one.head, h, 392);
    CHECK(crowded == (length >= List::kLong));
    if (!crowded) one.add(h);
  }
  CHECK(crowded);
  CHECK(List::length(one.cells, one.head) < 150);
}
}  // namespace
