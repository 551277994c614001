// SPDX-License-Identifier: BSL-1.0
#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/world.hpp"

/// What the Mmu tells a policy, and what it makes of a plan.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

std::uint64_t address(std::uint64_t i) { return 0x40'0000 + (i << 21); }

struct Told : reclaim::Fifo {
  static inline std::vector<std::string> log;
  struct PageState : reclaim::Fifo::PageState {
    Level level{1};
    bool direct = false;
  };
  static inline std::vector<std::uint64_t> identities;
  static constexpr Hook kHooks = Hook::Link | Hook::Unlink | Hook::Entry | Hook::RootLoad | Hook::Strand | Hook::Orphan;
  static std::string name(PageState& p) { return (p.direct ? "direct " : "") + std::to_string(p.level.value()); }
  void on_create(PageState& p, PageFacts f) noexcept {
    p.level = f.level;
    p.direct = f.direct;
    identities.push_back(f.identity);
    log.push_back("create " + name(p));
    Fifo::on_create(p, f);
  }
  void on_remove(PageState& p) noexcept {
    log.push_back("remove " + name(p));
    Fifo::on_remove(p);
  }
  void on_link(PageState& p, PageState& c) noexcept { log.push_back("link " + name(p) + name(c)); }
  void on_unlink(PageState& p, PageState& c) noexcept { log.push_back("unlink " + name(p) + name(c)); }
  void on_entry(PageState& p, unsigned live) noexcept {
    log.push_back("entry " + name(p) + " " + std::to_string(live));
  }
  void on_root_load(PageState& p) noexcept { log.push_back("root " + name(p)); }
  void on_strands(PageState& p, bool yes) noexcept { log.push_back((yes ? "strands " : "frees ") + name(p)); }
  void on_orphan(PageState& p, bool yes) noexcept { log.push_back((yes ? "orphan " : "adopted ") + name(p)); }
  template <class View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    struct Basic {
      const View& view;
      bool pinned(reclaim::Fifo::PageState& p) const noexcept { return view.pinned(static_cast<PageState&>(p)); }
      unsigned live(reclaim::Fifo::PageState& p) const noexcept { return view.live(static_cast<PageState&>(p)); }
      Level level(reclaim::Fifo::PageState& p) const noexcept { return view.level(static_cast<PageState&>(p)); }
      bool test_and_clear_accessed(reclaim::Fifo::PageState& p) const noexcept {
        return view.test_and_clear_accessed(static_cast<PageState&>(p));
      }
    };
    return static_cast<PageState*>(Fifo::victim(Basic{view}));
  }
};

TEST_CASE("what a policy is told of one fault, of a shared table, and of a table that the guest takes out") {
  using Mmu = ShadowMmu<arch::X86_64, lock::None, Told, TestHost>;
  using Log = std::vector<std::string>;
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, address(0), 400);
  typename Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  Told::log.clear();
  REQUIRE(write_fault(v, address(0)).kind == Kind::Resume);
  CHECK(Told::log == Log{"create 3", "strands 4", "adopted 3", "link 43", "entry 4 1", "create 2", "strands 3",
                         "adopted 2", "link 32", "entry 3 1", "create 1", "strands 2", "adopted 1", "link 21",
                         "entry 2 1", "entry 1 1"});
  // A second space shares the table of level 3: it is nobody's own any more.
  b.table(50)[0] = b.table(1)[0];
  REQUIRE(v.set_cr3(50 << 12) == ControlOutcome::Done);
  Told::log.clear();
  REQUIRE(v.enter() == EnterOutcome::Enter);
  CHECK(Told::log == Log{"create 4", "root 4"});
  Told::log.clear();
  REQUIRE(write_fault(v, address(0)).kind == Kind::Resume);
  CHECK(Told::log == Log{"frees 4", "link 43", "entry 4 1"});
  CHECK(test::unsound(b.mmu) == "");
  Told::log.clear();
  b.table(50)[0] = 0;
  b.mmu.guest_wrote(Gpa{50 << 12}, 8);
  CHECK(Told::log == Log{"strands 4", "unlink 43"});
  Told::log.clear();
  b.table(1)[0] = 0;
  b.mmu.guest_wrote(Gpa{1 << 12}, 8);
  CHECK(Told::log == Log{"frees 4", "orphan 3", "unlink 43"});
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE(
    "what a policy is told of a page: its level, whether it shadows no table, and who it is when it comes again") {
  using Mmu = ShadowMmu<arch::X86_64, lock::None, Told, TestHost>;
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, address(0), 400);
  typename Mmu::Vcpu v(b.mmu);
  Told::log.clear();
  REQUIRE(v.enter() == EnterOutcome::Enter);  // without paging
  CHECK(std::ranges::count(Told::log, "create direct 2") == 4);
  CHECK(std::ranges::count(Told::log, "create 2") == 0);
  run_long(v, 1);
  Told::identities.clear();
  REQUIRE(write_fault(v, address(0)).kind == Kind::Resume);
  const auto first = std::exchange(Told::identities, {});
  REQUIRE(first.size() == 3);
  CHECK((first[0] != first[1] && first[1] != first[2] && first[2] != first[0]));
  CHECK(b.mmu.shrink(100) != 0);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  Told::identities.clear();
  REQUIRE(write_fault(v, address(0)).kind == Kind::Resume);
  CHECK(Told::identities == first);
}

TEST_CASE("every policy: obsolete pages go before its victims, and none is stranded") {
  each_policy([] {
    using Mmu = ShadowMmu<arch::X86_64, lock::None, AnyPolicy, TestHost>;
    Bench<Mmu> b;
    REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
    b.mmu.set_limit(49);
    for (std::uint64_t i = 0; i < 100; ++i) b.map(1, address(i), 400 + i);
    typename Mmu::Vcpu v(b.mmu);
    run_long(v, 1);
    for (std::uint64_t i = 0; i < 30; ++i) REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
    b.mmu.obsolete_all();
    const std::uint64_t obsolete = b.mmu.stats().pages_used;
    REQUIRE(obsolete == 33);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    for (std::uint64_t i = 30; i < 100; ++i) {
      REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
      CHECK(test::unsound(b.mmu) == "");
      if (b.mmu.stats().pages_recycled != 0) CHECK(b.mmu.stats().pages_obsolete == obsolete);
    }
    CHECK(b.mmu.stats().pages_recycled > 0);
    CHECK(b.mmu.stats().pages_used <= 49);
  });
}

/// One of the library's policies with any plan: what is set before the Mmu is made.
struct Planned : AnyPolicy {
  static inline const char* name = "Fifo";
  static inline EvictionPlan plan;
  EvictionPlan kPlan = plan;  // NOLINT(readability-identifier-naming): the concept's name
  Planned() : AnyPolicy(name) {}
};

Counters touch_many(const char* policy, const EvictionPlan& plan) {
  using Mmu = ShadowMmu<arch::X86_64, lock::None, Planned, TestHost>;
  Planned::name = policy;
  Planned::plan = plan;
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(64);
  for (std::uint64_t i = 0; i < 104; ++i) b.map(1, address(i), 500 + i);
  typename Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t i = 0; i < 104; ++i) {
    REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
    CHECK(b.mmu.stats().pages_used <= 64);
    CHECK(v.lookup(Gva{address(i)}).present);
  }
  CHECK(test::unsound(b.mmu) == "");
  return b.mmu.stats();
}

TEST_CASE("plans: one page as it is needed, batches, a share of the limit, ahead of the fault") {
  // 104 tables of level 1 and three directories under a limit of 64, of which the root is pinned.
  const Counters one = touch_many("GreedyDualFrequency", {});
  CHECK(one.pages_recycled == 104 + 3 - 64);
  CHECK(one.pages_used == 64);
  CHECK(one.pages_used_lowest == 63);
  CHECK(one.recycled_directories == 0);
  const Counters fifo = touch_many("Fifo", {});
  CHECK(fifo.pages_used_lowest == 63);
  CHECK(fifo.recycled_directories == 0);  // they have been walked through
  CHECK(touch_many("GreedyDualFrequency", {.refill = 8}).pages_used_lowest == 64 - 8);
  CHECK(touch_many("GreedyDualFrequency", {.share = 4}).pages_used_lowest == 64 - 16);
  CHECK(touch_many("GreedyDualFrequency", {.refill = 100}).pages_used_lowest == 32);
  const Counters kvm = touch_many("KvmFifo", reclaim::KvmFifo<>::kPlan);
  CHECK(kvm.pages_used_lowest == 64 - 25);
  CHECK(kvm.recycled_directories > 0);
}

TEST_CASE("plans: ahead of the fault is ahead of a root, too: loads of CR3 alone do not pass the limit") {
  using Mmu = ShadowMmu<arch::X86_64, lock::None, Planned, TestHost>;
  Planned::name = "KvmFifo";
  Planned::plan = reclaim::KvmFifo<>::kPlan;
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(64);
  typename Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t root = 2; root < 202; ++root) {
    REQUIRE(v.set_cr3(root << 12) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    CHECK(b.mmu.stats().pages_used <= 64);
  }
  CHECK(b.mmu.stats().pages_recycled > 0);
  CHECK(test::unsound(b.mmu) == "");
}

void leaves_a_dead_root(const char* policy, const EvictionPlan& plan, std::uint32_t left, bool zap_all) {
  using Mmu = ShadowMmu<arch::X86_64, lock::None, Planned, TestHost>;
  Planned::name = policy;
  Planned::plan = plan;
  Bench<Mmu> b;
  const SlotId first = b.mmu.add_slot(Gfn{0}, 64).value();
  REQUIRE(b.mmu.add_slot(Gfn{64}, 960).ok());
  b.next = 101;
  for (std::uint64_t i = 0; i < 200; ++i) b.map(100, address(i), 500 + i);
  Mmu::Vcpu one(b.mmu, VcpuId{0}), two(b.mmu, VcpuId{1});
  constexpr std::uint32_t kLimit = 150;
  b.mmu.set_limit(kLimit);
  run_long(one, 10);
  run_long(two, 100);
  // The root that `one` is on counts until `one` has left it.
  if (zap_all)
    b.mmu.zap_all_fast();
  else
    REQUIRE(b.mmu.zap_slot(first).ok());
  REQUIRE(two.enter() == EnterOutcome::Enter);
  for (std::uint64_t i = 0; b.mmu.stats().pages_used < kLimit - left; ++i)
    REQUIRE(write_fault(two, address(i)).kind == Kind::Resume);
  REQUIRE(b.mmu.stats().pages_recycled == 0);
  REQUIRE(one.enter() == EnterOutcome::Enter);
  CHECK(b.mmu.stats().pages_recycled == 0);
  CHECK(b.mmu.stats().pages_used == kLimit - left);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("plans: what a vCPU leaves behind is room before anything is evicted") {
  for (const bool zap_all : {false, true}) {
    leaves_a_dead_root("KvmFifo", reclaim::KvmFifo<>::kPlan, 4, zap_all);
    leaves_a_dead_root("Fifo", EvictionPlan{}, 0, zap_all);
  }
}

TEST_CASE("plans: a victim leaves its children, or takes those along that nothing else points at") {
  const auto zap_oldest = [](const EvictionPlan& plan) {
    using Mmu = ShadowMmu<arch::X86_64, lock::None, Planned, TestHost>;
    Planned::name = "Fifo";
    Planned::plan = plan;
    Bench<Mmu> b;
    REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
    for (std::uint64_t i = 0; i < 9; ++i) b.map(1, address(i), 500 + i);
    b.table(50)[0] = b.table(1)[0];  // the tables from level 3 down have two parents
    b.next = 100;
    b.map(1, 0x80'0000'0000, 600);  // these have one
    typename Mmu::Vcpu v(b.mmu);
    run_long(v, 1);
    for (std::uint64_t i = 0; i < 9; ++i) REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
    REQUIRE(write_fault(v, 0x80'0000'0000).kind == Kind::Resume);
    REQUIRE(v.set_cr3(50 << 12) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    REQUIRE(write_fault(v, address(0)).kind == Kind::Resume);
    CHECK(b.mmu.shrink(1) >= 1);  // the first root, which is the oldest page and not in use
    CHECK(test::unsound(b.mmu) == "");
    CHECK(v.lookup(Gva{address(3)}).present);
    return std::pair{b.mmu.stats(), b.mmu.audit()};
  };
  const auto [orphaning, left] = zap_oldest({});
  CHECK(orphaning.pages_recycled == 1);
  CHECK(orphaning.recycled_orphans == 1);
  CHECK(left.orphans == 1);
  const auto [recursive, none] = zap_oldest({.children = EvictionPlan::Children::Recursive});
  CHECK(recursive.pages_recycled == 4);
  CHECK(recursive.recycled_directories == 3);
  CHECK(recursive.recycled_orphans == 0);
  CHECK(none.orphans == 0);
}

TEST_CASE("without A bits in the tables nothing counts as accessed") {
  using Mmu = ShadowMmu<arch::Ept, lock::None, reclaim::Clock<>, TestHost>;
  for (const bool ad : {false, true}) {
    Bench<Mmu> b(typename Mmu::Caps{.accessed_dirty = ad});
    REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
    typename Mmu::Vcpu v(b.mmu);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    REQUIRE(write_fault(v, 0).kind == Kind::Resume);
    REQUIRE(write_fault(v, 0x20'0000).kind == Kind::Resume);
    CHECK(b.mmu.shrink(1) == 1);
    CHECK(b.mmu.stats().accessed_tests == (ad ? 3 : 2));  // the newcomer; the older one, whose A a link sets
    CHECK(test::unsound(b.mmu) == "");
  }
}
}  // namespace
