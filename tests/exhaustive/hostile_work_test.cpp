// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"
#include "support/counting_memory.hpp"

/// Structures that a hostile guest builds so that work grows: tables shared at every level, one table below very many
/// entries, obsolete pages that nobody collects. What is counted is work, not time.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, WorkLock, test::AnyPolicy, TestHost>;

/// Entries, list nodes and lines of side words that one critical section may look at, whatever a guest builds
/// (docs/LOCKING.md).
constexpr std::uint64_t kMostTouched = 4096;

/// Returns: what was touched in the longest hold while f ran.
template <class F>
std::uint64_t longest(F&& f) {
  WorkLock::most = 0;
  f();
  return WorkLock::most;
}

TEST_CASE("four tables with 512^3 paths: a CR3 load syncs the one unsync page once") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  for (unsigned i = 0; i < 512; ++i)
    for (std::uint64_t t = 1; t <= 3; ++t) b.table(t)[i] = (t + 1) << 12 | kPage;
  b.table(4)[0] = 400 << 12 | kPage;
  b.table(4)[1] = 4 << 12 | kPage;  // the leaf table itself
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (unsigned l = 4; l >= 2; --l)
    for (unsigned i = 0; i < 512; ++i)
      REQUIRE(read_fault(v, std::uint64_t{i} << Level{l}.shift()).kind == Kind::Resume);
  for (unsigned round = 0; round < 3; ++round) {
    REQUIRE(write_fault(v, 0x1000).kind == Kind::Resume);
    const std::uint64_t synced = b.mmu.stats().pages_synced;
    const std::uint64_t touched = longest([&] {
      REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
      REQUIRE(v.enter() == EnterOutcome::Enter);
    });
    CHECK(touched <= kMostTouched);
    CHECK(touched > 512);  // it has scanned the leaf table
    CHECK(b.mmu.stats().pages_synced == synced + 1);
    CHECK_FALSE(v.lookup(Gva{0x1000}).rights.write());
    CHECK(test::unsound(b.mmu) == "");
  }
}
TEST_CASE("one leaf table below 2,560 directory entries: its parents stay few, and what they map stays right") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(400);
  b.table(1)[0] = 2 << 12 | kPage;
  for (std::uint64_t t = 0; t < 5; ++t) {
    b.table(2)[t] = (10 + t) << 12 | kPage;
    for (unsigned i = 0; i < 512; ++i) b.table(10 + t)[i] = 5 << 12 | kPage;
  }
  b.table(5)[0] = 400 << 12 | kPage;
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  std::uint64_t n = 0, most = 0;
  for (std::uint64_t t = 0; t < 5; ++t)
    for (std::uint64_t i = 0; i < 512; ++i) {
      CHECK(longest([&] { REQUIRE(read_fault(v, t << 30 | i << 21).kind == Kind::Resume); }) <= kMostTouched);
      if (b.mmu.stats().parents_dropped == 0) most = n + 1;
      n += 1;
      if (n % 500 == 0) CHECK(test::unsound(b.mmu) == "");
    }
  CHECK(most == 336);  // docs/LOCKING.md
  CHECK(b.mmu.stats().parents_dropped == 7);
  CHECK(v.lookup(Gva{std::uint64_t{4} << 30 | std::uint64_t{511} << 21}).present);
  CHECK(longest([&] {
          REQUIRE(write_fault(v, std::uint64_t{4} << 30 | std::uint64_t{511} << 21).kind == Kind::Resume);
        }) <= kMostTouched);
  CHECK(longest([&] {
          for (int w = 0; w < 3; ++w) b.mmu.guest_wrote(Gpa{14 << 12}, 8);  // a directory floods
        }) <= kMostTouched);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("70,000 generations that nobody collects: a table's pages stay few, and the guest's top table is tracked") {
  TestHost host(1024, 4096);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  mmu.set_limit(80000);
  Mmu::Vcpu v(mmu);
  static_cast<std::uint64_t*>(host.guest_page(Gfn{1}))[0] = 1 << 12 | kPage;  // maps itself
  run_long(v, 1);
  for (unsigned n = 0; n < 70'000; ++n) {
    const std::uint64_t touched = longest([&] {
      mmu.obsolete_all();
      REQUIRE(v.enter() == EnterOutcome::Enter);
    });
    if (touched > kMostTouched) FAIL_CHECK("round " << n << " touched " << touched);
  }
  CHECK(mmu.stats().pages_used_highest < 32);
  CHECK(write_fault(v, 0).kind == Kind::Emulate);
  CHECK_FALSE(v.lookup(Gva{0}).rights.write());
  CHECK(test::unsound(mmu) == "");
}
TEST_CASE("30,000 leaves that map one frame: taking it back, and giving up their tables") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(400);
  b.table(1)[0] = 2 << 12 | kPage;
  b.table(2)[0] = 3 << 12 | kPage;
  for (std::uint64_t t = 0; t < 59; ++t) {
    b.table(3)[t] = (100 + t) << 12 | kPage;
    for (unsigned i = 0; i < 512; ++i) b.table(100 + t)[i] = 400 << 12 | kPage;
  }
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  std::uint64_t faults = 0;
  for (std::uint64_t n = 0; n < 30'000; ++n) {
    const std::uint64_t touched = longest([&] { REQUIRE(read_fault(v, n << 12).kind == Kind::Resume); });
    if (touched > faults) faults = touched;
  }
  CHECK(faults <= kMostTouched);
  SUBCASE("taking it back") {
    CHECK(longest([&] { b.mmu.unmap(Gfn{400}); }) <= kMostTouched);
  }
  SUBCASE("giving up their tables") {
    CHECK(longest([&] { b.mmu.shrink(62); }) <= kMostTouched);
  }
  CHECK(test::unsound(b.mmu) == "");
}

/// A guest whose directory 3 holds `count` leaf tables, gfns 100 and up, of `used` entries each; further tables map
/// them writable at kTables.
struct ManyTables : Bench<Mmu> {
  static constexpr std::uint64_t kTables = std::uint64_t{8} << 30;
  ManyTables(std::uint64_t tables, unsigned used) : count(tables) {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    mmu.set_limit(600);
    table(1)[0] = 2 << 12 | kPage;
    table(2)[0] = 3 << 12 | kPage;
    table(2)[8] = 4 << 12 | kPage;
    table(4)[0] = 5 << 12 | kPage;
    for (std::uint64_t t = 0; t < count; ++t) {
      table(3)[t] = (100 + t) << 12 | kPage;
      table(5)[t] = (100 + t) << 12 | kPage;
      for (unsigned i = 0; i < used; ++i) table(100 + t)[i] = page(t, i) << 12 | kPage;
    }
    for (std::uint32_t n = 0; n < 2; ++n) {
      v[n] = std::make_unique<Mmu::Vcpu>(mmu, VcpuId{n});
      run_long(*v[n], 1);
    }
    for (std::uint64_t t = 0; t < count; ++t)
      for (unsigned i = 0; i < used; i += 8)
        REQUIRE(read_fault(*v[0], at(t) + (std::uint64_t{i} << 12)).kind == Kind::Resume);
  }
  ~ManyTables() { WorkLock::turn = nullptr; }
  static std::uint64_t at(std::uint64_t t) { return t << 21; }
  /// No page on a list so long that it is dropped.
  static std::uint64_t page(std::uint64_t t, unsigned i) { return 400 + (t * 7 + i) % 480; }
  /// The guest moves the first page of a table, on vCPU n.
  void write(unsigned n, std::uint64_t t, std::uint64_t gfn) {
    const std::uint64_t a = kTables + (t << 12);
    if (!v[n]->lookup(Gva{a}).rights.write()) REQUIRE(write_fault(*v[n], a).kind == Kind::Resume);
    table(100 + t)[0] = gfn << 12 | kPage;
  }
  void reload(unsigned n) {
    REQUIRE(v[n]->set_cr3(1 << 12) == ControlOutcome::Done);
    REQUIRE(v[n]->enter() == EnterOutcome::Enter);
  }
  /// Returns: for how many tables the Mmu still maps what they said before.
  std::uint64_t stale(std::uint64_t gfn) {
    std::uint64_t n = 0;
    for (std::uint64_t t = 0; t < count; ++t) {
      const EntryInfo e = v[0]->lookup(Gva{at(t)});
      n += e.present && e.pfn != host.backing(Gfn{gfn}, false).pfn ? 1U : 0U;
    }
    return n;
  }
  std::uint64_t count;
  std::unique_ptr<Mmu::Vcpu> v[2];
};

TEST_CASE("300 tables that the guest writes freely: a CR3 load brings them back in slices") {
  for (const unsigned used : {8U, 64U}) {
    CAPTURE(used);
    ManyTables b(300, used);
    for (std::uint64_t t = 0; t < b.count; ++t) b.write(0, t, 901);
    REQUIRE(b.mmu.stats().pages_unsynced == 300);
    REQUIRE(b.stale(901) == 300);
    CHECK(longest([&] { b.reload(1); }) <= kMostTouched);
    CHECK(b.stale(901) == 0);
    CHECK(b.mmu.stats().pages_synced == 300);
    CHECK(test::unsound(b.mmu) == "");
  }
}
/// One full leaf table, gfn 200, in 24 roles: the rights of eight directory entries under four sets of controls. All
/// its pages are unsync. Entry 0 leads on if it is taken for a directory's: to 300, and 301, in every level.
TEST_CASE("a full table that is unsync in 24 roles becomes a directory, or a root: its pages go in slices") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(600);
  b.table(1)[0] = 2 << 12 | kPage;
  b.table(2)[0] = 3 << 12 | kPage;
  for (std::uint64_t k = 0; k < 8; ++k) b.table(3)[k] = 200 << 12 | 0x21 | (k & 1) << 1 | (k & 2) << 1 | (k & 4) << 61;
  b.table(2)[8] = 4 << 12 | kPage;
  b.table(4)[0] = 5 << 12 | kPage;
  b.table(5)[0] = 200 << 12 | kPage;
  for (unsigned i = 0; i < 512; ++i) b.table(200)[i] = (400 + i) << 12 | kPage;
  b.table(200)[0] = 300 << 12 | kPage;
  for (std::uint64_t t = 300; t < 303; ++t) b.table(t)[0] = (t + 1) << 12 | kPage;
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (unsigned set = 0; set < 4; ++set) {
    Controls c = kLongMode;
    if ((set & 1) != 0) c.cr0 &= ~cr0::kWp;
    if ((set & 2) != 0) c.cr4 |= cr4::kSmep;
    REQUIRE(v.set_control(c) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    for (std::uint64_t k = 0; k < 8; ++k)
      for (std::uint64_t i = 0; i < 512; i += 8)
        REQUIRE(v.handle_fault(Gva{k << 21 | i << 12}, 0, CpuMode{0, false}).kind == Kind::Resume);
  }
  REQUIRE(v.set_control(kLongMode) == ControlOutcome::Done);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  REQUIRE(write_fault(v, std::uint64_t{8} << 30).kind == Kind::Resume);
  REQUIRE(b.mmu.stats().pages_unsynced == 24);  // SMEP beside WP makes no other role
  std::uint64_t at = 0, to = 0;
  const std::uint64_t touched = longest([&] {
    SUBCASE("a directory") {
      b.table(2)[9] = 200 << 12 | kPage;
      b.mmu.guest_wrote(Gpa{(2 << 12) + 9 * 8}, 8);
      at = std::uint64_t{9} << 30;
      to = 301;
    }
    SUBCASE("a root") {
      REQUIRE(v.set_cr3(200 << 12) == ControlOutcome::Done);
      to = 303;
    }
    unsigned retries = 0;
    Kind k = Kind::Retry;
    for (; k == Kind::Retry && retries < 40; ++retries) {
      REQUIRE(v.enter() == EnterOutcome::Enter);
      k = read_fault(v, at).kind;
    }
    CHECK(k == Kind::Resume);
    CHECK(retries <= 24 + 2);
  });
  CHECK(touched <= kMostTouched);
  CHECK(v.lookup(Gva{at}).pfn == b.host.backing(Gfn{to}, false).pfn);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("full tables that the guest writes freely: a slice takes fewer of them") {
  ManyTables b(20, 512);
  for (std::uint64_t t = 0; t < b.count; ++t) b.write(0, t, 901);
  CHECK(longest([&] { b.reload(1); }) <= kMostTouched);
  CHECK(b.stale(901) == 0);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a vCPU that writes tables as fast as another's CR3 load brings them back does not keep it from its end") {
  ManyTables b(300, 8);
  for (std::uint64_t t = 0; t < b.count; ++t) b.write(0, t, 901);
  unsigned turns = 0;
  std::uint64_t next = 0;
  WorkLock::turn = [&] {
    if (++turns > 2000) return;
    for (unsigned n = 0; n < 16; ++n) b.write(0, next++ % b.count, 902);
  };
  b.reload(1);
  WorkLock::turn = nullptr;
  CHECK(turns > 50);
  CHECK(turns < 300);
  // Of what was written before the load nothing is left.
  std::uint64_t old = 0;
  for (std::uint64_t t = 0; t < b.count; ++t) {
    const EntryInfo e = b.v[1]->lookup(Gva{b.at(t)});
    old += e.present && e.pfn == b.host.backing(Gfn{b.page(t, 0)}, false).pfn ? 1U : 0U;
  }
  CHECK(old == 0);
  CHECK(test::unsound(b.mmu) == "");
  b.reload(0);
  for (std::uint64_t t = 0; t < b.count; ++t) CHECK_FALSE(b.v[0]->lookup(Gva{b.kTables + (t << 12)}).rights.write());
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a directory that is linked again over 300 tables that were written meanwhile shows nothing old") {
  ManyTables b(300, 8);
  for (std::uint64_t t = 0; t < b.count; ++t) b.write(0, t, 901);
  b.table(2)[0] = 0;
  b.mmu.guest_wrote(Gpa{2 << 12}, 8);
  b.reload(0);  // its sync passes them by
  b.table(2)[0] = 3 << 12 | kPage;
  b.mmu.guest_wrote(Gpa{2 << 12}, 8);
  CHECK(longest([&] { REQUIRE(read_fault(*b.v[0], b.at(7)).kind == Kind::Resume); }) <= kMostTouched);
  CHECK(b.stale(901) == 0);
  for (std::uint64_t t = 0; t < b.count; ++t) {
    if (!b.v[0]->lookup(Gva{b.at(t)}).present) REQUIRE(read_fault(*b.v[0], b.at(t)).kind == Kind::Resume);
    CHECK(b.v[0]->lookup(Gva{b.at(t)}).pfn == b.host.backing(Gfn{901}, false).pfn);
  }
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE(
    "4,096 directory entries that lead to tables which another root's load has brought back: looked at in slices") {
  constexpr std::uint64_t kTables = 128, kDirectories = 8;
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(800);
  b.table(1)[0] = 2 << 12 | kPage;
  for (std::uint64_t d = 0; d < kDirectories; ++d) {
    b.table(2)[d] = (10 + d) << 12 | kPage;
    for (unsigned i = 0; i < 512; ++i) b.table(10 + d)[i] = (100 + i % kTables) << 12 | kPage;
  }
  b.table(3)[0] = 4 << 12 | kPage;
  b.table(4)[0] = 5 << 12 | kPage;
  b.table(5)[200] = 6 << 12 | kPage;
  for (std::uint64_t t = 0; t < kTables; ++t) {
    b.table(5)[t] = (100 + t) << 12 | kPage;
    b.table(6)[t] = (100 + t) << 12 | kPage;  // the tables themselves
    b.table(100 + t)[0] = 400 << 12 | kPage;
  }
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t d = 0; d < kDirectories; ++d)
    for (std::uint64_t i = 0; i < 512; ++i) REQUIRE(read_fault(v, d << 30 | i << 21).kind == Kind::Resume);
  const auto load = [&v](std::uint64_t root) {
    REQUIRE(v.set_cr3(root << 12) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
  };
  load(3);
  for (std::uint64_t t = 0; t < kTables; ++t) {
    REQUIRE(read_fault(v, t << 21).kind == Kind::Resume);
    REQUIRE(write_fault(v, std::uint64_t{200} << 21 | t << 12).kind == Kind::Resume);
  }
  REQUIRE(b.mmu.stats().pages_unsynced == kTables);
  load(3);
  REQUIRE(b.mmu.stats().pages_synced == kTables);
  CHECK(longest([&] { load(1); }) <= kMostTouched);
  CHECK(test::unsound(b.mmu) == "");
}

/// Directory 10 maps leaf table 5 in its first entry and 6 in the next; eight tables 20 to 27 of level 3 name it in
/// their first 42 entries each, and all entries of the top tables 1 to 3 name those eight. Top table 4 has a path to
/// table 5 of its own, and maps it writable at kTable.
struct ManyPaths : Bench<Mmu> {
  static constexpr std::uint64_t kTable = std::uint64_t{1} << 30;
  ManyPaths() {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    mmu.set_limit(400);
    table(10)[0] = 5 << 12 | kPage;
    table(10)[1] = 6 << 12 | kPage;
    table(5)[0] = 900 << 12 | kPage;
    table(6)[0] = 901 << 12 | kPage;
    for (std::uint64_t k = 0; k < 8; ++k)
      for (unsigned e = 0; e < 42; ++e) table(20 + k)[e] = 10 << 12 | kPage;
    for (std::uint64_t r = 1; r <= 3; ++r)
      for (std::uint64_t i = 0; i < 512; ++i) table(r)[i] = (20 + i % 8) << 12 | kPage;
    table(4)[0] = 30 << 12 | kPage;
    table(30)[0] = 31 << 12 | kPage;
    table(30)[1] = 32 << 12 | kPage;
    table(31)[0] = 5 << 12 | kPage;
    table(32)[0] = 33 << 12 | kPage;
    table(33)[0] = 5 << 12 | kPage;
    v = std::make_unique<Mmu::Vcpu>(mmu);
    run_long(*v, 1);
  }
  void load(std::uint64_t root) {
    REQUIRE(v->set_cr3(root << 12) == ControlOutcome::Done);
    REQUIRE(v->enter() == EnterOutcome::Enter);
  }
  /// Effects: every path to directory 10 stands, by way of its entry `below`.
  void link_all(std::uint64_t below) {
    for (std::uint64_t r = 1; r <= 3; ++r) {
      load(r);
      for (std::uint64_t i = 0; i < 512; ++i) REQUIRE(read_fault(*v, i << 39 | below << 21).kind == Kind::Resume);
      for (std::uint64_t k = 0; k < 8; ++k)
        for (std::uint64_t e = 0; e < 42; ++e)
          REQUIRE(read_fault(*v, k << 39 | e << 30 | below << 21).kind == Kind::Resume);
    }
  }
  std::unique_ptr<Mmu::Vcpu> v;
};
TEST_CASE("a leaf table below half a million paths stays write-protected") {
  ManyPaths b;
  b.link_all(0);
  b.load(4);
  CHECK(longest([&] { CHECK(write_fault(*b.v, b.kTable).kind == Kind::Emulate); }) <= kMostTouched);
  CHECK(b.mmu.stats().pages_unsynced == 0);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a table that is written freely, linked below half a million paths: it is protected again") {
  ManyPaths b;
  b.link_all(1);
  b.load(4);
  REQUIRE(read_fault(*b.v, 0).kind == Kind::Resume);
  REQUIRE(write_fault(*b.v, b.kTable).kind == Kind::Resume);
  REQUIRE(b.mmu.stats().pages_unsynced == 1);
  b.load(1);
  REQUIRE(b.v->lookup(Gva{std::uint64_t{1} << 21}).present);
  b.load(4);
  REQUIRE(write_fault(*b.v, b.kTable).kind == Kind::Resume);
  b.load(1);  // nothing below this root is unsync yet
  CHECK(longest([&] { CHECK(read_fault(*b.v, 0).kind == Kind::Resume); }) <= kMostTouched);
  CHECK(b.v->lookup(Gva{0}).pfn == b.host.backing(Gfn{900}, false).pfn);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a table shadowed in one role after another goes unsync in all of them, and is brought back in all") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(400);
  b.table(1)[0] = 2 << 12 | kPage;
  b.table(2)[0] = 3 << 12 | kPage;
  b.table(2)[1] = 4 << 12 | kPage;
  b.table(4)[0] = 6 << 12 | kPage;
  b.table(6)[0] = 5 << 12 | kPage;
  b.table(5)[0] = 900 << 12 | kPage;
  for (std::uint64_t i = 0; i < 8; ++i) b.table(3)[i] = 5 << 12 | 0x61 | (i & 3) << 1 | (i >> 2) << 63;
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (unsigned roles = 1; roles <= 8; ++roles) {
    const std::uint64_t a = std::uint64_t{roles - 1} << 21;
    REQUIRE(v.handle_fault(Gva{a}, 0, CpuMode{0, false}).kind == Kind::Resume);
    REQUIRE(write_fault(v, std::uint64_t{1} << 30).kind == Kind::Resume);
    CHECK(b.mmu.stats().pages_unsynced == roles * (roles + 1) / 2);
    REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    CHECK_FALSE(v.lookup(Gva{std::uint64_t{1} << 30}).rights.write());
    CHECK(test::unsound(b.mmu) == "");
  }
}
TEST_CASE("tables full of entries on long lists: each goes in a hold of its own") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(600);
  b.table(1)[0] = 2 << 12 | kPage;
  b.table(2)[0] = 3 << 12 | kPage;
  for (std::uint64_t t = 0; t < 300; ++t) {
    b.table(3)[t] = (100 + t) << 12 | kPage;
    for (std::uint64_t i = 0; i < 512; ++i) b.table(100 + t)[i] = (400 + i) << 12 | kPage;
  }
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  for (std::uint64_t t = 0; t < 300; ++t)
    for (std::uint64_t i = 0; i < 512; i += 8) REQUIRE(read_fault(v, t << 21 | i << 12).kind == Kind::Resume);
  REQUIRE(b.mmu.stats().rmap_longest > 280);
  SUBCASE("reclaim") {
    CHECK(longest([&] { b.mmu.shrink(280); }) <= kMostTouched);
  }
  SUBCASE("a lower limit") {
    CHECK(longest([&] { b.mmu.set_limit(50); }) <= kMostTouched);
  }
  SUBCASE("a new generation") {
    CHECK(longest([&] { b.mmu.zap_all_fast(); }) <= kMostTouched);
  }
  SUBCASE("obsolete pages") {
    b.mmu.obsolete_all();
    CHECK(longest([&] { CHECK(b.mmu.reclaim_obsolete(280) == 280); }) <= kMostTouched);
  }
  CHECK(test::unsound(b.mmu) == "");
}
}  // namespace
