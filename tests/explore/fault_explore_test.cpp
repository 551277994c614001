// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <memory>

#include "explore/scenarios.hpp"

/// The real library, its locks and its cells on explored memory.
namespace {
using namespace shadowmmu;

/// Explores a scenario completely up to some preemptions, then at random without a bound.
template <class F>
void explore_one(const std::string& model, sim::ExploreOptions options, F&& scenario) {
  options.random_runs = 200;
  options.max_steps = 200'000;
  const sim::Report r = sim::Explorer(options).run(scenario);
  INFO(model, ": ", r.text());
  CHECK(r.ok());
  CHECK(r.complete);
  CHECK(r.runs > options.random_runs + 1);
  MESSAGE(model, ": ", r.text());
}
#ifdef SHADOWMMU_LONG
constexpr unsigned kWeakPreemptions = 2;
#else
constexpr unsigned kWeakPreemptions = 1;
#endif
/// Sequentially consistent, with store buffers, and with such as let stores overtake each other that are no release.
template <class F>
void explore_all(F&& scenario, unsigned tso_preemptions = 2, unsigned sc_preemptions = 2) {
  for (const bool tso : {false, true})
    explore_one(tso ? "x86-TSO" : "sequential", {.preemptions = tso ? tso_preemptions : sc_preemptions, .tso = tso},
                scenario);
  explore_one("weak stores", {.preemptions = kWeakPreemptions, .weak = true}, scenario);
}

template <class F>
void explore_cxx(F&& scenario, unsigned preemptions = 1) {
  // A sequence lock shows only by four loads that find something old.
  explore_one("C++", {.preemptions = max_of(preemptions, kWeakPreemptions), .cxx = true, .stale = 4}, scenario);
}

TEST_CASE("scenarios") {
  for (const test::Named& n : test::scenarios()) {
    SUBCASE(n.name.c_str()) {
      MESSAGE(n.name);
      explore_all(n.make, n.tso_preemptions, n.sc_preemptions);
    }
  }
}

TEST_CASE("scenarios under the C++ memory model") {
  for (const test::Named& n : test::scenarios()) {
    SUBCASE(n.name.c_str()) {
      MESSAGE(n.name);
      explore_cxx(n.make, n.cxx_preemptions);
    }
  }
}

TEST_CASE("a reader stalled for ever: the writer waits at the bound, and no page more does") {
  using Machine = test::Direct<>;
  using M = sim::ExploredMemory;
  std::shared_ptr<Machine> last;
  sim::ExploreOptions options;
  options.max_steps = 200'000;
  const auto scenario = [&] {
    auto m = std::make_shared<Machine>();
    last = m;
    return sim::Scenario{{[m] {
                            const Machine::Mmu::Reader::Section section(*m->reader);
                            M::exchange<memory::Order::SeqCst>(m->flag, 1);
                            for (;;) M::pause();
                          },
                          [m] {
                            while (M::load<memory::Order::Acquire>(m->flag) == 0) M::pause();
                            for (;;) {
                              m->mmu.zap_all_fast();
                              for (auto& v : m->vcpu) static_cast<void>(v->enter());
                              static_cast<void>(m->write(0, 0x1000));
                              m->seen = m->mmu.stats();
                            }
                          }}};
  };
  const sim::Report r = sim::Explorer(options).run(scenario);
  CHECK(r.end == sim::RunEnd::Deadlock);
  REQUIRE(last);
  // Four pages a round: two rounds fill the bound, the third waits with its own in hand.
  CHECK(last->seen.pages_zapped == 8);
  CHECK(last->seen.pages_deferred_now == 8);
  CHECK(last->seen.pages_deferred_highest == test::FewDeferred::kDeferredPages);
  CHECK(last->seen.reader_waits == 0);
}

/// Stored generations of 2 bits: both invalidations together pass the wrap.
struct TwoBits : config::Default {
  static constexpr unsigned kMmioGenerationBits = 2;
};
TEST_CASE("MMIO invalidation x invalidation at the wrap: no entry from before either is believed") {
  using Small = ShadowMmu<arch::Ept, test::ExploredSpin, reclaim::Fifo, host::Arena, TwoBits>;
  struct Pair {
    host::Arena host{32, 256};
    Small mmu{host};
    std::unique_ptr<Small::Vcpu> vcpu;
  };
  const auto scenario = [](int before) {
    auto m = std::make_shared<Pair>();
    REQUIRE(m->mmu.add_slot(Gfn{0}, 16).ok());
    m->vcpu = std::make_unique<Small::Vcpu>(m->mmu);
    for (int i = 0; i < before; ++i) m->mmu.invalidate_mmio();
    REQUIRE(m->vcpu->enter() == EnterOutcome::Enter);
    static_cast<void>(m->vcpu->handle_fault(Gva{0x14'000}, 0));
    const auto invalidate = [m] { m->mmu.invalidate_mmio(); };
    return sim::Scenario{{invalidate, invalidate}, [m] {
                           REQUIRE(m->vcpu->enter() == EnterOutcome::Enter);
                           m->vcpu->invlpg(Gva{0});
                           static_cast<void>(m->vcpu->handle_fault(Gva{0x14'000}, pferr::kReserved));
                           const Counters c = m->mmu.stats();
                           return c.mmio_hits == 0 && c.mmio_cached == 0 && m->mmu.audit().violations == 0;
                         }};
  };
  for (int before = 0; before < 4; ++before) {
    explore_all([&] { return scenario(before); });
    explore_cxx([&] { return scenario(before); });
  }
}
}  // namespace
