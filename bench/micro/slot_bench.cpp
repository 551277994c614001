// SPDX-License-Identifier: BSL-1.0
#include "micro/world.hpp"

/// A memslot is removed and added again beside a guest that goes on: what goes with it, All or Targeted?
namespace shadowmmu::bench {
namespace {

constexpr std::uint64_t kSlotGfn = std::uint64_t{1} << 22U;  ///< beyond the main slot
constexpr std::uint64_t kSlotVa = 0x2000'0000'0000;
constexpr std::uint64_t kMainPages = std::uint64_t{1} << 20U;  ///< 4 GiB

/// Backs the second slot too: by frames that nobody reads.
class SlotArena : public HugeArena {
 public:
  using HugeArena::HugeArena;
  Backing backing(Gfn g, bool write) noexcept {
    if (g.value() < kSlotGfn) return HugeArena::backing(g, write);
    Backing b;
    b.kind = Backing::Kind::Memory;
    b.pfn = Pfn{(std::uint64_t{1} << 26U) + g.value()};
    return b;
  }
};

/// Percent of a slot that was mapped whole and is empty now, as a balloon leaves it.
constexpr unsigned kOnceMapped = 999;

struct Targeted : config::Default {
  static constexpr config::SlotRemoval kSlotRemoval = config::SlotRemoval::Targeted;
};

/// A guest with a working set in its 4 GiB main slot and in a second slot; all its tables are dense.
template <class Config>
class SlotWorld : public World<MmuOf<Config, lock::Spin, SlotArena>> {
  using Base = World<MmuOf<Config, lock::Spin, SlotArena>>;

 public:
  SlotWorld(unsigned working_set, std::uint64_t pages, unsigned percent)
      : Base(Shape{.tables = (working_set + 511) / 512,
                   .per_table = 512,
                   .spare_tables = static_cast<unsigned>(pages / 512 + 64),
                   .least_pages = kMainPages}),
        pages_(pages) {
    for (unsigned i = 0; i < working_set; ++i) touched_.push_back(Gva{kBase + std::uint64_t{i} * kPageSize});
    for (std::uint64_t i = 0; i < pages; ++i) {
      // A quarter: 16 pages of every 64.
      if (percent == 0 || (percent == 25 && i % 64 >= 16)) continue;
      const Gva a{kSlotVa + i * kPageSize};
      (percent == kOnceMapped ? once_ : touched_).push_back(a);
      this->map(a, kSlotGfn + i);
    }
    sim::Random(8).shuffle(touched_);
    slot_ = this->mmu().add_slot(Gfn{kSlotGfn}, pages).value();
    touch(touched_);
    map_once();
    remove();
    add();
    faults_ = touch(touched_);
  }
  /// Effects: us that it takes to remove the slot, and to remove and add it and to fault until all is mapped again.
  void cycle(Samples& removal, Samples& whole) {
    map_once();
    const double took = cpu_ns([&] { remove(); });
    const double rest = cpu_ns([&] {
      add();
      static_cast<void>(this->vcpu().enter());
      for (const Gva a : faults_) this->fault(a);
    });
    if (!touch(touched_).empty()) std::abort();  // what was found to fault once is what faults
    removal.add(took / 1e3);
    whole.add((took + rest) / 1e3);
  }
  [[nodiscard]] double faults() const noexcept { return static_cast<double>(faults_.size()); }

 private:
  void remove() {
    if (!this->mmu().remove_slot(slot_).ok()) std::abort();
  }
  void add() { slot_ = this->mmu().add_slot(Gfn{kSlotGfn}, pages_).value(); }
  void map_once() {
    if (once_.empty()) return;
    touch(once_);
    this->mmu().unmap(Gfn{kSlotGfn}, pages_);
  }
  /// Effects: the guest touches the pages. Returns: where it faulted; their neighbours were prefetched.
  std::vector<Gva> touch(const std::vector<Gva>& pages) {
    std::vector<Gva> faulted;
    static_cast<void>(this->vcpu().enter());
    for (const Gva a : pages) {
      if (this->mapped(a)) continue;
      this->fault(a);
      faulted.push_back(a);
    }
    return faulted;
  }
  std::uint64_t pages_;
  SlotId slot_{};
  std::vector<Gva> touched_, once_, faults_;
};

/// Args: pages of working set in the main slot, MiB of the slot, percent of it mapped (kOnceMapped: none any more).
void slot_removal(benchmark::State& state) {
  const auto set = static_cast<unsigned>(state.range(0));
  const auto pages = static_cast<std::uint64_t>(state.range(1)) * 256;
  const auto percent = static_cast<unsigned>(state.range(2));
  SlotWorld<config::Default> all(set, pages, percent);
  SlotWorld<Targeted> targeted(set, pages, percent);
  for (auto _ : state) {
    Samples all_removal;
    Samples all_whole;
    Samples targeted_removal;
    Samples targeted_whole;
    for (int r = 0; r < 11; ++r) {
      all.cycle(all_removal, all_whole);
      targeted.cycle(targeted_removal, targeted_whole);
    }
    publish(state, "all_us", all_whole);
    publish(state, "targeted_us", targeted_whole);
    publish(state, "all_remove_us", all_removal);
    publish(state, "targeted_remove_us", targeted_removal);
    state.counters["ratio"] = all_whole.median() / targeted_whole.median();
    state.counters["all_faults"] = all.faults();
    state.counters["targeted_faults"] = targeted.faults();
  }
}
BENCHMARK(slot_removal)
    ->ArgsProduct({{1000, 10000, 100000}, {1, 4, 16, 64, 256, 1024, 4096}, {0, 25, 100, kOnceMapped}})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
