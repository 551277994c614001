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
  host::Arena host{16, 256};
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
TEST_CASE("fault x host invalidation") {
  sim::ExploreOptions options;
  options.preemptions = 2;
  sim::Explorer e(options);
  const sim::Report r = e.run(fault_beside_invalidation);
  INFO(r.text());
  CHECK(r.ok());
  CHECK(r.complete);
  MESSAGE(r.text());
}
}  // namespace
