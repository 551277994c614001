// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <memory>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"
#include "shadowmmu/sim/explore.hpp"

/// The real library, its lock and its cells on explored memory: two vCPUs fault on one entry at once.
namespace {
using namespace shadowmmu;
using ExploredSpin = lock::BasicSpin<sim::ExploredMemory>;
using Mmu = ShadowMmu<arch::Ept, ExploredSpin, reclaim::Fifo>;

struct Machine {
  Machine() {
    REQUIRE(mmu.add_slot(Gfn{0}, 16).ok());
    for (auto& v : vcpu) {
      v = std::make_unique<Mmu::Vcpu>(mmu, VcpuId{static_cast<std::uint32_t>(&v - vcpu)});
      REQUIRE(v->enter() == EnterOutcome::Enter);
      static_cast<void>(v->handle_fault(Gva{0x1000}, 0));  // the path exists, magazines are full
    }
  }
  ~Machine() {
    for (auto& v : vcpu) v.reset();
  }
  host::Arena host{32, 256};
  Mmu mmu{host};
  std::unique_ptr<Mmu::Vcpu> vcpu[2];
  FaultOutcome::Kind kind[2] = {};
};

sim::Scenario fault_beside_fault(std::uint64_t first, std::uint64_t second) {
  auto m = std::make_shared<Machine>();
  const auto fault = [m](int i, std::uint64_t a) {
    return [m, i, a] { m->kind[i] = m->vcpu[i]->handle_fault(Gva{a}, pferr::kWrite).kind; };
  };
  return {{fault(0, first), fault(1, second)}, [m, first, second] {
            for (const auto k : m->kind)
              if (k != FaultOutcome::Kind::Resume) return false;
            const AuditReport r = m->mmu.audit();
            const std::uint64_t leaves = first >> 12 == second >> 12 ? 2 : 3;
            return r.violations == 0 && r.leaves == leaves && m->vcpu[0]->lookup(Gva{first}).present &&
                   m->vcpu[1]->lookup(Gva{second}).rights.write();
          }};
}

void explore(std::uint64_t first, std::uint64_t second) {
  for (const bool tso : {false, true}) {
    sim::ExploreOptions options;
    options.preemptions = 2;
    options.tso = tso;
    options.random_runs = 200;
    sim::Explorer e(options);
    const sim::Report r = e.run([&] { return fault_beside_fault(first, second); });
    INFO(r.text());
    CHECK(r.ok());
    CHECK(r.complete);
    CHECK(r.runs > 50);
    const std::string model = tso ? "x86-TSO: " : "sequential: ";
    MESSAGE(model, r.text());
  }
}

TEST_CASE("fault x fault on one entry") { explore(0x5000, 0x5008); }
TEST_CASE("fault x fault on neighbours in one table") { explore(0x5000, 0x6000); }

sim::Scenario fault_beside_invalidation() {
  auto m = std::make_shared<Machine>();
  return {{[m] { m->kind[0] = m->vcpu[0]->handle_fault(Gva{0x5000}, pferr::kWrite).kind; },
           [m] {
             m->mmu.invalidate_begin(Gfn{5}, 1);
             m->mmu.invalidate_end();
           }},
          [m] {
            // Whoever came last: no entry from before the invalidation stands after it without a fault that saw it end.
            const bool present = m->vcpu[0]->lookup(Gva{0x5000}).present;
            const bool fine =
                m->kind[0] == FaultOutcome::Kind::Retry ? !present : m->kind[0] == FaultOutcome::Kind::Resume;
            return fine && m->mmu.audit().violations == 0;
          }};
}

/// Explores a scenario under x86-TSO, completely up to so many preemptions, then at random.
template <class F>
void explore_all(F&& scenario, unsigned preemptions) {
  sim::ExploreOptions options;
  options.preemptions = preemptions;
  options.tso = true;
  options.random_runs = 300;
  sim::Explorer e(options);
  const sim::Report r = e.run(scenario);
  INFO(r.text());
  CHECK(r.ok());
  CHECK(r.complete);
  MESSAGE(r.text());
}
TEST_CASE("fault x host invalidation") { explore_all(fault_beside_invalidation, 2); }

sim::Scenario fault_beside_zap_all() {
  auto m = std::make_shared<Machine>();
  return {
      {[m] { m->kind[0] = m->vcpu[0]->handle_fault(Gva{0x5000}, pferr::kWrite).kind; }, [m] { m->mmu.zap_all_fast(); }},
      [m] {
        // Nothing of the old generation is left but roots that their vCPUs have not let go of.
        const Counters c = m->mmu.stats();
        const AuditReport r = m->mmu.audit();
        const bool fine = m->kind[0] == FaultOutcome::Kind::Resume || m->kind[0] == FaultOutcome::Kind::Retry;
        const bool entered = m->vcpu[0]->enter() == EnterOutcome::Enter;
        return fine && r.violations == 0 && entered && c.pages_obsolete >= 4 && m->mmu.audit().violations == 0;
      }};
}
TEST_CASE("fault x zap_all_fast") { explore_all(fault_beside_zap_all, 2); }

sim::Scenario fault_beside_slot_removal() {
  auto m = std::make_shared<Machine>();
  return {{[m] { m->kind[0] = m->vcpu[0]->handle_fault(Gva{0x5000}, pferr::kWrite).kind; },
           [m] { REQUIRE(m->mmu.remove_slot(SlotId{0}).ok()); }},
          [m] {
            const bool fine = m->kind[0] == FaultOutcome::Kind::Resume || m->kind[0] == FaultOutcome::Kind::Retry ||
                              m->kind[0] == FaultOutcome::Kind::Mmio;
            return fine && m->vcpu[0]->enter() == EnterOutcome::Enter && !m->vcpu[0]->lookup(Gva{0x5000}).present &&
                   m->mmu.audit().violations == 0 &&
                   m->vcpu[0]->handle_fault(Gva{0x5000}, pferr::kWrite).kind == FaultOutcome::Kind::Mmio;
          }};
}
TEST_CASE("fault x slot removal") { explore_all(fault_beside_slot_removal, 2); }

/// Whatever a fault on a device's page leaves behind, it is not believed once the page is memory.
sim::Scenario mmio_beside_new_slot() {
  auto m = std::make_shared<Machine>();
  static_cast<void>(m->vcpu[0]->handle_fault(Gva{0x14'000}, 0));
  return {{[m] { m->kind[0] = m->vcpu[0]->handle_fault(Gva{0x14'000}, pferr::kReserved).kind; },
           [m] { REQUIRE(m->mmu.add_slot(Gfn{16}, 16).ok()); }},
          [m] {
            const bool fine = m->kind[0] == FaultOutcome::Kind::Resume || m->kind[0] == FaultOutcome::Kind::Retry ||
                              m->kind[0] == FaultOutcome::Kind::Mmio;
            return fine && m->vcpu[0]->enter() == EnterOutcome::Enter &&
                   m->vcpu[0]->handle_fault(Gva{0x14'000}, pferr::kReserved).kind == FaultOutcome::Kind::Resume &&
                   m->mmu.audit().violations == 0;
          }};
}
TEST_CASE("MMIO fault x a slot that appears") { explore_all(mmio_beside_new_slot, 2); }

/// Stored generations of 2 bits: both invalidations together pass the wrap.
struct TwoBits : config::Default {
  static constexpr unsigned kMmioGenerationBits = 2;
};
TEST_CASE("MMIO invalidation x invalidation at the wrap: no entry from before either is believed") {
  using Small = ShadowMmu<arch::Ept, ExploredSpin, reclaim::Fifo, host::Arena, TwoBits>;
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
  for (int before = 0; before < 4; ++before) explore_all([&] { return scenario(before); }, 2);
}
}  // namespace
