// SPDX-License-Identifier: BSL-1.0
#include <memory>
#include <vector>

#include "core/world.hpp"
#include "shadowmmu/sim/random.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Plan = EvictionPlan;

/// Pages without an Mmu: what a policy is told and may ask, set by hand.
template <class P>
struct Bare {
  struct Page : P::PageState {
    unsigned live = 1;
    bool pinned = false, accessed = false;
    unsigned looked_at = 0;
  };
  struct View {
    [[nodiscard]] static Page& page(typename P::PageState& s) noexcept { return static_cast<Page&>(s); }
    [[nodiscard]] bool pinned(typename P::PageState& s) const noexcept { return page(s).pinned; }
    [[nodiscard]] unsigned live(typename P::PageState& s) const noexcept { return page(s).live; }
    [[nodiscard]] Level level(typename P::PageState&) const noexcept { return Level{1}; }
    [[nodiscard]] bool test_and_clear_accessed(typename P::PageState& s) const noexcept {
      page(s).looked_at += 1;
      return std::exchange(page(s).accessed, false);
    }
  };
  P policy;
  std::vector<std::unique_ptr<Page>> pages;
  Page& add(Level level = Level{1}, unsigned live = 1, std::uint64_t identity = 0) {
    pages.push_back(std::make_unique<Page>());
    pages.back()->live = live;
    policy.on_create(*pages.back(), PageFacts{level, false, identity});
    return *pages.back();
  }
  void fill(Page& p, unsigned live) {
    p.live = live;
    if constexpr (wants(P::kHooks, Hook::Entry)) policy.on_entry(p, live);
  }
  [[nodiscard]] Page* choose() {
    auto* s = policy.victim(View{});
    return s == nullptr ? nullptr : &View::page(*s);
  }
  void remove(Page& p) { policy.on_remove(p); }
};

template <class F>
void each_policy(F&& f) {
  AnyPolicy::for_each([&](const char* name, auto type) {
    INFO(std::string(name));
    f(type);
  });
}

TEST_CASE("every policy: nothing pinned, and no victim where everything is") {
  each_policy([](auto type) {
    using P = typename decltype(type)::type;
    Bare<P> b;
    CHECK(b.choose() == nullptr);
    for (int i = 0; i < 100; ++i) b.fill(b.add(), 3);
    for (auto& p : b.pages) p->pinned = p->accessed = true;
    CHECK(b.choose() == nullptr);
    b.pages[40]->pinned = false;
    CHECK(b.choose() == b.pages[40].get());
    b.pages[40]->accessed = true;
    CHECK(b.choose() == b.pages[40].get());
  });
}

TEST_CASE("every policy: of pages that are alike, never the newest first; each is a victim once") {
  each_policy([](auto type) {
    using P = typename decltype(type)::type;
    Bare<P> b;
    for (int i = 0; i < 50; ++i) b.fill(b.add(), 3);
    CHECK(b.choose() != b.pages.back().get());
    std::vector<typename Bare<P>::Page*> gone;
    for (int i = 0; i < 50; ++i) {
      auto* p = b.choose();
      REQUIRE(p != nullptr);
      CHECK(std::find(gone.begin(), gone.end(), p) == gone.end());
      b.remove(*p);
      gone.push_back(p);
    }
    CHECK(b.choose() == nullptr);
  });
}

/// Whatever is looked at has been accessed again.
struct Stubborn {
  template <class S>
  bool pinned(S&) const noexcept {
    return false;
  }
  template <class S>
  unsigned live(S&) const noexcept {
    return 512;
  }
  template <class S>
  Level level(S&) const noexcept {
    return Level{1};
  }
  template <class S>
  bool test_and_clear_accessed(S&) const noexcept {
    ++looks;
    return true;
  }
  unsigned& looks;
};

TEST_CASE("every policy: A bits that are set as fast as they are cleared do not hold a victim up") {
  each_policy([](auto type) {
    using P = typename decltype(type)::type;
    Bare<P> b;
    for (int i = 0; i < 1000; ++i) b.fill(b.add(), 512);
    unsigned looks = 0;
    CHECK(b.policy.victim(Stubborn{looks}) != nullptr);
    CHECK(looks <= reclaim::kMostTests + 1);
  });
}

TEST_CASE("FaultLru: the page whose last fault is longest ago") {
  Bare<reclaim::FaultLru> b;
  auto& first = b.add();
  auto& second = b.add();
  b.fill(first, 2);
  CHECK(b.choose() == &second);
}

TEST_CASE("orders that strand nothing: a directory with an own child stays, and goes first when it has none") {
  const auto check = [](auto type) {
    Bare<typename decltype(type)::type> b;
    auto& directory = b.add(Level{2}, 0);
    auto& leaf = b.add();
    b.policy.on_strands(directory, true);
    directory.live = 1;
    CHECK(b.choose() == &leaf);
    b.policy.on_strands(directory, false);
    directory.live = 0;
    CHECK(b.choose() == &directory);
  };
  check(std::type_identity<reclaim::LeafFirst>{});
  check(std::type_identity<reclaim::FaultLru>{});
  check(std::type_identity<reclaim::Clock<>>{});
  check(std::type_identity<reclaim::GreedyDual>{});
  check(std::type_identity<reclaim::GreedyDualNoAbit>{});
  check(std::type_identity<reclaim::GreedyDualFrequency>{});
}

TEST_CASE("ParentTouch: a child makes its parent new, and what is above it") {
  Bare<reclaim::ParentTouch> b;
  auto& top = b.add(Level{3});
  auto& directory = b.add(Level{2});
  auto& other = b.add();
  auto& leaf = b.add();
  b.policy.on_link(top, directory);
  b.policy.on_link(directory, leaf);
  CHECK(b.choose() == &other);
  b.remove(other);
  CHECK(b.choose() == &leaf);
  b.policy.on_unlink(top, directory);
  b.policy.on_link(directory, leaf);
  b.remove(leaf);
  CHECK(b.choose() == &top);
}

TEST_CASE("XenRoots: the space that was loaded longest ago; pages that strand nothing where all are in use") {
  Bare<reclaim::XenRoots> b;
  auto& leaf = b.add();
  auto& one = b.add(Level{4});
  auto& two = b.add(Level{4});
  b.policy.on_root_load(one);
  b.policy.on_root_load(two);
  b.policy.on_root_load(one);
  CHECK(b.choose() == &two);
  two.pinned = one.pinned = true;
  CHECK(b.choose() == &leaf);
}

TEST_CASE("Clock: a set A bit is a second chance; the newcomer's own tells nothing") {
  Bare<reclaim::Clock<>> b;
  auto& first = b.add();
  auto& second = b.add();
  auto& newcomer = b.add();
  first.accessed = newcomer.accessed = true;
  CHECK(b.choose() == &second);
  b.remove(second);
  CHECK(b.choose() == &newcomer);
}

TEST_CASE("Sieve: a set A bit keeps a page in its place, and new pages are looked at before it again") {
  Bare<reclaim::Sieve<false>> b;
  auto& first = b.add();
  auto& second = b.add();
  auto& third = b.add();
  first.accessed = true;
  CHECK(b.choose() == &second);
  b.remove(second);
  auto& fourth = b.add();
  CHECK(b.choose() == &third);  // the hand goes on from where it was
  b.remove(third);
  CHECK(b.choose() == &fourth);
  b.remove(fourth);
  CHECK(b.choose() == &first);
}

TEST_CASE("S3Fifo: what comes back soon goes to the main queue") {
  Bare<reclaim::S3Fifo<>> b;
  for (std::uint64_t i = 0; i < 20; ++i) b.add(Level{1}, 1, i).accessed = true;
  auto* gone = b.choose();
  REQUIRE(gone != nullptr);
  CHECK(gone->main);  // all have been moved on
  auto& fresh = b.add(Level{1}, 1, 1000);
  CHECK_FALSE(fresh.main);
  for (int i = 0; i < 2; ++i) b.add(Level{1}, 1, 2000 + static_cast<std::uint64_t>(i));
  auto* small = b.choose();
  REQUIRE(small == &fresh);
  b.remove(fresh);
  CHECK(b.add(Level{1}, 1, 1000).main);
}

TEST_CASE("GreedyDual: the fewest entries first, aged; a set A bit is worth them anew") {
  Bare<reclaim::GreedyDual> b;
  auto& large = b.add();
  b.fill(large, 100);
  large.accessed = true;  // so that its worth is reckoned
  auto& small = b.add();
  b.fill(small, 2);
  CHECK(b.choose() == &small);
  CHECK_FALSE(large.accessed);
  for (int i = 0; i < 200; ++i) {  // the level rises by one with each
    auto& passing = b.add();
    b.fill(passing, 1);
    auto* p = b.choose();
    REQUIRE(p != nullptr);
    if (p == &large) {
      CHECK(i >= 90);
      return;
    }
    b.remove(*p);
  }
  FAIL("a page that is never used again stays for ever");
}

TEST_CASE("GreedyDualNoAbit: faults renew, A bits are not looked at") {
  Bare<reclaim::GreedyDualNoAbit> b;
  auto& first = b.add();
  b.fill(first, 3);
  auto& second = b.add();
  b.fill(second, 2);
  second.accessed = true;
  CHECK(b.choose() == &second);
  CHECK(first.looked_at + second.looked_at == 0);
}

TEST_CASE("GreedyDualFrequency: of equal pages the one that was found accessed more often stays") {
  Bare<reclaim::GreedyDualFrequency> b;
  auto& rare = b.add();
  auto& often = b.add();
  for (auto* p : {&rare, &often}) b.fill(*p, 16);
  for (int i = 0; i < 60; ++i) {
    often.accessed = true;
    auto& passing = b.add();
    b.fill(passing, 1);
    auto* p = b.choose();
    REQUIRE(p != nullptr);
    CHECK(p != &often);
    b.remove(*p);
    if (p == &rare) return;
  }
  FAIL("the rarely used page stays");
}

TEST_CASE("credit orders: orphans before all, from the top; an adopted one stands by its credit again") {
  Bare<reclaim::GreedyDualFrequency> b;
  auto& leaf = b.add();
  b.fill(leaf, 1);
  auto& directory = b.add(Level{2}, 1);
  b.policy.on_strands(directory, true);
  auto& child = b.add();
  b.fill(child, 400);
  b.policy.on_orphan(directory, true);
  CHECK(b.choose() == &directory);
  b.policy.on_orphan(directory, false);
  CHECK(b.choose() == &leaf);
  b.policy.on_orphan(child, true);
  CHECK(b.choose() == &child);
  child.pinned = true;
  CHECK(b.choose() == &leaf);
}

// The rest is about the Mmu: what it tells, and what its plans do.

std::uint64_t address(std::uint64_t i) { return 0x40'0000 + (i << 21); }

struct Told : reclaim::Fifo {
  static inline std::vector<std::string> log;
  struct PageState : reclaim::Fifo::PageState {
    Level level{1};
  };
  static constexpr Hook kHooks = Hook::Link | Hook::Unlink | Hook::Entry | Hook::RootLoad | Hook::Strand | Hook::Orphan;
  static std::string name(PageState& p) { return std::to_string(p.level.value()); }
  void on_create(PageState& p, PageFacts f) noexcept {
    p.level = f.level;
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
  CHECK(b.mmu.audit().violations == 0);
  Told::log.clear();
  b.table(50)[0] = 0;
  b.mmu.guest_wrote(Gpa{50 << 12}, 8);
  CHECK(Told::log == Log{"strands 4", "unlink 43"});
  Told::log.clear();
  b.table(1)[0] = 0;
  b.mmu.guest_wrote(Gpa{1 << 12}, 8);
  CHECK(Told::log == Log{"frees 4", "orphan 3", "unlink 43"});
  CHECK(b.mmu.audit().violations == 0);
}

TEST_CASE("every policy: obsolete pages go before its victims, and none is stranded") {
  each_policy([](auto type) {
    using P = typename decltype(type)::type;
    using Mmu = ShadowMmu<arch::X86_64, lock::None, P, TestHost>;
    Bench<Mmu> b;
    REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
    b.mmu.set_limit(48);
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
      CHECK(b.mmu.audit().violations == 0);
      if (b.mmu.stats().pages_recycled != 0) CHECK(b.mmu.stats().pages_obsolete == obsolete);
    }
    CHECK(b.mmu.stats().pages_recycled > 0);
    CHECK(b.mmu.stats().pages_used <= 48);
  });
}

/// A policy and a plan.
template <class P, EvictionPlan Plan_>
struct With : P {
  static constexpr EvictionPlan kPlan = Plan_;
};

template <class P>
Counters touch_many(std::uint32_t limit, std::uint64_t tables) {
  using Mmu = ShadowMmu<arch::X86_64, lock::None, P, TestHost>;
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(limit);
  for (std::uint64_t i = 0; i < tables; ++i) b.map(1, address(i), 500 + i);
  typename Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t i = 0; i < tables; ++i) {
    REQUIRE(write_fault(v, address(i)).kind == Kind::Resume);
    CHECK(b.mmu.stats().pages_used <= limit);
    CHECK(v.lookup(Gva{address(i)}).present);
  }
  CHECK(b.mmu.audit().violations == 0);
  return b.mmu.stats();
}

TEST_CASE("plans: one page as it is needed, batches, a share of the limit, ahead of the fault") {
  // 104 tables of level 1 and three directories under a limit of 64, of which the root is pinned.
  const Counters one = touch_many<reclaim::Default>(64, 104);
  CHECK(one.pages_recycled == 104 + 3 - 64);
  CHECK(one.pages_used == 64);
  CHECK(one.pages_used_lowest == 63);
  CHECK(one.recycled_directories == 0);
  const Counters eight = touch_many<With<reclaim::Default, Plan{.refill = 8}>>(64, 104);
  CHECK(eight.pages_used_lowest == 64 - 8);
  CHECK(touch_many<With<reclaim::Default, Plan{.share = 4}>>(64, 104).pages_used_lowest == 64 - 16);
  CHECK(touch_many<With<reclaim::Default, Plan{.refill = 100}>>(64, 104).pages_used_lowest == 32);
  const Counters kvm = touch_many<reclaim::KvmFifo<>>(64, 104);
  CHECK(kvm.pages_used_lowest == 64 - 25);
  CHECK(kvm.recycled_directories > 0);
}

TEST_CASE("plans: a victim leaves its children, or takes those along that nothing else points at") {
  const auto zap_oldest = [](auto type) {
    using Mmu = ShadowMmu<arch::X86_64, lock::None, typename decltype(type)::type, TestHost>;
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
    CHECK(b.mmu.audit().violations == 0);
    CHECK(v.lookup(Gva{address(3)}).present);
    return std::pair{b.mmu.stats(), b.mmu.audit()};
  };
  const auto [orphaning, left] = zap_oldest(std::type_identity<reclaim::Fifo>{});
  CHECK(orphaning.pages_recycled == 1);
  CHECK(orphaning.recycled_orphans == 1);
  CHECK(left.orphans == 1);
  using Recursive = With<reclaim::Fifo, Plan{.children = Plan::Children::Recursive}>;
  const auto [recursive, none] = zap_oldest(std::type_identity<Recursive>{});
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
    CHECK(b.mmu.audit().violations == 0);
  }
}
}  // namespace
