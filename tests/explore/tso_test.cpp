// SPDX-License-Identifier: BSL-1.0
// Random little programs: the explorer must reach exactly the outcomes that an abstract x86-TSO machine reaches.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "shadowmmu/sim/explore.hpp"

using namespace shadowmmu::sim;
using shadowmmu::memory::Order;

namespace {

enum class Kind { Load, Store, Add, Fence };
struct Op {
  Kind kind;
  unsigned cell;
  std::uint64_t value;
};
using Program = std::vector<std::vector<Op>>;
constexpr std::size_t kCells = 3;
// What every load and add saw, agent by agent, and the cells at the end.
using Trace = std::vector<std::uint64_t>;

// The machine of the paper, every rule at every moment, no reduction.
class Machine {
 public:
  explicit Machine(const Program& p, bool tso) : program_(p), tso_(tso) {}
  std::set<Trace> outcomes() {
    visit({std::array<std::uint64_t, kCells>{}, std::vector<Cpu>(program_.size())});
    return std::move(outcomes_);
  }

 private:
  struct Cpu {
    std::size_t next = 0;
    std::vector<std::pair<unsigned, std::uint64_t>> buffer;
    Trace seen;
    auto operator<=>(const Cpu&) const = default;
  };
  struct State {
    std::array<std::uint64_t, kCells> memory;
    std::vector<Cpu> cpus;
    auto operator<=>(const State&) const = default;
  };

  void visit(const State& s) {
    if (!visited_.insert(s).second) return;
    bool ended = true;
    for (std::size_t i = 0; i < s.cpus.size(); ++i) {
      const Cpu& c = s.cpus[i];
      if (!c.buffer.empty()) {
        ended = false;
        State t = s;
        t.memory[c.buffer.front().first] = c.buffer.front().second;
        t.cpus[i].buffer.erase(t.cpus[i].buffer.begin());
        visit(t);
      }
      if (c.next == program_[i].size()) continue;
      ended = false;
      const Op op = program_[i][c.next];
      if ((op.kind == Kind::Add || op.kind == Kind::Fence) && !c.buffer.empty()) continue;
      State t = s;
      Cpu& d = t.cpus[i];
      ++d.next;
      if (op.kind == Kind::Load) d.seen.push_back(look(s, c, op.cell));
      if (op.kind == Kind::Add) {
        d.seen.push_back(s.memory[op.cell]);
        t.memory[op.cell] += op.value;
      }
      if (op.kind == Kind::Store) {
        if (tso_) {
          d.buffer.emplace_back(op.cell, op.value);
        } else {
          t.memory[op.cell] = op.value;
        }
      }
      visit(t);
    }
    if (!ended) return;
    Trace out;
    for (const Cpu& c : s.cpus) out.insert(out.end(), c.seen.begin(), c.seen.end());
    out.insert(out.end(), s.memory.begin(), s.memory.end());
    outcomes_.insert(out);
  }
  static std::uint64_t look(const State& s, const Cpu& c, unsigned cell) {
    for (auto e = c.buffer.rbegin(); e != c.buffer.rend(); ++e) {
      if (e->first == cell) return e->second;
    }
    return s.memory[cell];
  }

  const Program& program_;
  bool tso_;
  std::set<State> visited_;
  std::set<Trace> outcomes_;
};

std::set<Trace> explored(const Program& p, bool tso) {
  struct World {
    std::array<std::uint64_t, kCells> cells{};
    std::vector<Trace> seen;
  };
  std::set<Trace> out;
  Explorer e{{.preemptions = ExploreOptions::kAnyNumber, .tso = tso}};
  const Report r = e.run([&] {
    auto w = std::make_shared<World>();
    w->seen.resize(p.size());
    Scenario s;
    for (std::size_t i = 0; i < p.size(); ++i) {
      s.agents.push_back([&p, w, i] {
        for (const Op op : p[i]) {
          std::uint64_t& cell = w->cells[op.cell];
          switch (op.kind) {
            case Kind::Load:
              w->seen[i].push_back(ExploredMemory::load<Order::Acquire>(cell));
              break;
            case Kind::Store:
              ExploredMemory::store<Order::Release>(cell, op.value);
              break;
            case Kind::Add:
              w->seen[i].push_back(ExploredMemory::fetch_add<Order::AcqRel>(cell, op.value));
              break;
            case Kind::Fence:
              ExploredMemory::fence<Order::SeqCst>();
              break;
          }
        }
      });
    }
    s.check = [w, &out] {
      Trace t;
      for (const Trace& seen : w->seen) t.insert(t.end(), seen.begin(), seen.end());
      t.insert(t.end(), w->cells.begin(), w->cells.end());
      out.insert(t);
      return true;
    };
    return s;
  });
  CHECK(r.complete);
  return out;
}

Program random_program(std::mt19937& rng, std::size_t agents, std::size_t length) {
  Program p(agents);
  std::uint64_t value = 0;
  for (auto& body : p) {
    for (std::size_t n = 0; n < length; ++n) {
      constexpr Kind kKinds[] = {Kind::Load, Kind::Store, Kind::Load, Kind::Store, Kind::Store, Kind::Add, Kind::Fence};
      body.push_back({kKinds[rng() % 7], static_cast<unsigned>(rng() % kCells), ++value * 16});
    }
  }
  return p;
}

}  // namespace

TEST_CASE("outcomes of random programs are those of the x86-TSO machine, none missing, none invented") {
  std::mt19937 rng(1);
  for (int n = 0; n < 1000; ++n) {
    const Program two = random_program(rng, 2, n % 2 == 0 ? 4 : 5);
    const Program three = random_program(rng, 3, 2);
    for (const bool tso : {true, false}) {
      CAPTURE(n);
      CAPTURE(tso);
      CHECK(explored(two, tso) == Machine(two, tso).outcomes());
      CHECK(explored(three, tso) == Machine(three, tso).outcomes());
    }
  }
}

TEST_CASE("independent reads of independent writes agree on an order") {
  const Program iriw = {{{Kind::Store, 0, 1}},
                        {{Kind::Store, 1, 1}},
                        {{Kind::Load, 0, 0}, {Kind::Load, 1, 0}},
                        {{Kind::Load, 1, 0}, {Kind::Load, 0, 0}}};
  const auto got = explored(iriw, true);
  CHECK(got == Machine(iriw, true).outcomes());
  CHECK_FALSE(got.contains({1, 0, 1, 0, 1, 1, 0}));
}
