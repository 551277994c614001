// SPDX-License-Identifier: BSL-1.0
#include "micro/world.hpp"

namespace shadowmmu::bench {
namespace {

/// One random fault each on entries whose leaf table has a shadow already.
void cold_fault_existing_leaf(benchmark::State& state) {
  World<> w(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    Samples ours;
    Samples floor;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      const double began = now_ns();
      for (const Gva a : w.order()) w.fault(a);
      ours.add((now_ns() - began) / static_cast<double>(w.order().size()));
    }
    publish(state, ours, floor, state.range(0) == 64 ? 18 : 9);
  }
}
BENCHMARK(cold_fault_existing_leaf)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The first fault in each leaf table.
void cold_fault_new_leaf(benchmark::State& state) {
  World<> w(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    Samples ours;
    Samples floor;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      w.mmu().zap_all();
      static_cast<void>(w.vcpu().enter());
      const double began = now_ns();
      for (const Gva a : w.firsts()) w.fault(a);
      ours.add((now_ns() - began) / static_cast<double>(w.firsts().size()));
    }
    publish(state, ours, floor, state.range(0) == 64 ? 57 : 14.5);
  }
}
BENCHMARK(cold_fault_new_leaf)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// gva -> shadow entry.
void lookup(benchmark::State& state) {
  World<> w(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    Samples ours;
    Samples floor;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      for (const Gva a : w.order()) w.fault(a);
      const double began = now_ns();
      for (const Gva a : w.order()) benchmark::DoNotOptimize(w.vcpu().lookup(a));
      ours.add((now_ns() - began) / static_cast<double>(w.order().size()));
    }
    publish(state, ours, floor, state.range(0) == 64 ? 9 : 0);
  }
}
BENCHMARK(lookup)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// gva -> gpa through the guest's own tables.
void guest_walk(benchmark::State& state) {
  World<> w(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    Samples ours;
    Samples floor;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      const double began = now_ns();
      for (const Gva a : w.order()) benchmark::DoNotOptimize(w.vcpu().translate(a, AccessRequest{true, false, true}));
      ours.add((now_ns() - began) / static_cast<double>(w.order().size()));
    }
    publish(state, ours, floor, state.range(0) == 64 ? 4.9 : 0.6);
  }
}
BENCHMARK(guest_walk)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The Host takes back one mapped frame after another, in random order.
void unmap_gfn(benchmark::State& state) {
  World<> w(static_cast<unsigned>(state.range(0)));
  std::vector<std::uint64_t> gfns(w.all().size());
  for (std::size_t i = 0; i < gfns.size(); ++i) gfns[i] = kFirstData + i;
  sim::Random(7).shuffle(gfns);
  for (auto _ : state) {
    Samples ours;
    Samples floor;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      for (const Gva a : w.order()) w.fault(a);
      const double began = now_ns();
      for (const std::uint64_t g : gfns) w.mmu().unmap(Gfn{g});
      ours.add((now_ns() - began) / static_cast<double>(gfns.size()));
    }
    publish(state, ours, floor, state.range(0) == 64 ? 14 : 5);
  }
}
BENCHMARK(unmap_gfn)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// CR3 loads among C address spaces whose roots exist, at random.
void cr3_switch(benchmark::State& state) {
  const auto roots = static_cast<unsigned>(state.range(0));
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
  for (auto _ : state) {
    Samples ours;
    Samples floor;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      for (const std::uint64_t c : cr3s) {
        static_cast<void>(w.vcpu().set_cr3(c));
        static_cast<void>(w.vcpu().enter());
        w.fault(Gva{kBase});
      }
      const double began = now_ns();
      for (const std::uint64_t c : order) {
        static_cast<void>(w.vcpu().set_cr3(c));
        static_cast<void>(w.vcpu().enter());
      }
      ours.add((now_ns() - began) / static_cast<double>(order.size()));
      static_cast<void>(w.vcpu().set_cr3(w.cr3() << kPageShift));
    }
    publish(state, ours, floor, 5.1);
  }
}
BENCHMARK(cr3_switch)->Arg(2)->Arg(16)->Arg(256)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
