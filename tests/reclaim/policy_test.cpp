// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "shadowmmu/host/arena.hpp"
#include "support/any_policy.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

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
  b.fill(large, 400);
  large.accessed = true;  // so that its worth is reckoned
  auto& small = b.add();
  b.fill(small, 2);
  CHECK(b.choose() == &small);
  CHECK_FALSE(large.accessed);
  for (int i = 0; i < 1200; ++i) {     // the level rises by one with two of them
    if (i == 100) b.fill(large, 401);  // an entry more leaves a page where it is
    auto& passing = b.add();
    b.fill(passing, 1);
    auto* p = b.choose();
    REQUIRE(p != nullptr);
    if (p == &large) {
      CHECK(i >= 390);
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

TEST_CASE("GreedyDualFrequency: a page that was found accessed often outlives one that was used later, but once") {
  Bare<reclaim::GreedyDualFrequency> b;
  using Page = Bare<reclaim::GreedyDualFrequency>::Page;
  const auto pass = [&b]() -> Page& {  // a small page comes, and the victim goes
    b.fill(b.add(), 1);
    auto* p = b.choose();
    REQUIRE(p != nullptr);
    b.remove(*p);
    return *p;
  };
  auto& often = b.add();
  b.fill(often, 16);
  while (often.looked_at < 6) {
    often.accessed = true;
    REQUIRE(&pass() != &often);
  }
  often.accessed = false;
  auto& once = b.add();
  b.fill(once, 16);
  once.accessed = true;
  for (int i = 0; i < 1000; ++i) {
    Page& gone = pass();
    REQUIRE(&gone != &often);
    if (&gone == &once) return;
  }
  FAIL("neither goes");
}

TEST_CASE("GreedyDualFrequency: many entries count for little until found accessed, unless nothing ever is") {
  const auto passes = [](bool bits) {
    Bare<reclaim::GreedyDualFrequency> b;
    auto& first = b.add();
    b.fill(first, 1);
    first.accessed = bits;
    REQUIRE(b.choose() == &first);
    b.remove(first);
    auto& scanned = b.add();
    b.fill(scanned, 400);
    for (int i = 0; i < 1000; ++i) {
      auto& passing = b.add();
      b.fill(passing, 1);
      auto* p = b.choose();
      REQUIRE(p != nullptr);
      b.remove(*p);
      if (p == &scanned) return i;
    }
    return 1000;
  };
  CHECK(passes(true) < 40);
  CHECK(passes(false) > 80);
}

TEST_CASE("credit orders: a fault from before a page's credit was reckoned anew does not count again") {
  Bare<reclaim::GreedyDualNoAbit> b;
  auto& directory = b.add(Level{2}, 8);  // large leaves
  b.fill(directory, 8);
  b.policy.on_strands(directory, true);
  b.policy.on_strands(directory, false);
  auto& leaf = b.add();
  b.fill(leaf, 12);
  CHECK(b.choose() == &directory);
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
}  // namespace
