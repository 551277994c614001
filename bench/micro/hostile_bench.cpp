// SPDX-License-Identifier: BSL-1.0
#include <benchmark/benchmark.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "micro/hold_lock.hpp"
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

/// What a hostile guest can make long: how long one critical section holds the lock, in thread CPU time, least of the
/// repeats, with somebody always waiting for it; and how long the whole operation takes.
namespace shadowmmu::bench {
namespace {

using Lock = HoldLock<true>;
using Mmu = ShadowMmu<arch::X86_64, Lock, reclaim::Default, host::Arena>;
constexpr std::uint64_t kUsed = 0x67;  ///< P | W | U | A | D
constexpr CpuMode kUserMode{3, false};

struct Guest {
  explicit Guest(std::uint32_t limit) {
    if (!mmu.add_slot(Gfn{0}, kPages).ok()) std::abort();
    mmu.set_limit(limit);
  }
  std::uint64_t* table(std::uint64_t g) { return static_cast<std::uint64_t*>(arena.guest_page(Gfn{g})); }
  void start() {
    constexpr Controls kLong{cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe};
    vcpu = std::make_unique<Mmu::Vcpu>(mmu);
    if (vcpu->set_control(kLong) != ControlOutcome::Done || !load()) std::abort();
  }
  bool load() { return vcpu->set_cr3(1 << 12) == ControlOutcome::Done && vcpu->enter() == EnterOutcome::Enter; }
  void touch(std::uint64_t a, bool write = false) {
    const FaultOutcome o = vcpu->handle_fault(Gva{a}, pferr::kUser | (write ? pferr::kWrite : 0U), kUserMode);
    if (o.kind != FaultOutcome::Kind::Resume && o.kind != FaultOutcome::Kind::Retry) std::abort();
  }
  static constexpr std::uint64_t kPages = 65536;
  host::Arena arena{kPages, 120000};
  Mmu mmu{arena};
  std::unique_ptr<Mmu::Vcpu> vcpu;
};

/// Effects: times `operation` on what `build` made, anew for each repeat.
void measure(benchmark::State& state, unsigned repeats, const std::function<std::unique_ptr<Guest>()>& build,
             const std::function<void(Guest&)>& operation) {
  double longest = 0;
  double whole = 0;
  for (auto _ : state)
    for (unsigned n = 0; n < repeats; ++n) {
      const std::unique_ptr<Guest> g = build();
      const double began = now_ns();
      const std::vector<double> holds = Lock::during([&] { operation(*g); });
      const double took = now_ns() - began;
      const double most = holds.empty() ? 0 : *std::max_element(holds.begin(), holds.end());
      longest = n == 0 ? most : std::min(longest, most);
      whole = n == 0 ? took : std::min(whole, took);
    }
  state.counters["longest_hold_us"] = longest / 1e3;
  state.counters["whole_us"] = whole / 1e3;
}

/// Four tables, each of whose entries name the next: 512^3 paths to one leaf table, which the guest has written.
void paths_sync(benchmark::State& state) {
  measure(
      state, 5,
      [] {
        auto g = std::make_unique<Guest>(1000);
        for (unsigned i = 0; i < 512; ++i)
          for (std::uint64_t t = 1; t <= 3; ++t) g->table(t)[i] = (t + 1) << 12 | kUsed;
        g->table(4)[0] = 400 << 12 | kUsed;
        g->table(4)[1] = 4 << 12 | kUsed;
        g->start();
        for (unsigned l = 4; l >= 2; --l)
          for (std::uint64_t i = 0; i < 512; ++i) g->touch(i << Level{l}.shift());
        g->touch(0x1000, true);
        return g;
      },
      [](Guest& g) {
        if (!g.load()) std::abort();
      });
}

/// As many leaf tables as asked for, each full and written by the guest: a CR3 load brings all of them back.
void tables_sync(benchmark::State& state) {
  const auto tables = static_cast<std::uint64_t>(state.range(0));
  constexpr std::uint64_t kWindow = std::uint64_t{8} << 30;
  measure(
      state, 3,
      [tables] {
        auto g = std::make_unique<Guest>(4000);
        g->table(1)[0] = 2 << 12 | kUsed;
        g->table(2)[0] = 3 << 12 | kUsed;
        g->table(2)[8] = 4 << 12 | kUsed;
        g->table(4)[0] = 5 << 12 | kUsed;
        for (std::uint64_t t = 0; t < tables; ++t) {
          g->table(3)[t] = g->table(5)[t] = (100 + t) << 12 | kUsed;
          for (std::uint64_t i = 0; i < 512; ++i) g->table(100 + t)[i] = (1000 + (t * 512 + i) % 60000) << 12 | kUsed;
        }
        g->start();
        for (std::uint64_t t = 0; t < tables; ++t)
          for (std::uint64_t i = 0; i < 512; i += 8) g->touch(t << 21 | i << 12);
        for (std::uint64_t t = 0; t < tables; ++t) g->touch(kWindow + (t << 12), true);
        return g;
      },
      [](Guest& g) {
        if (!g.load()) std::abort();
      });
}

/// 2000 directories whose 512 entries all name one leaf table.
std::unique_ptr<Guest> crowd() {
  constexpr std::uint64_t kDirectories = 2000;
  auto g = std::make_unique<Guest>(30000);
  g->table(5)[0] = 400 << 12 | kUsed;
  g->table(5)[1] = 5 << 12 | kUsed;
  for (std::uint64_t t = 0; t < kDirectories; ++t) {
    g->table(1)[t / 512] = (100 + t / 512) << 12 | kUsed;
    g->table(100 + t / 512)[t % 512] = (1000 + t) << 12 | kUsed;
    for (unsigned i = 0; i < 512; ++i) g->table(1000 + t)[i] = 5 << 12 | kUsed;
  }
  g->start();
  for (std::uint64_t t = 0; t < kDirectories; ++t)
    for (std::uint64_t i = 0; i < 512; ++i) g->touch(t << 30 | i << 21);
  return g;
}
void parents_unsync(benchmark::State& state) {
  measure(state, 3, crowd, [](Guest& g) { g.touch(1999ULL << 30 | 511ULL << 21 | 0x1000, true); });
}
void parents_flood(benchmark::State& state) {
  measure(state, 3, crowd, [](Guest& g) {
    for (int i = 0; i < 3; ++i) g.mmu.guest_wrote(Gpa{2999ULL << 12}, 8);
  });
}
void parents_shrink(benchmark::State& state) {
  measure(state, 3, crowd, [](Guest& g) { g.mmu.shrink(4); });
}

/// 65,540 generations that nobody collects, of a top table that maps itself.
void generations(benchmark::State& state) {
  measure(
      state, 3,
      [] {
        auto g = std::make_unique<Guest>(80000);
        g->table(1)[0] = 1 << 12 | kUsed;
        g->start();
        for (unsigned n = 0; n < 65540; ++n) {
          g->mmu.obsolete_all();
          if (g->vcpu->enter() != EnterOutcome::Enter) std::abort();
        }
        return g;
      },
      [](Guest& g) {
        for (unsigned n = 0; n < 16; ++n) {
          g.mmu.obsolete_all();
          if (g.vcpu->enter() != EnterOutcome::Enter) std::abort();
        }
      });
}

/// 30,000 entries of 59 leaf tables that map one frame.
std::unique_ptr<Guest> popular() {
  auto g = std::make_unique<Guest>(4000);
  g->table(1)[0] = 2 << 12 | kUsed;
  g->table(2)[0] = 3 << 12 | kUsed;
  for (std::uint64_t t = 0; t < 59; ++t) {
    g->table(3)[t] = (100 + t) << 12 | kUsed;
    for (unsigned i = 0; i < 512; ++i) g->table(100 + t)[i] = 400 << 12 | kUsed;
  }
  g->start();
  for (std::uint64_t n = 0; n < 30000; ++n) g->touch(n << 12);
  return g;
}
void mappings_unmap(benchmark::State& state) {
  measure(state, 5, popular, [](Guest& g) { g.mmu.unmap(Gfn{400}); });
}
void mappings_shrink(benchmark::State& state) {
  measure(state, 5, popular, [](Guest& g) { g.mmu.shrink(62); });
}

BENCHMARK(paths_sync)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(tables_sync)->Arg(1)->Arg(64)->Arg(512)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(parents_unsync)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(parents_flood)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(parents_shrink)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(generations)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(mappings_unmap)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(mappings_shrink)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
