// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Checked<TestLock>, test::AnyPolicy, TestHost>;

TEST_CASE("a page of an earlier generation is never found, even while it is hashed") {
  TestHost host(64, 256);
  using S = Mmu::State;
  S s(host, {});
  s.limit = 64;
  core::Magazine m;
  REQUIRE(m.fill(host).ok());
  {
    core::ExclusiveGuard<S> g(s);
    REQUIRE(core::reserve_metadata(s, g, m));
    const core::Role role = core::Role{}.with_level(Level{2}).with_direct(true);
    auto* p = core::get_page(s, g, Gfn{0}, role, m);
    REQUIRE(p != nullptr);
    CHECK(core::find_page(s, g.held(), Gfn{0}, role) == p);
    CHECK(core::find_page(s, g.held(), Gfn{0}, role.with_access(Access{1})) == nullptr);
    core::Generations<S>::begin(s, g);
    CHECK(core::find_page(s, g.held(), Gfn{0}, role) == nullptr);
    CHECK(s.hash.size() == 1);
    auto* q = core::get_page(s, g, Gfn{0}, role, m);
    CHECK(q != p);
    CHECK(core::zap_obsolete(s, g, 10) == 1);
    CHECK(core::find_page(s, g.held(), Gfn{0}, role) == q);
    core::Generations<S>::begin(s, g);
    core::zap_obsolete(s, g, 10);
  }
  s.drain();
  m.drain(host);
  CHECK(host.frames_used() == 0);
}

TEST_CASE("the hash of pages grows with them: chains stay short, and each page is where it is looked for") {
  using Hash = decltype(Mmu::State::hash);
  Hash hash;
  std::vector<std::unique_ptr<Mmu::State::Page>> pages;
  std::vector<void*> frames;
  const auto frame = [&frames] { return frames.emplace_back(std::calloc(1, kPageSize)); };
  hash.start(frame(), frame());
  sim::Random rng(5);
  for (unsigned n = 0; n < 5000; ++n) {
    auto& p = *pages.emplace_back(std::make_unique<Mmu::State::Page>());
    p.gfn = Gfn{n % 2 == 0 ? std::uint64_t{n} << 9 : rng.next() >> 32};
    hash.insert(p);
    if (hash.wants_growth()) hash.grow(hash.needs_frame() ? frame() : nullptr);
    if (n % 500 != 499) continue;
    std::size_t steps = 0;
    for (const auto& q : pages) {
      bool found = false;
      for (auto& r : hash.bucket(q->gfn)) {
        steps += 1;
        found = &r == q.get();
        if (found) break;
      }
      CHECK(found);
    }
    CHECK(steps < 2 * pages.size());
  }
  for (const auto& p : pages) hash.erase(*p);
  CHECK(hash.size() == 0);
  for (void* f : frames) std::free(f);
}

/// A State by itself, with one slot of 64 pages; ends as an Mmu does.
struct BareState {
  using S = Mmu::State;
  BareState() {
    REQUIRE(core::add_slot(s, Gfn{0}, 64, SlotFlags{}).ok());
    REQUIRE(core::set_limit(s, 4000) != 0);
  }
  ~BareState() {
    core::release_all(s);
    s.drain();
    s.snapshot->at(0)->destroy(host);
    core::free_snapshot(s, s.snapshot);
    m.drain(host);
    CHECK(host.frames_used() == 0);
  }
  /// Effects: a page of gfn by itself, in the n-th of 256 roles of a leaf table.
  void make(Gfn gfn, unsigned n) {
    REQUIRE(m.fill(host).ok());
    core::ExclusiveGuard<S> g(s);
    REQUIRE(core::reserve_metadata(s, g, m));
    const core::Role role = core::Role{}
                                .with_mode(GuestMode::Bits32)
                                .with_access(Access{n & 7U})
                                .with_quadrant(n >> 3U)
                                .with_cpu((n >> 5U & 1U) != 0, (n >> 6U & 1U) != 0, n >> 7U != 0, false, false);
    REQUIRE(core::get_page(s, g, gfn, role, m) != nullptr);
  }
  [[nodiscard]] unsigned pages_of(Gfn gfn) {
    unsigned n = 0;
    for (const auto& p : s.hash.bucket(gfn)) n += p.gfn == gfn ? 1U : 0U;
    return n;
  }
  TestHost host{64, 8192};
  S s{host, {}};
  core::Magazine m;
};
TEST_CASE("pages of one table stay few: 128 of a level, of which 64 may go unsync together") {
  BareState b;
  for (unsigned n = 0; n < 200; ++n) {
    b.make(Gfn{5}, n);
    CHECK(b.pages_of(Gfn{5}) == std::min(n + 1, 128U));
    if (n != 63 && n != 64) continue;
    core::ExclusiveGuard<BareState::S> g(b.s);
    CHECK(core::may_write(b.s, core::Entries<BareState::S>(g.held()), *b.s.snapshot->at(0), Gfn{5}, true) == (n == 63));
  }
}
TEST_CASE("what is reserved for a fault keeps the hash as large as what is in it") {
  BareState b;
  for (unsigned n = 0; n < 3000; ++n) {
    b.make(Gfn{n % 60}, n / 60);
    CHECK_FALSE(b.s.hash.size() > 1 + 512 * (b.s.hash.frames() - 1));
  }
  CHECK(b.s.hash.frames() == 7);
}

TEST_CASE("a batch that is dropped goes back to the debt and is freed by whoever settles next") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, 0x40'0000, 300);
  {
    Mmu::Vcpu v(b.mmu);
    run_long(v, 1);
    CHECK(write_fault(v, 0x40'0000).kind == Kind::Resume);
    CHECK(b.mmu.audit().pages == 4);
  }
  CHECK(b.mmu.shrink(100) == 4);
  CHECK(b.mmu.audit().pages == 0);
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("everything is given back at the end") {
  TestHost host(1024, 4096);
  {
    Mmu mmu(host);
    const Result<SlotId> low = mmu.add_slot(Gfn{0}, 512);
    REQUIRE(low.ok());
    REQUIRE(mmu.add_slot(Gfn{512}, 512).ok());
    REQUIRE(mmu.remove_slot(low.value()).ok());
    CHECK(mmu.remove_slot(low.value()).error() == Error::NoSuchSlot);
    Mmu::Vcpu v(mmu);
    CHECK(v.enter() == EnterOutcome::Enter);
    CHECK(v.handle_fault(Gva{600 << 12}, pferr::kWrite).kind == Kind::Resume);
    CHECK(v.handle_fault(Gva{6 << 12}, pferr::kWrite).kind == Kind::Mmio);
  }
  CHECK(host.frames_used() == 0);
}

TEST_CASE("slots: bad ranges, overlaps and too many are told apart, and nothing changes") {
  TestHost host(1024, 4096);
  Mmu mmu(host);
  CHECK(mmu.add_slot(Gfn{0}, 0).error() == Error::BadRange);
  CHECK(mmu.add_slot(Gfn{~0ULL}, 2).error() == Error::BadRange);
  CHECK(mmu.add_slot(Gfn{(1ULL << 32) - 1}, 2).error() == Error::BadRange);
  CHECK(mmu.add_slot(Gfn{1}, 1ULL << 32).error() == Error::BadRange);
  REQUIRE(mmu.add_slot(Gfn{16}, 16).ok());
  CHECK(mmu.add_slot(Gfn{8}, 9).error() == Error::Overlap);
  CHECK(mmu.add_slot(Gfn{31}, 4).error() == Error::Overlap);
  CHECK(mmu.add_slot(Gfn{0}, 64).error() == Error::Overlap);
  CHECK(mmu.add_slot(Gfn{20}, 1).error() == Error::Overlap);
  REQUIRE(mmu.add_slot(Gfn{32}, 4).ok());
  REQUIRE(mmu.add_slot(Gfn{(1ULL << 32) - 1}, 1).ok());
  unsigned n = 3;
  for (std::uint64_t g = 100; n < core::kMaxSlots; g += 2, ++n) REQUIRE(mmu.add_slot(Gfn{g}, 1).ok());
  CHECK(mmu.add_slot(Gfn{99}, 1).error() == Error::TooManySlots);
}

TEST_CASE("self-mapped tables: a write to the entry that translates it ends") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, 0x40'0000, 300);
  b.table(1)[256] = 1 << 12 | kPage;  // PML4 maps itself
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  const std::uint64_t self = 0xffff'8000'0000'0000 | 256ULL << 30 | 256ULL << 21 | 256ULL << 12 | 256 * 8;
  FaultOutcome o = write_fault(v, self);
  REQUIRE(o.kind == Kind::Emulate);
  CHECK(o.gpa == Gpa{(1 << 12) + 256 * 8});
  REQUIRE(v.begin_write_window(o).ok());
  CHECK(write_fault(v, self).kind == Kind::Resume);
  CHECK(v.lookup(Gva{self}).rights.write());
  b.table(1)[256] = 0;
  v.end_write_windows();
  CHECK_FALSE(v.lookup(Gva{self}).present);
  CHECK(v.enter() == EnterOutcome::Enter);
  o = write_fault(v, self);
  CHECK(o.kind == Kind::InjectPageFault);
  CHECK(o.error_code == (pferr::kWrite | pferr::kUser));
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("rmap chains: one, many, too many mappings of one frame") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(200);
  for (std::uint64_t i = 0; i < 2500; ++i) b.map(1, 0x4000'0000 + (i << 12), 300);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t i = 0; i < 2500; ++i) {
    CHECK(write_fault(v, 0x4000'0000 + (i << 12)).kind == Kind::Resume);
    if (i % 500 == 0) CHECK(test::unsound(b.mmu) == "");
  }
  CHECK(b.mmu.stats().rmap_zapped_long != 0);
  CHECK(b.mmu.audit().leaves <= config::Default::kLongChain + 15);
  b.mmu.unmap(Gfn{300});
  CHECK(b.mmu.audit().leaves == 0);
  CHECK(test::unsound(b.mmu) == "");
}
}  // namespace
