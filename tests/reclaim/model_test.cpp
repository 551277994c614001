// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>

#include "reclaim/bound.hpp"
#include "reclaim/flat.hpp"
#include "reclaim/machine.hpp"
#include "reclaim/offline.hpp"
#include "shadowmmu/sim/random.hpp"
#include "support/any_policy.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::bench;

#ifndef SHADOWMMU_TRACES
#error "the folder of the shipped traces"
#endif
/// The shipped trace of guest-physical pages, read once.
const Tree& guest_physical() {
  static const Tree tree(load_trace(std::string(SHADOWMMU_TRACES) + "/db-gpa.u64.zst"), ArchKind::Ept);
  return tree;
}

/// A few address spaces whose tables share a kernel, come, go and end: what shipped traces have little of.
Trace crowd(std::uint64_t seed, std::size_t records) {
  sim::Random rng(seed);
  Trace t{"crowd", {}};
  std::uint16_t first = 0;
  for (std::size_t i = 0; i < records; ++i) {
    const auto space = static_cast<std::uint16_t>(first + rng.below(5));
    const std::uint64_t region = rng.below(3) == 0 ? rng.below(40) : rng.below(6);
    const bool kernel = rng.below(4) == 0;
    const std::uint64_t page = (kernel ? std::uint64_t{1} << 35U : 0) | (region / 8) << 18U | (region % 8) << 9U |
                               rng.below(rng.below(2) == 0 ? 512 : 4);
    t.records.push_back(Record::make(page, space, rng.below(2) == 0));
    if (rng.below(400) == 0) t.records.push_back(Record::make_end(first++));
  }
  return t;
}

/// Sixty regions of one second-level map, some used much more than others.
Trace skewed_pages(std::uint64_t seed, std::size_t records) {
  sim::Random rng(seed);
  Trace t{"skewed", {}};
  for (std::size_t i = 0; i < records; ++i)
    t.records.push_back(Record::make(rng.below(1 + rng.below(60)) << 9U | rng.below(1 + rng.below(512)), 0));
  return t;
}

using Events = std::vector<std::pair<std::uint64_t, std::uint64_t>>;  ///< (step, number of the page's creation)

/// Writes down what the policy is told, by the Mmu or by the model.
struct Journal {
  std::uint64_t step = 0, created = 0;
  Events evicted;
  std::unordered_map<const void*, std::uint64_t> number;
  static Journal& here() {
    static Journal j;
    return j;
  }
};
template <class P>
struct Logged : Studied<P> {
  void on_create(typename P::PageState& s, PageFacts f) noexcept {
    Journal& j = Journal::here();
    j.number[&s] = ++j.created;
    P::on_create(s, f);
  }
  void on_remove(typename P::PageState& s) noexcept {
    Journal& j = Journal::here();
    j.evicted.emplace_back(j.step, j.number[&s]);
    P::on_remove(s);
  }
};

/// One instance of the Mmu serves all policies: an AnyPolicy takes its name from the environment.
using P = test::AnyPolicy;
struct Named {
  explicit Named(const char* name) {
    const char* own = std::getenv(kVariable);
    before = own == nullptr ? "Fifo" : own;
    ::setenv(kVariable, name, 1);
  }
  ~Named() { ::setenv(kVariable, before.c_str(), 1); }
  static constexpr const char* kVariable = "SHADOWMMU_TEST_POLICY";
  std::string before;
};

template <ArchKind Kind>
void same_events(const char* name, const Tree& tree, std::uint32_t limit, const EvictionPlan* plan = nullptr) {
  const Named named(name);
  INFO(std::string(name));
  Setup setup;
  setup.limit = limit;
  setup.audit = true;
  setup.own_plan = plan == nullptr;
  if (plan != nullptr) setup.plan = *plan;
  Probe::here() = Probe{};
  Probe::here().setup = &setup;
  Journal::here() = Journal{};
  Figures real;
  Events events;
  EvictionPlan used;
  {
    Machine<Logged<P>, Kind> machine(tree, setup);
    real = machine.run([](std::size_t i) { Journal::here().step = i; });
    events = Journal::here().evicted;
    used = Logged<P>{}.kPlan;
  }
  const auto names = identities(tree, Probe::here().role);
  std::size_t n = 0;
  bool same = true;
  Model<P> model(tree, limit, used, &names);
  const Figures f = model.run([&](std::uint64_t step, std::uint64_t number) {
    same = same && n < events.size() && events[n] == std::pair{step, number};
    ++n;
  });
  CHECK(same);
  CHECK(n == events.size());
  CHECK(n > 0);
  CHECK(f.faults == real.faults);
  CHECK(f.leaf_refills == real.leaf_refills);
  CHECK(f.link_refills == real.link_refills);
  CHECK(f.live_zapped == real.live_zapped);
  CHECK(f.directories_zapped == real.directories_zapped);
  CHECK(f.orphans == real.orphans);
  CHECK(f.a_bit_reads == real.a_bit_reads);
  if (f.orphans == 0 && used.when == EvictionPlan::When::DuringWalk && tree.arch == ArchKind::Ept)
    CHECK(f.mapped == real.mapped);  // the Mmu's counters do not tell what can be reached
}

TEST_CASE("the model evicts what the Mmu evicts, page by page, under every policy") {
  const Tree crowded(crowd(7, 20'000), ArchKind::X86_64);
  const Tree skewed(skewed_pages(7, 20'000), ArchKind::Ept);
  test::AnyPolicy::for_each([&](const char* name, auto) {
    same_events<ArchKind::X86_64>(name, crowded, 24);
    same_events<ArchKind::X86_64>(name, crowded, 64);
    same_events<ArchKind::Ept>(name, skewed, 20);
  });
}

TEST_CASE("... and under every plan") {
  using When = EvictionPlan::When;
  using Children = EvictionPlan::Children;
  const Tree crowded(crowd(11, 20'000), ArchKind::X86_64);
  for (const EvictionPlan& plan :
       {EvictionPlan{.refill = 8}, EvictionPlan{.share = 4}, EvictionPlan{.children = Children::Recursive},
        EvictionPlan{.when = When::BeforeWalk, .low = 5, .refill = 6},
        EvictionPlan{.when = When::BeforeWalk, .children = Children::Recursive, .refill = 25}}) {
    CAPTURE(plan.refill);
    CAPTURE(plan.share);
    same_events<ArchKind::X86_64>("Fifo", crowded, 40, &plan);
    same_events<ArchKind::X86_64>("ParentTouch", crowded, 40, &plan);
    same_events<ArchKind::X86_64>("GreedyDualFrequency", crowded, 40, &plan);
  }
}

/// True LRU, which no shadow MMU can have: told of each hit.
struct Lru : reclaim::FaultLru {
  void hit(PageState& p) noexcept { on_entry(p, 1); }
};

TEST_CASE("a flat projection has the misses that libCacheSim counts") {
  const Tree& tree = guest_physical();
  CHECK(flat_misses<reclaim::Fifo>(tree, 61) == 157'312);
  CHECK(flat_misses<Lru>(tree, 61) == 99'288);
  CHECK(flat_misses<reclaim::Clock<false>>(tree, 61) == 104'957);
  CHECK(flat_misses<reclaim::Sieve<false>>(tree, 61) == 96'058);
  CHECK(flat_misses<BeladyByTable>(tree, 61) == 44'215);
}

TEST_CASE("KVM's order on a trace of guest-physical pages: figures that another simulator found") {
  const Tree& tree = guest_physical();
  const Figures kvm = Model<reclaim::KvmFifo<>>(tree, 64, reclaim::KvmFifo<>::kPlan).run();
  CHECK(kvm.link_refills == 328'914);
  CHECK(kvm.orphans == 215'472);
  CHECK(Model<reclaim::Fifo>(tree, 64, {}).run().refaults == 1'314'271);
}

/// The fewest refaults that any choice of victims among pages that strand nothing comes to, by trying all of them.
class Trial {
 public:
  Trial(const Tree& tree, std::uint32_t limit) : tree_(tree), limit_(limit) {
    std::map<std::pair<std::uint32_t, std::uint32_t>, unsigned> numbers;
    for (const Tree::Step& s : tree.steps) {
      const auto [at, fresh] = numbers.try_emplace({s.leaf, s.entry()}, static_cast<unsigned>(numbers.size()));
      entry_.push_back(at->second);
      of_table_.resize(tree.tables.size());
      of_table_[s.leaf] |= std::uint64_t{1} << at->second;
    }
    REQUIRE(numbers.size() <= 64);
    REQUIRE(tree.tables.size() <= 64);
  }
  [[nodiscard]] std::uint64_t least() { return from(0, 0, 0) - tree_.least_faults; }

 private:
  using Set = std::uint64_t;
  [[nodiscard]] std::uint64_t from(std::size_t step, Set cached, Set live) {
    if (step == tree_.steps.size()) return 0;
    const auto key = std::tuple{step, cached, live};
    if (const auto at = known_.find(key); at != known_.end()) return at->second;
    Set path = 0;
    for (std::uint32_t t = tree_.steps[step].leaf; t != Tree::kNone; t = tree_.tables[t].parent) path |= Set{1} << t;
    const Set entry = Set{1} << entry_[step];
    const std::uint64_t fault = (live & entry) == 0 ? 1 : 0;
    const std::uint64_t least = fault + best(step, cached, live, path, entry);
    known_[key] = least;
    return least;
  }
  /// Room is made, page by page, then the step is over.
  [[nodiscard]] std::uint64_t best(std::size_t step, Set cached, Set live, Set path, Set entry) {
    if (static_cast<std::uint32_t>(__builtin_popcountll(cached | path)) <= limit_)
      return from(step + 1, cached | path, live | entry);
    std::uint64_t least = ~std::uint64_t{0};
    for (std::uint32_t t = 0; t < tree_.tables.size(); ++t) {
      const Set own = Set{1} << t;
      if ((cached & own) == 0 || (path & own) != 0) continue;
      bool strands = false;
      for (std::uint32_t c = 0; c < tree_.tables.size(); ++c)
        strands = strands || ((cached & Set{1} << c) != 0 && tree_.tables[c].parent == t);
      if (!strands) least = std::min(least, best(step, cached & ~own, live & ~of_table_[t], path, entry));
    }
    return least;
  }
  const Tree& tree_;
  std::uint32_t limit_;
  std::vector<unsigned> entry_;
  std::vector<Set> of_table_;
  std::map<std::tuple<std::size_t, Set, Set>, std::uint64_t> known_;
};

TEST_CASE("on small trees the lower bound is below the optimum, and every policy above it") {
  sim::Random rng(3);
  unsigned sharp = 0;
  for (unsigned n = 0; n < 60; ++n) {
    Trace t{"small", {}};
    for (unsigned i = 0; i < 26; ++i)
      t.records.push_back(Record::make(rng.below(2) << 18U | rng.below(4) << 9U | rng.below(3), 0));
    const Tree tree(t, ArchKind::Ept);
    const auto limit = static_cast<std::uint32_t>(6 + n % 3);
    const std::uint64_t least = Trial(tree, limit).least();
    const std::uint64_t bound = lower_bound(tree, limit).refaults;
    CAPTURE(n);
    CHECK(bound <= least);
    sharp += bound > 0 ? 1U : 0U;
    CHECK(Model<BeladyByTable>(tree, limit, {}).run().refaults >= least);
    CHECK(Model<BeladyByCost>(tree, limit, {}).run().refaults >= least);
    test::AnyPolicy::for_each([&](const char* name, auto) {
      const Named named(name);
      INFO(std::string(name));
      CHECK(Model<P>(tree, limit, {}).run().refaults >= least);
    });
  }
  CHECK(sharp > 10);  // a bound of nothing would also be one
}

TEST_CASE("nothing is refaulted where everything fits, and a trace that needs too many tables is refused") {
  const Tree tree(crowd(5, 5'000), ArchKind::X86_64);
  CHECK(Model<reclaim::Default>(tree, 4096, {}).run().refaults == 0);
  CHECK(lower_bound(tree, 4096).refaults == 0);
  CHECK_THROWS_AS(static_cast<void>(lower_bound(tree, 4)), std::runtime_error);
  Trace wide{"wide", {}};
  for (std::uint64_t i = 0; i <= Tree::kMostTables; ++i) wide.records.push_back(Record::make(i << 9U, 0));
  CHECK_THROWS_AS(Tree(wide, ArchKind::X86_64), std::runtime_error);
  Trace none{"none", {Record::make_end(3)}};
  CHECK_THROWS_AS(Tree(none, ArchKind::X86_64), std::runtime_error);
}

TEST_CASE("under a second level the pages of address spaces are dealt out, and sparse ones moved together") {
  Trace t{"virtual", {}};
  t.records = {Record::make(5, 1), Record::make(5, 2), Record::make(5, 1), Record::make_end(1)};
  const Tree dealt(t, ArchKind::Ept);
  CHECK(dealt.pages == 2);
  CHECK(dealt.steps.size() == 3);
  CHECK(dealt.span == 2);
  t.records = {Record::make(std::uint64_t{1} << 34U, 0), Record::make((std::uint64_t{1} << 34U) + 513, 0)};
  const Tree sparse(t, ArchKind::Ept);
  CHECK(sparse.span == 514);
  CHECK(sparse.tables.size() == 5);
}

}  // namespace
