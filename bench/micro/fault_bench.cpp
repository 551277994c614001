// SPDX-License-Identifier: BSL-1.0
#include "micro/world.hpp"

namespace shadowmmu::bench {
namespace {

/// Effects: the repeats of one row: an empty shadow with its leaf tables, the floor beside it, `prepare`, then `body`
/// over `units`, timed. `peer`: its floors in the small and in the large world (0: not published).
template <class Units, class Prepare, class Body>
void measure(benchmark::State& state, World<>& w, const Units& units, double peer, Prepare&& prepare, Body&& body) {
  for (auto _ : state) {
    Samples ours;
    Samples floor;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      prepare();
      const double began = now_ns();
      for (const auto& u : units) body(u);
      ours.add((now_ns() - began) / static_cast<double>(units.size()));
    }
    publish(state, ours, floor, peer);
  }
}
unsigned tables(const benchmark::State& state) { return static_cast<unsigned>(state.range(0)); }
double pick(const benchmark::State& state, double small, double large) { return state.range(0) == 64 ? small : large; }

/// One random fault each on entries whose leaf table has a shadow already.
void cold_fault_existing_leaf(benchmark::State& state) {
  World<> w(tables(state));
  measure(
      state, w, w.order(), pick(state, 18, 9), [] {}, [&](Gva a) { w.fault(a); });
}
BENCHMARK(cold_fault_existing_leaf)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The first fault in each leaf table.
void cold_fault_new_leaf(benchmark::State& state) {
  World<> w(tables(state));
  const auto empty = [&] {
    w.mmu().zap_all_fast();
    static_cast<void>(w.vcpu().enter());
  };
  measure(state, w, w.firsts(), pick(state, 57, 14.5), empty, [&](Gva a) { w.fault(a); });
}
BENCHMARK(cold_fault_new_leaf)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// gva -> shadow entry.
void lookup(benchmark::State& state) {
  World<> w(tables(state));
  measure(
      state, w, w.order(), pick(state, 9, 0), [&] { w.fill(); },
      [&](Gva a) { benchmark::DoNotOptimize(w.vcpu().lookup(a)); });
}
BENCHMARK(lookup)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// gva -> gpa through the guest's own tables.
void guest_walk(benchmark::State& state) {
  World<> w(tables(state));
  measure(
      state, w, w.order(), pick(state, 4.9, 0.6), [] {},
      [&](Gva a) {
        benchmark::DoNotOptimize(w.vcpu().translate(a, AccessRequest{true, false, true}));
      });
}
BENCHMARK(guest_walk)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The Host takes back one mapped frame after another, in random order.
void unmap_gfn(benchmark::State& state) {
  World<> w(tables(state));
  std::vector<std::uint64_t> gfns(w.all().size());
  for (std::size_t i = 0; i < gfns.size(); ++i) gfns[i] = kFirstData + i;
  sim::Random(7).shuffle(gfns);
  measure(
      state, w, gfns, pick(state, 14, 5), [&] { w.fill(); }, [&](std::uint64_t g) { w.mmu().unmap(Gfn{g}); });
}
BENCHMARK(unmap_gfn)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// CR3 loads among C address spaces whose roots exist, at random.
void cr3_switch(benchmark::State& state) {
  const unsigned roots = tables(state);
  World<> w(64, roots);
  std::vector<std::uint64_t> cr3s;
  for (unsigned i = 0; i < roots; ++i) {
    const std::uint64_t root = w.fresh();
    w.map(Gva{kBase}, kFirstData, root);
    cr3s.push_back(root << kPageShift);
  }
  std::vector<std::uint64_t> order;
  sim::Random rng(9);
  for (int i = 0; i < 20000; ++i) order.push_back(rng.pick(cr3s));
  const auto load = [&](std::uint64_t cr3) {
    static_cast<void>(w.vcpu().set_cr3(cr3));
    static_cast<void>(w.vcpu().enter());
  };
  const auto visit_all = [&] {
    for (const std::uint64_t c : cr3s) {
      load(c);
      w.fault(Gva{kBase});
    }
  };
  measure(state, w, order, 5.1, visit_all, load);
}
BENCHMARK(cr3_switch)->Arg(2)->Arg(16)->Arg(256)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
