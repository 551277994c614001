// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <type_traits>

#include "micro/clock.hpp"
#include "reclaim/figures.hpp"
#include "reclaim/tree.hpp"
#include "shadowmmu/arch/ept.hpp"
#include "shadowmmu/arch/x86_64.hpp"
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/lock/none.hpp"
#include "shadowmmu/shadow_mmu.hpp"
#include "shadowmmu/sim/cpu.hpp"

/// A trace replayed through the real Mmu: guest tables in guest memory, a simulated CPU that walks what the Mmu built
/// and sets its A bits, a fault for each entry that is missing.
namespace shadowmmu::bench {

/// What a replay is to be like beside its policy.
struct Setup {
  std::uint32_t limit = 64;
  bool own_plan = true;  ///< the policy's plan, or the configuration's
  EvictionPlan plan{};   ///< else this one
  std::size_t tlb = 0;   ///< leaf translations that the CPU caches; 0: none, every touch sets A bits
  bool audit = false;    ///< check every invariant at the end
};

/// What the policy of the replay that runs on this thread does, and for how long.
struct Probe {
  const Setup* setup = nullptr;
  std::uint64_t began = 0;  ///< ticks when the choice of the first victim began; 0: none under way
  std::uint64_t ticks = 0;
  std::array<std::uint64_t, 5> role{};  ///< by level: the low half of what the Mmu calls its pages
  void choosing() noexcept {
    if (began == 0) began = bench::ticks();
  }
  void flushed() noexcept {
    if (began != 0) ticks += bench::ticks() - began;
    began = 0;
  }
  [[nodiscard]] static Probe& here() noexcept {
    static thread_local Probe probe;
    return probe;
  }
};

/// A policy whose plan is chosen at run time, and whose reclaims are timed.
template <class Policy>
class Studied : public Policy {
 public:
  EvictionPlan kPlan =
      chosen(static_cast<const Policy&>(*this));  // NOLINT(readability-identifier-naming): the concept's name
  void on_create(typename Policy::PageState& p, PageFacts f) noexcept {
    Probe::here().role[f.level.value()] = f.identity & 0xffff'ffffU;
    Policy::on_create(p, f);
  }
  template <class View>
  [[nodiscard]] typename Policy::PageState* victim(const View& view) noexcept {
    Probe::here().choosing();
    return Policy::victim(view);
  }

 private:
  [[nodiscard]] static EvictionPlan chosen([[maybe_unused]] const Policy& policy) noexcept {
    const Setup* setup = Probe::here().setup;
    if (setup != nullptr && !setup->own_plan) return setup->plan;
    if constexpr (ReclaimPlans<Policy>)
      return policy.kPlan;
    else
      return config::Default::kEviction;
  }
};

/// The order of eviction alone: no entries are read ahead, no root is remembered, and the end of an address space does
/// not count as flooding.
struct StudyConfig : config::Default {
  static constexpr unsigned kPrefetch = 1;
  static constexpr unsigned kPreviousRoots = 0;
  static constexpr unsigned kFloodWrites = 255;
  static constexpr unsigned kInstructionAddresses = 2;  ///< limits from 12 pages on may be studied
};

/// Guest memory, and a CPU that is told of flushes.
class StudyHost : public host::Arena {
 public:
  StudyHost(const Tree& tree, const Setup& setup)
      : Arena(tree.arch == ArchKind::Ept ? tree.span : tree.tables.size() + tree.pages,
              std::uint64_t{setup.limit} * 4 + (tree.span + tree.tables.size() + tree.pages) / 64 + 8192),
        cpu_(*this, config(tree, setup)) {}
  void flush(const FlushRequest& r) noexcept {
    Arena::flush(r);
    cpu_.flush_all();
    Probe::here().flushed();
  }
  [[nodiscard]] sim::Cpu<host::Arena>& cpu() noexcept { return cpu_; }

 private:
  [[nodiscard]] static sim::CpuConfig config(const Tree& tree, const Setup& setup) {
    sim::CpuConfig c;
    c.ept = tree.arch == ArchKind::Ept;
    c.caches = {.pages = setup.tlb, .structures = setup.tlb == 0 ? 0U : 32U};
    return c;
  }
  sim::Cpu<host::Arena> cpu_;
};

template <class Policy, ArchKind Kind>
class Machine {
  using Arch = std::conditional_t<Kind == ArchKind::Ept, arch::Ept, arch::X86_64>;
  using Mmu = ShadowMmu<Arch, lock::None, Policy, StudyHost, StudyConfig>;

 public:
  /// Throws std::runtime_error where the Mmu does not do as it should.
  Machine(const Tree& tree, const Setup& setup)
      : tree_(tree), setup_(setup), host_(tree, setup), mmu_(host_), samples_(tree.touches) {
    if constexpr (Kind == ArchKind::X86_64) build_guest_tables();
    need(mmu_.add_slot(Gfn{0}, host_.guest_pages()).ok(), "no memslot");
    vcpu_ = std::make_unique<typename Mmu::Vcpu>(mmu_);
    if (mmu_.set_limit(setup.limit) > setup.limit) throw std::runtime_error("a limit below the least that can work");
    if constexpr (Kind == ArchKind::X86_64)
      need(vcpu_->set_control({.cr0 = cr0::kPe | cr0::kWp | cr0::kPg,
                               .cr4 = cr4::kPae | cr4::kPge,
                               .efer = efer::kLme | efer::kLma | efer::kNxe}) == ControlOutcome::Done,
           "long mode refused");
  }

  /// Effects: all steps, in order. `seen(step)` is called before each. Throws as the constructor.
  template <class Seen>
  [[nodiscard]] Figures run(Seen&& seen) {
    const double began = now_ns();
    for (std::size_t i = 0; i < tree_.steps.size(); ++i) {
      seen(i);
      const Tree::Step& step = tree_.steps[i];
      if (step.leaf == Tree::kNone)
        end_space(step.root);
      else
        touch(step);
    }
    if (setup_.audit) need(mmu_.audit().violations == 0, "the audit found violations");
    return figures(now_ns() - began);
  }
  [[nodiscard]] Figures run() {
    return run([](std::size_t) {});
  }

 private:
  static constexpr std::uint64_t kGuestFlags = 0x67;  // P | W | U | A | D: nothing but eviction makes a fault

  static void need(bool fine, const char* what) {
    if (!fine) throw std::runtime_error(what);
  }
  [[nodiscard]] std::uint64_t* guest_entry(std::uint64_t table, unsigned index) noexcept {
    return static_cast<std::uint64_t*>(host_.guest_page(Gfn{table})) + index;
  }
  /// The guest's table of number t is guest frame t; its data pages follow in order of first touch.
  void build_guest_tables() {
    for (std::uint32_t t = 0; t < tree_.tables.size(); ++t) {
      const auto& table = tree_.tables[t];
      const std::uint64_t entry = std::uint64_t{t} << kPageShift | kGuestFlags;
      if (table.parent != Tree::kNone)
        *guest_entry(table.parent, table.index) = entry;
      else if (table.level == 3)
        for (const std::uint32_t root : tree_.roots) *guest_entry(root, table.index) = entry;
    }
    std::uint64_t next = tree_.tables.size();
    for (const Tree::Step& step : tree_.steps) {
      if (step.leaf == Tree::kNone) continue;
      std::uint64_t* entry = guest_entry(step.leaf, step.entry());
      if (*entry == 0) *entry = next++ << kPageShift | kGuestFlags;
    }
  }
  void enter() {
    need(vcpu_->enter() == EnterOutcome::Enter, "no root");
    const HwState now = vcpu_->hw_state();
    if (now.cr3 == loaded_) return;
    need(host_.cpu().load(now) == sim::LoadOutcome::Ok, "the CPU refuses the root");
    loaded_ = now.cr3;
  }
  void touch(const Tree::Step& step) {
    if (step.root != root_) {
      root_ = step.root;
      if constexpr (Kind == ArchKind::X86_64)
        need(vcpu_->set_cr3(std::uint64_t{step.root} << kPageShift) == ControlOutcome::Done, "CR3 refused");
      enter();
    }
    const bool user = step.address >> 63U == 0;
    const AccessRequest request{step.store != 0, step.fetch != 0, user};
    const CpuMode mode{.cpl = user ? std::uint8_t{3} : std::uint8_t{0}};
    for (unsigned tries = 0; !host_.cpu().access(step.address, request, mode).ok(); ++tries) {
      need(tries < 3, "a fault that does not end");
      faults_ += tries == 0 ? 1U : 0U;
      const FaultOutcome o = vcpu_->handle_fault(Gva{step.address}, request.error_bits(), mode);
      need(o.kind == FaultOutcome::Kind::Resume, "a fault that is the guest's");
      enter();
    }
    if (++touches_ % Samples::kEvery == 0) {
      const Counters c = mmu_.stats();
      samples_.add(c.faults_fixed - c.recycled_entries);
    }
  }
  /// The guest drops the user half of an address space: it clears the entries of the top table.
  void end_space(std::uint32_t root) {
    if constexpr (Kind == ArchKind::X86_64) {
      for (unsigned i = 0; i < kEntriesPerTable / 2; ++i) *guest_entry(root, i) = 0;
      mmu_.guest_wrote(Gpa{std::uint64_t{root} << kPageShift}, kPageSize / 2);  // one write: no flood
      if (root_ != Tree::kNone) enter();
    }
  }
  [[nodiscard]] Figures figures(double ns) {
    const Counters c = mmu_.stats();
    Figures f;
    f.faults = faults_;
    f.refaults = faults_ - tree_.least_faults;
    f.leaf_refills = c.faults_fixed - tree_.pages;
    f.link_refills = c.links - tree_.links;
    f.live_zapped = c.recycled_entries;
    f.directories_zapped = c.recycled_directories;
    f.orphans = c.recycled_orphans;
    f.evictions = c.pages_recycled;
    f.a_bit_reads = c.accessed_tests;
    if (c.pages_recycled != 0)
      f.ns_per_reclaim =
          static_cast<double>(Probe::here().ticks) * ns_per_tick() / static_cast<double>(c.pages_recycled);
    f.seconds = ns / 1e9;
    std::move(samples_).finish(f);
    return f;
  }

  const Tree& tree_;
  const Setup& setup_;
  StudyHost host_;
  Mmu mmu_;
  std::unique_ptr<typename Mmu::Vcpu> vcpu_;
  Samples samples_;
  std::uint32_t root_ = Tree::kNone;
  std::uint64_t loaded_ = ~std::uint64_t{0};
  std::uint64_t faults_ = 0;
  std::uint64_t touches_ = 0;
};

}  // namespace shadowmmu::bench
