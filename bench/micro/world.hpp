// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "micro/clock.hpp"
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"
#include "shadowmmu/sim/random.hpp"

/// The measured machine: one VM, one vCPU, one memslot, 4-level guest tables with 64 gptes a leaf table, eight apart
/// (so that a prefetch of eight finds nothing) unless a Shape says otherwise, data frames permuted. Guest tables are
/// built once, untimed.
namespace shadowmmu::bench {

inline constexpr std::uint64_t kBase = 0x1000'0000'0000;
inline constexpr unsigned kPerTable = 64;
inline constexpr std::uint64_t kFlags = 0x67;  // P | W | U | A | D
inline constexpr std::uint64_t kFirstData = 512;

/// An arena on transparent huge pages.
class HugeArena : public host::Arena {
 public:
  HugeArena(std::uint64_t guest_pages, std::uint64_t tables) : Arena(guest_pages, tables) {
    ::madvise(guest_page(Gfn{0}), guest_pages * kPageSize, MADV_HUGEPAGE);
    ::madvise(to_virt(Hpa{kTableBase}), tables * kPageSize, MADV_HUGEPAGE);
  }
};

template <class Config = config::Default, class Lock = lock::Spin, class Host = HugeArena, class Arch = arch::X86_64>
using MmuOf = ShadowMmu<Arch, Lock, reclaim::Default, Host, Config>;
using MeasuredMmu = MmuOf<>;

/// Returns: ns that body() takes, the clock's own part taken off.
template <class Body>
double brief_ns(Body&& body) noexcept {
  static const std::uint64_t own = [] {
    std::uint64_t least = ~std::uint64_t{0};
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t from = ticks();
      least = std::min(least, ticks() - from);
    }
    return least;
  }();
  const std::uint64_t from = ticks();
  body();
  const std::uint64_t took = ticks() - from;
  return took < own ? 0 : static_cast<double>(took - own) * ns_per_tick();
}
/// Returns: ns of thread CPU time that body() takes.
template <class Body>
double cpu_ns(Body&& body) {
  const double began = now_ns();
  body();
  return now_ns() - began;
}

/// Returns: the 4 KiB leaf entry that hardware would find below a root (CR3 or EPT pointer) of four levels, or 0.
template <class Arena>
std::uint64_t hw_leaf(Arena& arena, std::uint64_t root, Gva a) noexcept {
  std::uint64_t e = root | 1;
  for (unsigned l = 4; l >= 1 && (e & 1) != 0; --l)
    e = static_cast<const std::uint64_t*>(arena.to_virt(Hpa{e & 0x000f'ffff'ffff'f000}))[Level{l}.index(a.value())];
  return (e & 1) != 0 ? e : 0;
}

/// Median and quartiles of one figure over the repeats.
class Samples {
 public:
  void add(double v) { values_.push_back(v); }
  [[nodiscard]] double at(double quantile) {
    if (values_.empty()) return 0;
    std::sort(values_.begin(), values_.end());
    return values_[static_cast<std::size_t>(quantile * static_cast<double>(values_.size() - 1) + 0.5)];
  }
  [[nodiscard]] double median() { return at(0.5); }

 private:
  std::vector<double> values_;
};
inline constexpr int kRepeats = 15;

/// What a World is like where it is not the usual one.
struct Shape {
  unsigned tables;                 ///< guest leaf tables
  unsigned roots = 1;              ///< address spaces for which there is room
  unsigned per_table = kPerTable;  ///< gptes in each, evenly spread
  unsigned spare_tables = 0;       ///< guest tables that the bench makes itself
  std::uint64_t least_pages = 0;   ///< of the memslot
};

template <class Mmu = MeasuredMmu>
class World {
 public:
  using Arena = typename Mmu::State::Host;
  using Caps = typename Mmu::Caps;
  explicit World(unsigned tables, unsigned roots = 1) : World(Shape{.tables = tables, .roots = roots}) {}
  explicit World(const Shape& shape, const Caps& caps = {})
      : per_table_(shape.per_table),
        arena_(std::max(shape.least_pages, kFirstData + data_pages(shape) + shape.tables + shape.spare_tables + 64 +
                                               2048 + shape.roots * 8),
               4 * (shape.tables + shape.spare_tables) + data_pages(shape) / 512 + 4096 + shape.roots * 8),
        mmu_(arena_, caps) {
    const unsigned tables = shape.tables;
    next_table_ = kFirstData + data_pages(shape) + 1;
    static_cast<void>(mmu_.add_slot(Gfn{0}, arena_.guest_pages()).value());
    mmu_.set_limit(4 * (tables + shape.spare_tables) + 2048);
    std::vector<std::uint64_t> data(data_pages(shape));
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = kFirstData + i;
    sim::Random rng(42);
    rng.shuffle(data);
    cr3_ = fresh();
    for (unsigned t = 0; t < tables; ++t)
      for (unsigned i = 0; i < shape.per_table; ++i) {
        const Gva a{kBase + (std::uint64_t{t} << 21U) + (std::uint64_t{i} * (512 / shape.per_table) << 12U)};
        map(a, data[t * shape.per_table + i]);
        (i == 0 ? firsts_ : order_).push_back(a);
        all_.push_back(a);
      }
    rng.shuffle(order_);
    rng.shuffle(firsts_);
    rng.shuffle(all_);
    vcpu_ = std::make_unique<typename Mmu::Vcpu>(mmu_);
    const Controls c{cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe};
    static_cast<void>(vcpu_->set_control(c));
    static_cast<void>(vcpu_->set_cr3(cr3_ << kPageShift));
    static_cast<void>(vcpu_->enter());
  }

  /// Effects: an empty shadow with one entry in every leaf table.
  void empty_with_leaves() {
    mmu_.zap_all_fast();
    static_cast<void>(vcpu_->set_cr3(cr3_ << kPageShift));
    make_leaves();
  }
  /// Effects: one entry in every leaf table, the shadow tables being made as needed.
  void make_leaves() {
    static_cast<void>(vcpu_->enter());
    for (const Gva a : firsts_) fault(a);
  }
  /// Effects: every entry in place. Dense tables are filled upwards, what was prefetched being left alone.
  void fill() {
    if (per_table_ <= kPerTable) {
      for (const Gva a : order_) fault(a);
      return;
    }
    for (std::uint64_t p = 0; p < all_.size(); ++p)
      if (const Gva a{kBase + (p << kPageShift)}; !mapped(a)) fault(a);
  }
  void fault(Gva a) {
    const FaultOutcome o = vcpu_->handle_fault(a, pferr::kWrite | pferr::kUser, CpuMode{3, false});
    if (o.kind != FaultOutcome::Kind::Resume) std::abort();
  }
  /// The least work: walk four guest levels, AND the rights, walk four shadow levels, store the leaf.
  /// Returns: the cell stored to.
  std::uint64_t* floor_fault(Gva a, std::uint64_t root) noexcept {
    std::uint64_t table = cr3_;
    std::uint64_t rights = 7;
    for (unsigned l = 4; l >= 1; --l) {
      const std::uint64_t e = guest_table(table)[Level{l}.index(a.value())];
      rights &= e;
      table = (e & 0x000f'ffff'ffff'f000) >> 12U;
    }
    std::uint64_t shadow = root;
    for (unsigned l = 4; l >= 2; --l) shadow = shadow_table(shadow)[Level{l}.index(a.value())] & 0x000f'ffff'ffff'f000;
    std::uint64_t* cell = &shadow_table(shadow)[Level{1}.index(a.value())];
    *const_cast<volatile std::uint64_t*>(cell) = (table << 12U) | rights | 0x60;
    return cell;
  }
  /// Returns: whether the hardware would find an entry for the address.
  [[nodiscard]] bool mapped(Gva a) noexcept { return hw_leaf(arena_, vcpu_->hw_state().cr3, a) != 0; }
  /// Returns: ns of one floor fault over `order`, whose entries are empty before and after.
  double floor_pass(const std::vector<Gva>& order) {
    const std::uint64_t root = vcpu_->hw_state().cr3;
    const double began = now_ns();
    for (const Gva a : order) benchmark::DoNotOptimize(floor_fault(a, root));
    const double t = now_ns() - began;
    for (const Gva a : order) *floor_fault(a, root) = 0;
    return t / static_cast<double>(order.size());
  }

  std::uint64_t fresh() noexcept { return next_table_++; }
  void map(Gva a, std::uint64_t gfn, std::uint64_t root = 0) {
    std::uint64_t table = root == 0 ? cr3_ : root;
    for (unsigned l = 4; l >= 2; --l) {
      std::uint64_t& e = guest_table(table)[Level{l}.index(a.value())];
      if (e == 0) e = fresh() << 12U | kFlags;
      table = (e & 0x000f'ffff'ffff'f000) >> 12U;
    }
    guest_table(table)[Level{1}.index(a.value())] = gfn << 12U | kFlags;
  }
  [[nodiscard]] std::uint64_t* guest_table(std::uint64_t gfn) noexcept {
    return static_cast<std::uint64_t*>(arena_.guest_page(Gfn{gfn}));
  }
  [[nodiscard]] std::uint64_t* shadow_table(std::uint64_t hpa) noexcept {
    return static_cast<std::uint64_t*>(arena_.to_virt(Hpa{hpa}));
  }

  [[nodiscard]] Mmu& mmu() noexcept { return mmu_; }
  [[nodiscard]] typename Mmu::Vcpu& vcpu() noexcept { return *vcpu_; }
  [[nodiscard]] Arena& arena() noexcept { return arena_; }
  [[nodiscard]] const std::vector<Gva>& order() const noexcept { return order_; }  ///< all but the first of each table
  [[nodiscard]] const std::vector<Gva>& firsts() const noexcept { return firsts_; }  ///< one of each table
  [[nodiscard]] const std::vector<Gva>& all() const noexcept { return all_; }
  [[nodiscard]] std::uint64_t cr3() const noexcept { return cr3_; }

 private:
  static std::uint64_t data_pages(const Shape& s) noexcept { return std::uint64_t{s.tables} * s.per_table; }
  unsigned per_table_;
  Arena arena_;
  Mmu mmu_;
  std::unique_ptr<typename Mmu::Vcpu> vcpu_;
  std::uint64_t next_table_ = 0, cr3_ = 0;
  std::vector<Gva> order_, firsts_, all_;
};

/// Effects: publishes one row: ns a unit (median, quartiles), its floor, the ratio, and the peer's ratio from the
/// literature of this library's design (0: none published).
inline void publish(benchmark::State& state, Samples& ours, Samples& floor, double peer) {
  state.counters["ns"] = ours.median();
  state.counters["p25"] = ours.at(0.25);
  state.counters["p75"] = ours.at(0.75);
  state.counters["floor_ns"] = floor.median();
  state.counters["floors"] = ours.median() / floor.median();
  state.counters["peer_floors"] = peer;
}

/// Effects: publishes one figure more of a row, under its own name.
inline void publish(benchmark::State& state, const std::string& name, Samples& s) {
  state.counters[name] = s.median();
  state.counters[name + "_p25"] = s.at(0.25);
  state.counters[name + "_p75"] = s.at(0.75);
}

}  // namespace shadowmmu::bench
