// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <thread>

#include "micro/hold_lock.hpp"
#include "micro/threads.hpp"
#include "micro/world.hpp"

/// Zapping everything: the critical section that makes it obsolete, the freeing, and how long the lock is held.
namespace shadowmmu::bench {
namespace {

[[maybe_unused]] const bool kContext = [] {
  benchmark::AddCustomContext("compiler", __VERSION__);
  benchmark::AddCustomContext("instance",
                              "ShadowMmu<arch::X86_64, lock::Spin, reclaim::Fifo> unless a row says otherwise");
  return true;
}();
constexpr int kFewRepeats = 11;  ///< of what takes long to set up

struct YieldTeardown : config::Default {
  static constexpr config::Teardown kTeardown = config::Teardown::Yield;
};

/// Effects: reads and writes so much other memory that nothing else is left in the core's own caches and TLBs.
void sweep() {
  static std::vector<std::uint64_t> other((64U << 20U) / sizeof(std::uint64_t));
  for (std::size_t i = 0; i < other.size(); i += 8) other[i] += 1;
  benchmark::DoNotOptimize(other.data());
}

/// A World of so many live shadow leaf pages with one entry each, and `vcpus` vCPUs in the guest.
class Crowd {
 public:
  Crowd(unsigned pages, unsigned vcpus) : world_(Shape{.tables = pages, .per_table = 1}) {
    for (unsigned i = 1; i < vcpus; ++i) {
      others_.push_back(std::make_unique<MeasuredMmu::Vcpu>(world_.mmu(), VcpuId{i}));
      static_cast<void>(others_.back()->set_control(world_.vcpu().controls()));
      static_cast<void>(others_.back()->set_cr3(world_.cr3() << kPageShift));
    }
  }
  /// Effects: no obsolete page is left, every leaf page is there, every vCPU has its root.
  void restore() {
    world_.mmu().reclaim_obsolete(~0U);
    world_.make_leaves();
    for (const auto& v : others_) static_cast<void>(v->enter());
  }
  /// Effects: what a running guest does to the caches: a thousand lookups of one address.
  void warm() {
    for (int i = 0; i < 1000; ++i) benchmark::DoNotOptimize(world_.vcpu().lookup(world_.firsts()[0]));
  }
  [[nodiscard]] MeasuredMmu& mmu() noexcept { return world_.mmu(); }

  Samples warm_ns, swept_ns;

 private:
  World<> world_;
  std::vector<std::unique_ptr<MeasuredMmu::Vcpu>> others_;
};

/// The critical section of a zap-all with 1,000, 10,000 and 100,000 live pages, by turns. Floor: to take and give the
/// two locks, uncontended.
void zap_prologue(benchmark::State& state) {
  const auto vcpus = static_cast<unsigned>(state.range(0));
  const unsigned sizes = vcpus == 1 ? 3 : 2;  // the largest takes long to make anew
  constexpr int kWarm = 200;
  constexpr int kSwept = 60;
  const char* const names[] = {"1k", "10k", "100k"};
  std::vector<std::unique_ptr<Crowd>> crowds;
  for (unsigned i = 0, pages = 1000; i < sizes; ++i, pages *= 10)
    crowds.push_back(std::make_unique<Crowd>(pages, vcpus));
  std::vector<unsigned> turn;
  for (unsigned i = 0; i < sizes; ++i) turn.push_back(i);
  sim::Random rng(3);
  lock::Spin slots;
  alignas(64) lock::Spin lock;
  for (auto _ : state) {
    Samples floor;
    Samples floor_swept;
    const auto locks = [&] {
      slots.lock();
      lock.lock();
      lock.unlock();
      slots.unlock();
    };
    for (int r = 0; r < kWarm + kSwept; ++r) {
      rng.shuffle(turn);  // none of them always comes after the one that uses most memory
      for (const unsigned i : turn) {
        Crowd& c = *crowds[i];
        c.restore();
        // At every size the pages are in no cache of the core's own then, nor is the Mmu itself unless warmed.
        sweep();
        if (r < kWarm) {
          locks();
          c.warm();
        }
        // The floor first: what zapping leaves in the store buffer would count for it.
        (r < kWarm ? floor : floor_swept).add(brief_ns(locks));
        (r < kWarm ? c.warm_ns : c.swept_ns).add(brief_ns([&] { c.mmu().obsolete_all(); }));
      }
    }
    publish(state, "floor", floor);
    publish(state, "floor_swept", floor_swept);
    for (unsigned i = 0; i < sizes; ++i) {
      publish(state, std::string("warm_") + names[i], crowds[i]->warm_ns);
      publish(state, std::string("swept_") + names[i], crowds[i]->swept_ns);
    }
    state.counters["warm_ratio"] = crowds.back()->warm_ns.median() / crowds.front()->warm_ns.median();
    state.counters["swept_ratio"] = crowds.back()->swept_ns.median() / crowds.front()->swept_ns.median();
  }
}
BENCHMARK(zap_prologue)->Arg(1)->Arg(2)->Arg(8)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The least work of freeing shadow pages: find the live entries of each table, clear them and the reverse mapping of
/// what they map, note the frame as free.
class FreeFloor {
 public:
  FreeFloor(unsigned tables, unsigned per_table)
      : tables_(tables),
        per_table_(per_table),
        entries_(std::size_t{tables} * 512),
        heads_(std::size_t{tables} * per_table),
        gfns_(heads_.size()) {
    for (std::size_t i = 0; i < gfns_.size(); ++i) gfns_[i] = i;
    sim::Random(42).shuffle(gfns_);
    free_.reserve(tables);
  }
  double pass() {
    for (unsigned t = 0; t < tables_; ++t)
      for (unsigned i = 0; i < per_table_; ++i) {
        const std::uint64_t gfn = gfns_[std::size_t{t} * per_table_ + i];
        entries_[t * 512UL + i * (512UL / per_table_)] = gfn << 12U | 0x67;
        heads_[gfn] = t;
      }
    free_.clear();
    return cpu_ns([&] {
      for (unsigned t = 0; t < tables_; ++t) {
        std::uint64_t* e = &entries_[t * 512UL];
        for (unsigned live = per_table_; live != 0; ++e) {
          if (*e == 0) continue;
          heads_[*e >> 12U] = 0;
          *e = 0;
          live -= 1;
        }
        free_.push_back(t);
      }
      benchmark::DoNotOptimize(free_.data());
    });
  }

 private:
  unsigned tables_, per_table_;
  std::vector<std::uint64_t> entries_;
  std::vector<std::uint32_t> heads_;
  std::vector<std::uint64_t> gfns_, free_;
};

/// Everything is zapped and freed: by zap_all_fast, and as a VM ends, with the lock held or let go where somebody
/// waits. us a call.
void zap_full(benchmark::State& state) {
  const auto pages = static_cast<unsigned>(state.range(0));
  const auto sptes = static_cast<unsigned>(state.range(1));
  const Shape shape{.tables = pages, .per_table = sptes};
  World<> w(shape);
  World<MmuOf<YieldTeardown>> y(shape);
  FreeFloor least(pages, sptes);
  const auto fill = [](auto& world) {
    world.make_leaves();
    world.fill();
  };
  for (auto _ : state) {
    Samples fast;
    Samples hold;
    Samples yield;
    Samples floor;
    for (int r = 0; r < kFewRepeats; ++r) {
      floor.add(least.pass() / 1e3);
      fill(w);
      fast.add(cpu_ns([&] { w.mmu().zap_all_fast(); }) / 1e3);
      fill(w);
      hold.add(cpu_ns([&] { w.mmu().release(); }) / 1e3);
      fill(y);
      yield.add(cpu_ns([&] { y.mmu().release(); }) / 1e3);
    }
    publish(state, "floor_us", floor);
    publish(state, "zap_all_us", fast);
    publish(state, "hold_us", hold);
    publish(state, "yield_us", yield);
    state.counters["floors"] = fast.median() / floor.median();
    state.counters["ns_page"] = fast.median() * 1e3 / pages;
    state.counters["ns_spte"] = fast.median() * 1e3 / pages / sptes;
  }
}
BENCHMARK(zap_full)
    ->Args({1000, 1})
    ->Args({1000, 8})
    ->Args({1000, 64})
    ->Args({1000, 512})
    ->Args({10000, 1})
    ->Args({10000, 8})
    ->Args({10000, 64})
    ->Args({10000, 512})
    ->Args({100000, 1})
    ->Args({100000, 8})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

/// A vCPU that faults on leaf pages at random for as long as it lives.
template <class Mmu>
class Faulter {
 public:
  explicit Faulter(World<Mmu>& w) : vcpu_(w.mmu(), VcpuId{1}) {
    static_cast<void>(vcpu_.set_control(w.vcpu().controls()));
    static_cast<void>(vcpu_.set_cr3(w.cr3() << kPageShift));
    thread_ = std::thread([this, &w] {
      sim::Random rng(11);
      const double rate = ns_per_tick();
      while (!stop_.load(std::memory_order_relaxed)) {
        const Gva a = rng.pick(w.firsts());
        const std::uint64_t from = ticks();
        static_cast<void>(vcpu_.handle_fault(a, pferr::kWrite | pferr::kUser, CpuMode{3, false}));
        if (timed_.load(std::memory_order_relaxed)) waits_.push_back(static_cast<double>(ticks() - from) * rate);
        ready_.store(true, std::memory_order_release);
      }
    });
    while (!ready_.load(std::memory_order_acquire)) std::this_thread::yield();
  }
  void timed(bool on) noexcept { timed_.store(on, std::memory_order_relaxed); }
  /// Returns: what each timed fault took, in ns of wall time.
  std::vector<double> end() {
    stop_.store(true);
    thread_.join();
    return std::move(waits_);
  }

 private:
  typename Mmu::Vcpu vcpu_;
  std::thread thread_;
  std::atomic<bool> stop_{false}, timed_{false}, ready_{false};
  std::vector<double> waits_;
};

double us_at(std::vector<double>& v, double quantile) {
  if (v.empty()) return 0;
  const auto at = static_cast<std::ptrdiff_t>(quantile * static_cast<double>(v.size() - 1));
  std::nth_element(v.begin(), v.begin() + at, v.end());
  return v[static_cast<std::size_t>(at)] / 1e3;
}

/// How long so many pages of so many entries keep others from the lock: yielding at every opportunity (Always),
/// yielding to a real vCPU that faults without pause, and held throughout.
template <bool Always>
void zap_holds(benchmark::State& state) {
  using Lock = HoldLock<Always>;
  using Mmu = MmuOf<config::Default, Lock>;
  const auto pages = static_cast<unsigned>(state.range(0));
  World<Mmu> w(Shape{.tables = pages, .per_table = static_cast<unsigned>(state.range(1))});
  const auto fill = [&] {
    w.make_leaves();
    w.fill();
  };
  const auto run = [&](bool hold) {
    if (hold)
      w.mmu().release();
    else
      w.mmu().zap_all_fast();
  };
  for (auto _ : state) {
    Samples longest;
    Samples p99;
    Samples p50;
    Samples total;
    Samples yields;
    Samples total_held;
    Samples wait;
    Samples wait_p50;
    Samples wait_p99;
    std::vector<double> all;
    for (int r = 0; r < kFewRepeats; ++r) {
      for (const bool hold : {true, false}) {
        fill();
        std::unique_ptr<Faulter<Mmu>> other;
        if constexpr (!Always)
          if (!hold) other = std::make_unique<Faulter<Mmu>>(w);
        if (other) other->timed(true);
        const std::uint64_t before = w.mmu().stats().yields;
        const double began = wall_ns();
        std::vector<double> holds = Lock::during([&] { run(hold); });
        const double took = (wall_ns() - began) / 1e3;
        if (other) {
          std::vector<double> waits = other->end();
          wait.add(us_at(waits, 1));
          wait_p50.add(us_at(waits, 0.5));
          wait_p99.add(us_at(waits, 0.99));
        }
        if (hold) {
          total_held.add(took);
          continue;
        }
        total.add(took);
        yields.add(static_cast<double>(w.mmu().stats().yields - before));
        longest.add(us_at(holds, 1));
        p99.add(us_at(holds, 0.99));
        p50.add(us_at(holds, 0.5));
        all.insert(all.end(), holds.begin(), holds.end());
      }
    }
    publish(state, "longest_us", longest);
    publish(state, "p99_us", p99);
    publish(state, "p50_us", p50);
    publish(state, "yielding_us", total);
    publish(state, "held_us", total_held);
    state.counters["yields"] = yields.median();
    state.counters["ratio"] = total.median() / total_held.median();
    if constexpr (!Always) {
      publish(state, "fault_longest_us", wait);
      publish(state, "fault_p50_us", wait_p50);
      publish(state, "fault_p99_us", wait_p99);
    }
    // A histogram of all repeats: holds a repeat of up to 1, 2, 4 ... us.
    for (unsigned us = 1; us <= 1024; us *= 2) {
      const double low = us == 1 ? 0 : us * 500.0;
      const double high = us == 1024 ? 1e18 : us * 1000.0;
      const auto n = std::count_if(all.begin(), all.end(), [&](double t) { return t >= low && t < high; });
      state.counters["upto_" + std::to_string(us)] = static_cast<double>(n) / kFewRepeats;
    }
  }
}
BENCHMARK_TEMPLATE(zap_holds, true)->Args({100000, 1})->Args({10000, 64})->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(zap_holds, false)->Args({10000, 1})->Args({10000, 64})->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
