// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <thread>

#include "micro/direct_world.hpp"
#include "micro/threads.hpp"

/// Readers without the lock: what a section and a look cost, what a writer beside them changes, what the fault without
/// the lock saves, and what writers pay for it all.
namespace shadowmmu::bench {
namespace {

using Locked = lock::Spin;
using Lockless = lock::Readers<lock::Spin>;
template <class L>
using GuestMmu = MmuOf<config::Default, L>;
unsigned arg(const benchmark::State& state) { return static_cast<unsigned>(state.range(0)); }

/// ns of one section, by itself and inside another. Floor: one uncontended exchange and one store.
void reader_section(benchmark::State& state) {
  using Mmu = GuestMmu<Lockless>;
  constexpr int kTurns = 200'000;
  World<Mmu> w(64);
  Mmu::Reader reader(w.mmu());
  struct alignas(64) Line {
    std::uint64_t word = 1;
  };
  Line mark;
  Line now;
  const auto turns = [](auto&& body) {
    return cpu_ns([&] {
             for (int i = 0; i < kTurns; ++i) {
               body();
               benchmark::ClobberMemory();
             }
           }) /
           kTurns;
  };
  for (auto _ : state) {
    Samples floor;
    Samples alone;
    Samples nested;
    for (int r = 0; r < kRepeats; ++r) {
      floor.add(turns([&] {
        using memory::Order;
        memory::Smp::exchange<Order::SeqCst>(mark.word, memory::Smp::load<Order::Acquire>(now.word));
        memory::Smp::store<Order::Release>(mark.word, 0);
      }));
      alone.add(turns([&] { const Mmu::Reader::Section section(reader); }));
      const Mmu::Reader::Section outer(reader);
      nested.add(turns([&] { const Mmu::Reader::Section section(reader); }));
    }
    publish(state, "section_ns", alone);
    publish(state, "nested_ns", nested);
    publish(state, "floor_ns", floor);
    state.counters["floors"] = alone.median() / floor.median();
  }
}
BENCHMARK(reader_section)->Iterations(1)->Unit(benchmark::kMillisecond);

/// Guest tables and a direct map of the same number of pages, each with every entry in place.
template <class L>
class GuestTables {
 public:
  using Mmu = GuestMmu<L>;
  explicit GuestTables(unsigned tables) : w_(tables) {
    w_.empty_with_leaves();
    w_.fill();
  }
  [[nodiscard]] const std::vector<Gva>& order() const noexcept { return w_.order(); }
  [[nodiscard]] Mmu& mmu() noexcept { return w_.mmu(); }
  [[nodiscard]] typename Mmu::Vcpu& vcpu() noexcept { return w_.vcpu(); }
  [[nodiscard]] HugeArena& arena() noexcept { return w_.arena(); }

 private:
  World<Mmu> w_;
};
template <class L>
class DirectTables {
 public:
  using Mmu = typename DirectWorld<L>::Mmu;
  explicit DirectTables(unsigned tables) : w_(std::uint64_t{tables} * kPerTable / 512, Level{1}) {
    w_.fill();
    for (const std::uint64_t g : w_.order()) order_.emplace_back(g << kPageShift);
  }
  [[nodiscard]] const std::vector<Gva>& order() const noexcept { return order_; }
  [[nodiscard]] Mmu& mmu() noexcept { return w_.mmu(); }
  [[nodiscard]] typename Mmu::Vcpu& vcpu() noexcept { return w_.vcpu(); }
  [[nodiscard]] HugeArena& arena() noexcept { return w_.arena(); }

 private:
  DirectWorld<L> w_;
  std::vector<Gva> order_;
};

/// gva -> shadow entry, ns: a section a look, many looks in one section, by the vCPU itself, and under the lock.
/// `floor`: as of a fault; `walk`: the four loads alone, which no look can do without.
template <template <class> class Tables>
void reader_lookup(benchmark::State& state) {
  World<> beside(arg(state));
  Tables<Lockless> free(arg(state));
  Tables<Locked> locked(arg(state));
  typename Tables<Lockless>::Mmu::Reader reader(free.mmu());
  typename Tables<Locked>::Mmu::Reader waiter(locked.mmu());
  const auto each = [](const std::vector<Gva>& order, auto&& body) {
    return cpu_ns([&] {
             for (const Gva a : order) benchmark::DoNotOptimize(body(a));
           }) /
           static_cast<double>(order.size());
  };
  for (auto _ : state) {
    Samples floor;
    Samples walk;
    Samples look;
    Samples open;
    Samples vcpu;
    Samples lock;
    for (int r = 0; r < kRepeats; ++r) {
      beside.empty_with_leaves();
      floor.add(beside.floor_pass(beside.order()));
      const std::uint64_t root = free.vcpu().hw_state().cr3;
      const auto bare = [&](Gva a) { return hw_leaf(free.arena(), root, a); };
      each(free.order(), bare);  // who comes first must not pay for the others' caches
      walk.add(each(free.order(), bare));
      look.add(each(free.order(), [&](Gva a) { return reader.lookup(free.vcpu(), a); }));
      vcpu.add(each(free.order(), [&](Gva a) { return free.vcpu().lookup(a); }));
      {
        const typename Tables<Lockless>::Mmu::Reader::Section section(reader);
        open.add(each(free.order(), [&](Gva a) { return reader.lookup(free.vcpu(), a); }));
      }
      const auto wait = [&](Gva a) { return waiter.lookup(locked.vcpu(), a); };
      each(locked.order(), wait);
      lock.add(each(locked.order(), wait));
    }
    publish(state, look, floor, arg(state) == 64 ? 9 : 0);
    publish(state, "walk_ns", walk);
    publish(state, "open_ns", open);
    publish(state, "vcpu_ns", vcpu);
    publish(state, "lock_ns", lock);
  }
}
BENCHMARK_TEMPLATE(reader_lookup, GuestTables)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(reader_lookup, DirectTables)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// What the writer does without pause.
enum class Zaps : std::uint8_t {
  Entries,  ///< takes a leaf out by its gfn and faults it in again
  Pages,    ///< faults in leaf tables, for half of which there is room: each that is made drives one out
  All       ///< zap_all_fast, then a fault for each entry
};

/// CPU time of a thread, for other threads to read.
class ThreadClock {
 public:
  ThreadClock() noexcept { ::pthread_getcpuclockid(::pthread_self(), &id_); }
  [[nodiscard]] double ns() const noexcept {
    timespec t{};
    ::clock_gettime(id_, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
  }

 private:
  clockid_t id_{};
};

/// A thread that zaps, on the second core, whenever it is told to.
template <class L>
class Writer {
 public:
  using Mmu = GuestMmu<L>;
  Writer(World<Mmu>& w, Zaps what) : w_(w), what_(what) {
    for (const Gva a : w.all()) {
      const Translated t = w.vcpu().translate(a, AccessRequest{true, false, true});
      pages_.push_back({a, frame_of(t.to.gpa)});
    }
    thread_ = std::thread([this] { run(); });
    off();
  }
  Writer(const Writer&) = delete;
  ~Writer() {
    tell(Order::End);
    thread_.join();
  }
  void on() noexcept {
    tell(Order::On);
    for (const std::uint64_t from = steps_.load(); steps_.load() == from;) ::sched_yield();
  }
  /// Effects: it stands still, every entry in place that there is room for, but keeps others from its core.
  void still() noexcept { rest(Order::Still); }
  /// Effects: the same, asleep.
  void off() noexcept { rest(Order::Off); }
  [[nodiscard]] const ThreadClock& clock() const noexcept { return *clock_; }
  [[nodiscard]] double steps() const noexcept { return static_cast<double>(steps_.load()); }

 private:
  enum class Order : std::uint8_t { Off, Still, On, End };
  struct Mapped {
    Gva address{};
    Gfn gfn{};
  };
  void tell(Order o) noexcept {
    order_.store(o);
    order_.notify_all();
  }
  void rest(Order o) noexcept {
    resting_.store(Order::On);
    tell(o);
    while (resting_.load() != o) ::sched_yield();
  }
  void run() {
    const Pinned here(1);
    const ThreadClock mine;
    clock_ = &mine;
    for (Order o = order_.load(); o != Order::End; o = order_.load()) {
      if (o != Order::On) {
        resting_.store(o);
        if (o == Order::Off) order_.wait(o);
        memory::Smp::pause();
        continue;
      }
      step();
      steps_.store(steps_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }
  }
  void step() {
    switch (what_) {
      case Zaps::Entries: {
        const Mapped& m = rng_.pick(pages_);
        w_.mmu().unmap(m.gfn);
        w_.fault(m.address);
        break;
      }
      case Zaps::Pages:
        if (const Gva a = rng_.pick(w_.firsts()); !w_.mapped(a)) w_.fault(a);
        break;
      case Zaps::All:
        w_.empty_with_leaves();
        for (const Gva a : w_.order()) w_.fault(a);
        break;
    }
  }
  World<Mmu>& w_;
  Zaps what_;
  std::vector<Mapped> pages_;
  sim::Random rng_{5};
  alignas(64) std::atomic<Order> order_{Order::Off};
  std::atomic<Order> resting_{Order::On};
  alignas(64) std::atomic<std::uint64_t> steps_{0};
  const ThreadClock* clock_ = nullptr;
  std::thread thread_;
};

/// ns of a look, by the batch, of those batches only during which both threads ran all the time: on a shared machine
/// the others would tell about its neighbours. A batch is too short for the share of all batches to matter.
class Batches {
 public:
  static constexpr std::size_t kLooks = 512;
  /// Effects: looks in the given order, again and again, until so many batches count or too much time has gone.
  template <class Look>
  void measure(const std::vector<Gva>& order, const ThreadClock& other, Look&& look) {
    constexpr double kEnough = 400 * kLooks;
    constexpr double kMostNs = 3e8;
    const ThreadClock mine;
    const double began = wall_ns();
    double kept = 0;
    double looks = 0;
    for (std::size_t at = 0; looks < kEnough && wall_ns() - began < kMostNs; at += kLooks) {
      if (at + kLooks > order.size()) at = 0;
      const double other_before = other.ns();
      const double mine_before = mine.ns();
      const std::uint64_t from = ticks();
      for (std::size_t i = 0; i < kLooks; ++i) benchmark::DoNotOptimize(look(order[at + i]));
      const double took = static_cast<double>(ticks() - from) * ns_per_tick();
      const double mine_ran = mine.ns() - mine_before;
      const double other_ran = other.ns() - other_before;
      all_ += 1;
      if (mine_ran < 0.9 * took || mine_ran > 1.5 * took + 2000 || other_ran < 0.9 * took) continue;
      kept_ += 1;
      kept += took;
      looks += kLooks;
    }
    if (looks != 0) ns_.add(kept / looks);
  }
  [[nodiscard]] Samples& ns() noexcept { return ns_; }
  [[nodiscard]] double kept() const noexcept { return kept_ / all_; }

 private:
  Samples ns_;
  double kept_ = 0, all_ = 0;
};

/// A reader alone and beside the writer, by turns. Published: ns a look of both, their ratio, how many looks found an
/// entry, how many batches counted, how many steps the writer made in a second of its CPU time.
template <class L>
class Beside {
 public:
  Beside(unsigned tables, Zaps what) : w_(tables), what_(what), reader_(w_.mmu()) {
    w_.empty_with_leaves();
    w_.fill();
    if (what == Zaps::Pages) w_.mmu().set_limit(tables / 2);
    writer_ = std::make_unique<Writer<L>>(w_, what);
    order_ = what == Zaps::Pages ? w_.firsts() : w_.all();
    sim::Random(21).shuffle(order_);
  }
  void repeat() {
    double found = 0;
    double looks = 0;
    const auto look = [&](Gva a) {
      const EntryInfo e = reader_.lookup(w_.vcpu(), a);
      found += e.present ? 1 : 0;
      looks += 1;
      return e;
    };
    // Without a section and without care, which only tables that stay allow: what the loads alone suffer.
    const std::uint64_t root = w_.vcpu().hw_state().cr3;
    const auto walk = [&](Gva a) { return hw_leaf(w_.arena(), root, a); };
    writer_->still();
    for (const Gva a : order_) benchmark::DoNotOptimize(look(a));  // the caches as a reader would have them
    found = looks = 0;
    alone_.measure(order_, writer_->clock(), look);
    found_alone_.add(found / looks);
    if (what_ == Zaps::Entries) walk_alone_.measure(order_, writer_->clock(), walk);
    writer_->on();
    found = looks = 0;
    const double steps = writer_->steps();
    const double began = writer_->clock().ns();
    beside_.measure(order_, writer_->clock(), look);
    rate_.add((writer_->steps() - steps) / (writer_->clock().ns() - began) * 1e9);
    found_.add(found / looks);
    if (what_ == Zaps::Entries) walk_beside_.measure(order_, writer_->clock(), walk);
    writer_->off();
  }
  void publish_as(benchmark::State& state, const std::string& name) {
    publish(state, name + "_alone_ns", alone_.ns());
    publish(state, name + "_beside_ns", beside_.ns());
    publish(state, name + "_steps_s", rate_);
    state.counters[name + "_ratio"] = beside_.ns().median() / alone_.ns().median();
    state.counters[name + "_found_alone"] = found_alone_.median();
    state.counters[name + "_found"] = found_.median();
    state.counters[name + "_kept"] = beside_.kept();
    if (what_ != Zaps::Entries) return;
    publish(state, name + "_walk_alone_ns", walk_alone_.ns());
    publish(state, name + "_walk_beside_ns", walk_beside_.ns());
    state.counters[name + "_walk_ratio"] = walk_beside_.ns().median() / walk_alone_.ns().median();
  }

 private:
  World<GuestMmu<L>> w_;
  Zaps what_;
  typename GuestMmu<L>::Reader reader_;
  std::unique_ptr<Writer<L>> writer_;
  std::vector<Gva> order_;
  Batches alone_, beside_, walk_alone_, walk_beside_;
  Samples found_alone_, found_, rate_;
};

void reader_beside_writer(benchmark::State& state) {
  const auto what = static_cast<Zaps>(state.range(1));
  const Pinned here(0);
  Beside<lock::Readers<PoliteSpin>> free(arg(state), what);
  Beside<PoliteSpin> locked(arg(state), what);
  for (auto _ : state) {
    for (int r = 0; r < kRepeats; ++r) {
      free.repeat();
      locked.repeat();
    }
    free.publish_as(state, "free");
    locked.publish_as(state, "lock");
    state.counters["pinned"] = here.pinned() ? 1 : 0;
  }
}
BENCHMARK(reader_beside_writer)
    ->Args({64, 0})
    ->Args({2048, 0})
    ->Args({2048, 1})
    ->Args({64, 2})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

/// The first write to each page of a direct map after its log was fetched, then a fetch of all: without the lock, and
/// with it; ns a page. `least`: the walk, one locked exchange of the entry, one of the log's word.
void fast_fault(benchmark::State& state) {
  const std::uint64_t regions = std::uint64_t{arg(state)} * kPerTable / 512;
  World<> beside(arg(state));
  DirectWorld<Lockless> free(regions, Level{1});
  DirectWorld<Locked> locked(regions, Level{1});
  std::vector<std::uint64_t> out(free.mmu().dirty_log_words(free.pages()));
  std::vector<std::uint64_t> log(out.size());
  const auto n = static_cast<double>(free.pages());
  typename DirectWorld<Lockless>::Mmu::Reader reader(free.mmu());
  const auto prepare = [&](auto& w) {
    w.mmu().zap_all_fast();
    w.fill();
    if (!w.mmu().start_dirty_log(w.slot()).ok() || !w.mmu().fetch_dirty_log(w.slot(), 0, out.size(), out.data()).ok())
      std::abort();
  };
  const auto writes = [&](auto& w) {
    return cpu_ns([&] {
             for (const std::uint64_t g : w.order()) w.write(g, pferr::kPresent);
           }) /
           n;
  };
  for (auto _ : state) {
    Samples floor;
    Samples least;
    Samples fast;
    Samples slow;
    Samples fetch;
    Samples slow_fetch;
    double share = 0;
    for (int r = 0; r < kRepeats; ++r) {
      beside.empty_with_leaves();
      floor.add(beside.floor_pass(beside.order()));
      prepare(free);
      const std::uint64_t root = free.vcpu().hw_state().cr3;
      least.add(cpu_ns([&] {
                  for (const std::uint64_t g : free.order()) {
                    std::uint64_t at = root;
                    const Gva a{g << kPageShift};
                    std::uint64_t* cell = nullptr;
                    for (unsigned l = 4; l >= 1; --l) {
                      cell = static_cast<std::uint64_t*>(free.arena().to_virt(Hpa{at & 0x000f'ffff'ffff'f000})) +
                             Level{l}.index(a.value());
                      at = *cell;
                    }
                    using memory::Order;
                    if (!memory::Smp::compare_exchange<Order::AcqRel>(*cell, at, at)) std::abort();
                    std::uint64_t word = log[g / 64];
                    if (!memory::Smp::compare_exchange<Order::AcqRel>(log[g / 64], word, word | 1ULL << g % 64))
                      std::abort();
                  }
                }) /
                n);
      std::fill(log.begin(), log.end(), 0);
      const std::uint64_t before = free.mmu().stats().faults_fast;
      fast.add(writes(free));
      share = static_cast<double>(free.mmu().stats().faults_fast - before) / n;
      fetch.add(cpu_ns([&] { static_cast<void>(reader.fetch_dirty_log(free.slot(), 0, out.size(), out.data())); }) / n);
      static_cast<void>(free.mmu().stop_dirty_log(free.slot()));
      prepare(locked);
      slow.add(writes(locked));
      slow_fetch.add(
          cpu_ns([&] { static_cast<void>(locked.mmu().fetch_dirty_log(locked.slot(), 0, out.size(), out.data())); }) /
          n);
      static_cast<void>(locked.mmu().stop_dirty_log(locked.slot()));
    }
    publish(state, fast, floor, arg(state) == 64 ? 0 : 1.3);
    publish(state, "least_ns", least);
    publish(state, "lock_ns", slow);
    state.counters["lock_floors"] = slow.median() / floor.median();
    publish(state, "fetch_ns", fetch);
    publish(state, "lock_fetch_ns", slow_fetch);
    state.counters["fast_share"] = share;
  }
}
BENCHMARK(fast_fault)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

template <unsigned N>
struct Defers : config::Default {
  static constexpr unsigned kDeferredPages = N;
};

/// A thread that looks without pause, `looks` times in each section.
template <class Mmu>
class Looker {
 public:
  Looker(World<Mmu>& w, unsigned looks) {
    thread_ = std::thread([this, &w, looks] {
      const Pinned here(1);
      typename Mmu::Reader reader(w.mmu());
      sim::Random rng(31);
      while (!stop_.load(std::memory_order_relaxed)) {
        if constexpr (requires { typename Mmu::State::Lock::GracePolicy; }) {
          const typename Mmu::Reader::Section section(reader);
          for (unsigned i = 0; i < looks; ++i) benchmark::DoNotOptimize(reader.lookup(w.vcpu(), rng.pick(w.all())));
        } else {
          for (unsigned i = 0; i < looks; ++i) benchmark::DoNotOptimize(reader.lookup(w.vcpu(), rng.pick(w.all())));
        }
        ready_.store(true, std::memory_order_release);
      }
    });
    while (!ready_.load(std::memory_order_acquire)) ::sched_yield();
  }
  Looker(const Looker&) = delete;
  ~Looker() {
    stop_.store(true);
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false}, ready_{false};
  std::thread thread_;
};

/// What zapping costs: ns a page of zap_all_fast over leaf tables of one entry (64 where `full`), and ns of a fault at
/// the limit, which drives a page out. `looks` 0: no reader but the idle vCPU.
template <class L, unsigned N = config::Default::kDeferredPages>
void deferred(benchmark::State& state) {
  using Mmu = MmuOf<Defers<N>, L>;
  const auto looks = static_cast<unsigned>(state.range(0));
  constexpr unsigned kLimit = 256;
  constexpr unsigned kTables = 10 * kLimit;
  constexpr int kFaults = 20'000;
  const Pinned here(0);
  World<Mmu> all(Shape{.tables = 10'000, .per_table = 1});
  World<Mmu> full(Shape{.tables = 1'000});
  World<Mmu> limited(Shape{.tables = kTables, .per_table = 1});
  const auto filled = [](auto& w) {
    w.make_leaves();
    w.fill();
  };
  const auto with_reader = [&](auto& w, auto&& body) {
    std::unique_ptr<Looker<Mmu>> reader;
    if (looks != 0) reader = std::make_unique<Looker<Mmu>>(w, looks);
    return body();
  };
  for (auto _ : state) {
    Samples zap;
    Samples zap_full;
    Samples miss;
    Samples miss_wall;
    limited.mmu().zap_all_fast();
    limited.mmu().set_limit(kLimit);
    const Counters before = limited.mmu().stats();
    for (int r = 0; r < kRepeats; ++r) {
      filled(all);
      zap.add(with_reader(all, [&] { return cpu_ns([&] { all.mmu().zap_all_fast(); }) / 10'000; }));
      filled(full);
      zap_full.add(with_reader(full, [&] { return cpu_ns([&] { full.mmu().zap_all_fast(); }) / 1'000; }));
      static_cast<void>(limited.vcpu().enter());
      with_reader(limited, [&] {
        sim::Random rng(17);
        int misses = 0;
        const double wall = wall_ns();
        const double took = cpu_ns([&] {
          for (int i = 0; i < kFaults; ++i)
            if (const Gva a = rng.pick(limited.all()); !limited.mapped(a)) {
              limited.fault(a);
              misses += 1;
            }
        });
        miss.add(took / misses);
        miss_wall.add((wall_ns() - wall) / misses);
      });
    }
    const Counters after = limited.mmu().stats();
    publish(state, "zap_page_ns", zap);
    publish(state, "zap_full_page_ns", zap_full);
    publish(state, "miss_ns", miss);
    publish(state, "miss_wall_ns", miss_wall);
    state.counters["pages_deferred"] = static_cast<double>(after.pages_deferred - before.pages_deferred) / kRepeats;
    state.counters["deferred_highest"] = static_cast<double>(after.pages_deferred_highest);
    state.counters["reader_waits"] = static_cast<double>(after.reader_waits - before.reader_waits) / kRepeats;
    state.counters["recycled"] = static_cast<double>(after.pages_recycled - before.pages_recycled) / kRepeats;
  }
}
BENCHMARK_TEMPLATE(deferred, PoliteSpin)->Arg(0)->Arg(1)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(deferred, lock::Readers<PoliteSpin>, 64)
    ->Arg(0)
    ->Arg(1)
    ->Arg(1000)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(deferred, lock::Readers<PoliteSpin>, 256)
    ->Arg(0)
    ->Arg(1)
    ->Arg(1000)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(deferred, lock::Readers<PoliteSpin>, 1024)
    ->Arg(0)
    ->Arg(1)
    ->Arg(1000)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
