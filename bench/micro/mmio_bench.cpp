// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <thread>

#include "micro/world.hpp"

/// MMIO entries: all forgotten at once, and the ways to answer a fault on one.
namespace shadowmmu::bench {
namespace {

constexpr std::uint64_t kMmioVa = 0x3000'0000'0000;
constexpr std::uint64_t kMmioGfn = std::uint64_t{1} << 26U;  ///< in no slot

/// A Host whose flush, done under the Mmu's lock, takes until it is told to end.
class SlowFlush : public HugeArena {
 public:
  using HugeArena::HugeArena;
  void flush(const FlushRequest& r) noexcept {
    HugeArena::flush(r);
    if (!slow_.load(std::memory_order_acquire)) return;
    inside_.store(true, std::memory_order_release);
    slow_.wait(true, std::memory_order_acquire);
    inside_.store(false, std::memory_order_release);
  }
  void slow(bool on) noexcept {
    slow_.store(on, std::memory_order_release);
    slow_.notify_all();
  }
  [[nodiscard]] bool inside() const noexcept { return inside_.load(std::memory_order_acquire); }

 private:
  std::atomic<bool> slow_{false}, inside_{false};
};

template <class Host = HugeArena>
class MmioWorld : public World<MmuOf<config::Default, lock::Spin, Host>> {
  using Mmu = MmuOf<config::Default, lock::Spin, Host>;

 public:
  /// `entries` pages of MMIO, 512 a guest table, each faulted on once. Hardware reports MMIO entries by the reserved
  /// bit.
  explicit MmioWorld(unsigned entries)
      : World<Mmu>(Shape{.tables = 64, .spare_tables = entries / 512 + 64},
                   typename Mmu::Caps{.host_address_bits = 46}) {
    for (unsigned i = 0; i < entries; ++i) {
      at_.push_back(Gva{kMmioVa + std::uint64_t{i} * kPageSize});
      this->map(at_.back(), kMmioGfn + i);
    }
    sim::Random(5).shuffle(at_);
  }
  /// Effects: an empty shadow with its ordinary leaf tables and every MMIO entry.
  void restore() {
    this->empty_with_leaves();
    for (const Gva a : at_) walk(a);
  }
  /// A fault that finds no entry: the whole walk.
  void walk(Gva a) { expect(this->vcpu().handle_fault(a, pferr::kWrite | pferr::kUser, CpuMode{3, false})); }
  /// A fault on an MMIO entry, as hardware reports it.
  void fast(Gva a) {
    expect(this->vcpu().handle_fault(a, pferr::kPresent | pferr::kReserved | pferr::kWrite | pferr::kUser,
                                     CpuMode{3, false}));
  }
  [[nodiscard]] const std::vector<Gva>& at() const noexcept { return at_; }

 private:
  static void expect(const FaultOutcome& o) {
    if (o.kind != FaultOutcome::Kind::Mmio) std::abort();
  }
  std::vector<Gva> at_;
};

/// All MMIO entries forgotten, with so many in the tables; the lock free, and held by another thread throughout. Floor:
/// a locked operation on a cache line of one's own.
void mmio_invalidate(benchmark::State& state) {
  MmioWorld<SlowFlush> w(static_cast<unsigned>(state.range(0)));
  w.restore();
  constexpr int kCalls = 64;
  const auto calls = [&] {
    for (int i = 0; i < kCalls; ++i) w.mmu().invalidate_mmio();
  };
  alignas(64) std::uint64_t cell = 0;
  for (auto _ : state) {
    Samples idle;
    Samples held;
    Samples floor;
    for (int r = 0; r < 200; ++r) {
      floor.add(brief_ns([&] {
                  for (int i = 0; i < kCalls; ++i) {
                    std::uint64_t old = memory::Smp::plain(cell);
                    static_cast<void>(memory::Smp::compare_exchange<memory::Order::AcqRel>(cell, old, old + 1));
                  }
                }) /
                kCalls);
      idle.add(brief_ns(calls) / kCalls);
      w.fault(w.order()[0]);
      w.arena().slow(true);
      std::thread holder([&] { w.mmu().unmap(Gfn{kFirstData}, 64 * kPerTable); });
      while (!w.arena().inside()) std::this_thread::yield();
      held.add(brief_ns(calls) / kCalls);
      w.arena().slow(false);
      holder.join();
    }
    publish(state, "ns", idle);
    publish(state, "held_ns", held);
    publish(state, "floor_ns", floor);
    state.counters["floors"] = idle.median() / floor.median();
    state.counters["wraps"] = static_cast<double>(w.mmu().stats().mmio_wraps);
  }
}
BENCHMARK(mmio_invalidate)->Arg(0)->Arg(1000)->Arg(100000)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The ways to answer an MMIO fault, ns each: the first (walk), the page of the last one again (last), one that has an
/// entry (entry), one whose entry is of an old generation (stale). Floor: as of every fault, on memory.
void mmio_fault(benchmark::State& state) {
  MmioWorld<> w(static_cast<unsigned>(state.range(0)));
  const auto each = [&](auto&& fault) {
    return cpu_ns([&] {
             for (const Gva a : w.at()) fault(a);
           }) /
           static_cast<double>(w.at().size());
  };
  for (auto _ : state) {
    Samples floor;
    Samples walk;
    Samples last;
    Samples entry;
    Samples stale;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      w.restore();
      w.empty_with_leaves();
      // Every leaf table is there, as in cold_fault_existing_leaf.
      for (std::uint64_t va = kMmioVa; va < kMmioVa + w.at().size() * kPageSize; va += 512 * kPageSize) w.walk(Gva{va});
      walk.add(each([&](Gva a) { w.walk(a); }));
      last.add(each([&](Gva) { w.fast(w.at()[0]); }));
      entry.add(each([&](Gva a) { w.fast(a); }));
      w.mmu().invalidate_mmio();
      stale.add(each([&](Gva a) { w.fast(a); }));
    }
    publish(state, "floor_ns", floor);
    publish(state, "walk_ns", walk);
    publish(state, "last_ns", last);
    publish(state, "entry_ns", entry);
    publish(state, "stale_ns", stale);
    const Counters c = w.mmu().stats();
    state.counters["stale_met"] = static_cast<double>(c.mmio_stale);
    for (auto& [name, s] :
         {std::pair<const char*, Samples*>{"walk", &walk}, {"last", &last}, {"entry", &entry}, {"stale", &stale}})
      state.counters[std::string(name) + "_floors"] = s->median() / floor.median();
  }
}
BENCHMARK(mmio_fault)->Arg(1000)->Arg(100000)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The cold fault on memory where hardware cannot report MMIO entries by a reserved bit (52 address bits), so that
/// every not-present fault looks for one, beside hardware that can (46). ns.
void cold_fault_address_bits(benchmark::State& state) {
  const Shape shape{.tables = static_cast<unsigned>(state.range(0))};
  World<> wide(shape, World<>::Caps{.host_address_bits = 52});
  World<> narrow(shape, World<>::Caps{.host_address_bits = 46});
  for (World<>* w : {&wide, &narrow}) w->map(Gva{kMmioVa}, kMmioGfn);
  for (auto _ : state) {
    Samples floor;
    Samples ns[2];
    for (int r = 0; r < kRepeats; ++r) {
      unsigned i = 0;
      for (World<>* w : {&wide, &narrow}) {
        w->empty_with_leaves();
        floor.add(w->floor_pass(w->order()));
        if (w->vcpu().handle_fault(Gva{kMmioVa}, pferr::kUser, CpuMode{3, false}).kind != FaultOutcome::Kind::Mmio)
          std::abort();
        ns[i++].add(cpu_ns([&] { w->fill(); }) / static_cast<double>(w->order().size()));
      }
    }
    publish(state, "floor_ns", floor);
    publish(state, "ns_52", ns[0]);
    publish(state, "ns_46", ns[1]);
    state.counters["floors_52"] = ns[0].median() / floor.median();
    state.counters["floors_46"] = ns[1].median() / floor.median();
  }
}
BENCHMARK(cold_fault_address_bits)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
