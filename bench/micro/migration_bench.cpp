// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "micro/direct_world.hpp"
#include "micro/threads.hpp"

/// Live migration: vCPUs write random pages without pause while one thread takes the dirty log of the whole slot, again
/// and again, which write-protects what was written: by the lock's holder, or by a reader beside it.
namespace shadowmmu::bench {
namespace {

using Lockless = lock::Readers<PoliteSpin>;
constexpr SlotId kSlot{0};

/// A direct map: a write fault that only the log is about needs no lock where readers do not.
template <class L>
class DirectGuest {
 public:
  using Mmu = typename DirectWorld<L>::Mmu;
  explicit DirectGuest(std::uint64_t pages) : w_(pages / 512, Level{1}) { w_.fill(); }
  [[nodiscard]] Mmu& mmu() noexcept { return w_.mmu(); }
  [[nodiscard]] HugeArena& arena() noexcept { return w_.arena(); }
  [[nodiscard]] std::uint64_t slot_pages() const noexcept { return w_.pages(); }
  [[nodiscard]] static Gva address(std::uint64_t n) noexcept { return Gva{n << kPageShift}; }
  void boot(typename Mmu::Vcpu& v) noexcept { static_cast<void>(v.enter()); }
  static constexpr std::uint32_t kError = pferr::kWrite | pferr::kPresent;

 private:
  DirectWorld<L> w_;
};
/// Guest tables, dense: every write fault takes the lock, the migration need not.
template <class L>
class PagingGuest {
 public:
  using Mmu = MmuOf<config::Default, L>;
  explicit PagingGuest(std::uint64_t pages)
      : w_(Shape{.tables = static_cast<unsigned>(pages / 512), .per_table = 512}) {
    w_.make_leaves();
    w_.fill();
  }
  [[nodiscard]] Mmu& mmu() noexcept { return w_.mmu(); }
  [[nodiscard]] HugeArena& arena() noexcept { return w_.arena(); }
  [[nodiscard]] std::uint64_t slot_pages() noexcept { return w_.arena().guest_pages(); }
  [[nodiscard]] static Gva address(std::uint64_t n) noexcept { return Gva{kBase + (n << kPageShift)}; }
  void boot(typename Mmu::Vcpu& v) noexcept {
    static_cast<void>(v.set_control(w_.vcpu().controls()));
    static_cast<void>(v.set_cr3(w_.cr3() << kPageShift));
    static_cast<void>(v.enter());
  }
  static constexpr std::uint32_t kError = pferr::kWrite | pferr::kPresent | pferr::kUser;

 private:
  World<Mmu> w_;
};

/// What the vCPUs of one run did.
struct Written {
  std::uint64_t writes = 0;  ///< faulting or not
  Histogram faults;          ///< ticks
  double cpu_ns = 0;         ///< of the vCPU's thread
};

/// One guest under migration.
template <class Guest>
class Migration {
 public:
  using Mmu = typename Guest::Mmu;
  using Arch = typename Mmu::Arch;
  Migration(std::uint64_t pages, unsigned vcpus)
      : guest_(pages), pages_(pages), log_(Mmu::dirty_log_words(guest_.slot_pages())) {
    for (unsigned i = 0; i < vcpus; ++i) {
      vcpus_.push_back(std::make_unique<typename Mmu::Vcpu>(guest_.mmu(), VcpuId{i + 1}));
      guest_.boot(*vcpus_.back());
    }
    if (!guest_.mmu().start_dirty_log(kSlot).ok()) std::abort();
    reader_ = std::make_unique<typename Mmu::Reader>(guest_.mmu());
    fetch();
  }
  /// Effects: runs for so many ms: figures of this run are added.
  void repeat(double ms) {
    const std::uint64_t fast = guest_.mmu().stats().faults_fast;
    std::vector<Written> written(vcpus_.size());
    std::vector<std::thread> threads;
    stop_.store(false);
    for (unsigned i = 0; i < vcpus_.size(); ++i) threads.emplace_back([this, i, &written] { write(i, written[i]); });
    double dirty = 0;
    double passes = 0;
    const double began = wall_ns();
    double ran = 0;
    {
      // With one vCPU each has a core of its own; with more the scheduler deals them out.
      std::unique_ptr<Pinned> here;
      if (vcpus_.size() == 1) here = std::make_unique<Pinned>(0);
      for (double now = began; (ran = now - began) < ms * 1e6; passes += 1) {
        dirty += static_cast<double>(fetch());
        const double after = wall_ns();
        pass_ms_.add((after - now) / 1e6);
        now = after;
      }
    }
    stop_.store(true);
    for (std::thread& t : threads) t.join();
    double writes = 0;
    double cpu = 0;
    Histogram run;
    for (const Written& w : written) {
      cpu += w.cpu_ns;
      writes += static_cast<double>(w.writes);
      run.add(w.faults);
    }
    writes_.add(writes / ran * 1e9);
    faults_.add(static_cast<double>(run.count()) / ran * 1e9);
    faults_cpu_.add(static_cast<double>(run.count()) / cpu * 1e9);
    dirty_.add(dirty / passes);
    const double ns = ns_per_tick();
    p50_.add(run.at(0.5) * ns);
    p99_.add(run.at(0.99) * ns);
    p999_.add(run.at(0.999) * ns);
    most_.add(static_cast<double>(run.most()) * ns);
    all_.add(run);
    fast_ += static_cast<double>(guest_.mmu().stats().faults_fast - fast);
  }
  void publish_as(benchmark::State& state, const std::string& name) {
    publish(state, name + "_pass_ms", pass_ms_);
    publish(state, name + "_writes_s", writes_);
    publish(state, name + "_faults_s", faults_);
    publish(state, name + "_faults_cpu_s", faults_cpu_);
    publish(state, name + "_p50_ns", p50_);
    publish(state, name + "_p99_ns", p99_);
    publish(state, name + "_p999_ns", p999_);
    publish(state, name + "_most_ns", most_);
    state.counters[name + "_dirty_pass"] = dirty_.median();
    state.counters[name + "_fast_share"] = fast_ / static_cast<double>(all_.count());
    // The share of all faults that took longer than so many ns.
    for (double ns = 32; ns < 3e7; ns *= std::sqrt(2.0))
      state.counters[name + "_beyond_" + std::to_string(static_cast<unsigned>(ns))] =
          all_.beyond(static_cast<std::uint64_t>(ns / ns_per_tick()));
  }

 private:
  /// Returns: how many pages the log named.
  std::uint64_t fetch() {
    const Status s = [&] {
      if constexpr (Mmu::State::kLockless)
        return reader_->fetch_dirty_log(kSlot, 0, log_.size(), log_.data());
      else
        return guest_.mmu().fetch_dirty_log(kSlot, 0, log_.size(), log_.data());
    }();
    if (!s.ok()) std::abort();
    std::uint64_t n = 0;
    for (const std::uint64_t w : log_) n += static_cast<std::uint64_t>(std::popcount(w));
    return n;
  }
  /// A vCPU: hardware writes where the entry allows it, and faults where not.
  void write(unsigned i, Written& to) {
    std::unique_ptr<Pinned> here;
    if (vcpus_.size() == 1) here = std::make_unique<Pinned>(1);
    auto& v = *vcpus_[i];
    sim::Random rng(100 + i);
    const std::uint64_t root = v.hw_state().cr3;
    while (!stop_.load(std::memory_order_relaxed)) {
      const Gva a = Guest::address(rng.below(pages_));
      to.writes += 1;
      if (Arch::writable(hw_leaf(guest_.arena(), root, a))) continue;
      const std::uint64_t from = ticks();
      if (v.handle_fault(a, Guest::kError, CpuMode{3, false}).kind != FaultOutcome::Kind::Resume) std::abort();
      to.faults.add(ticks() - from);
    }
    to.cpu_ns = now_ns();  // the thread is as old as the run
  }
  Guest guest_;
  std::uint64_t pages_;
  std::vector<std::uint64_t> log_;
  std::vector<std::unique_ptr<typename Mmu::Vcpu>> vcpus_;
  std::unique_ptr<typename Mmu::Reader> reader_;
  std::atomic<bool> stop_{false};
  Samples pass_ms_, writes_, faults_, faults_cpu_, dirty_, p50_, p99_, p999_, most_;
  Histogram all_;
  double fast_ = 0;
};

/// Args: MiB of the slot, vCPUs. With and without the lock by turns.
template <template <class> class Guest>
void migration(benchmark::State& state) {
  const auto pages = static_cast<std::uint64_t>(state.range(0)) * 256;
  const auto vcpus = static_cast<unsigned>(state.range(1));
  constexpr int kRuns = 9;
  constexpr double kRunMs = 120;
  static_cast<void>(ns_per_tick());
  Migration<Guest<PoliteSpin>> locked(pages, vcpus);
  Migration<Guest<Lockless>> free(pages, vcpus);
  for (auto _ : state) {
    for (int r = 0; r < kRuns; ++r) {
      locked.repeat(kRunMs);
      free.repeat(kRunMs);
    }
    locked.publish_as(state, "lock");
    free.publish_as(state, "free");
    double load[1] = {};
    if (::getloadavg(load, 1) == 1) state.counters["loadavg"] = load[0];
  }
}
BENCHMARK_TEMPLATE(migration, DirectGuest)
    ->ArgsProduct({{64, 256, 1024, 4096}, {1, 2}})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(migration, PagingGuest)
    ->ArgsProduct({{256, 1024}, {1, 2}})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
