// SPDX-License-Identifier: BSL-1.0
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "core/world.hpp"

/// Lockless readers (F28), deferred frees (5.x), faults without the lock (F21), protection that a log has begun (8.1).
/// What they do at once with a writer is in tests/explore and tests/stress.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Kind = FaultOutcome::Kind;
using Lock = lock::Readers<lock::Checked<lock::Spin>>;

struct Few : config::Default {
  static constexpr unsigned kDeferredPages = 8;
  static constexpr unsigned kPrefetch = 1;
};
using Shadow = ShadowMmu<arch::X86_64, Lock, test::AnyPolicy, TestHost, Few>;
using Direct = ShadowMmu<arch::Ept, Lock, test::AnyPolicy, TestHost, Few>;

struct Flushes : host::FlushListener {
  explicit Flushes(TestHost& h) : host(h) { host.listen(*this); }
  ~Flushes() override { host.unlisten(*this); }
  void on_flush(const FlushRequest&) noexcept override { count += 1; }
  TestHost& host;
  int count = 0;
};

struct Long : Bench<Shadow> {
  Long() {
    slot = mmu.add_slot(Gfn{0}, 1024).value();
    for (std::uint64_t i = 0; i < 40; ++i) map(1, at(i), 300 + i);
    for (std::uint32_t i = 0; i < 2; ++i) {
      v[i] = std::make_unique<Shadow::Vcpu>(mmu, VcpuId{i});
      run_long(*v[i], 1);
      for (std::uint64_t n = 0; n < 40; ++n) REQUIRE(write_fault(*v[i], at(n)).kind == Kind::Resume);
    }
  }
  static std::uint64_t at(std::uint64_t i) { return 0x40'0000 + (i << 12); }
  SlotId slot{};
  std::unique_ptr<Shadow::Vcpu> v[2];
};
struct Flat : Bench<Direct> {
  Flat() {
    slot = mmu.add_slot(Gfn{0}, 1024).value();
    v = std::make_unique<Direct::Vcpu>(mmu);
    REQUIRE(v->enter() == EnterOutcome::Enter);
  }
  Kind write(std::uint64_t gfn) {
    const bool present = v->lookup(Gva{gfn << 12}).present;
    return v->handle_fault(Gva{gfn << 12}, pferr::kWrite | (present ? pferr::kPresent : 0U)).kind;
  }
  std::uint64_t word(std::uint64_t i) {
    std::uint64_t w = 0;
    REQUIRE(mmu.read_dirty_log(slot, i, 1, &w).ok());
    return w;
  }
  SlotId slot{};
  std::unique_ptr<Direct::Vcpu> v;
};

TEST_CASE("F28 a reader finds what the vCPU's tables hold, by its own registers' root") {
  Long b;
  Shadow::Reader r(b.mmu);
  for (std::uint64_t i = 0; i < 40; ++i) {
    const EntryInfo e = r.lookup(*b.v[1], Gva{b.at(i) + 0x123});
    CHECK(e.present);
    CHECK(e.pfn == b.host.backing(Gfn{300 + i}, false).pfn);
    CHECK(e.entry == b.v[1]->lookup(Gva{b.at(i)}).entry);
  }
  const EntryInfo none = r.lookup(*b.v[1], Gva{b.at(40)});
  CHECK_FALSE(none.present);
  CHECK(none.level == Level{1});
  CHECK(r.lookup(*b.v[1], Gva{std::uint64_t{1} << 40}).level == Level{4});
  const Translated t = r.translate(*b.v[0], Gva{b.at(7) + 5}, AccessRequest{true, false, true}, CpuMode{3, false});
  CHECK(t.ok());
  CHECK(t.to.gpa == Gpa{(307 << 12) + 5});
  CHECK_FALSE(r.translate(*b.v[0], Gva{b.at(40)}, AccessRequest{}, CpuMode{3, false}).ok());
}

TEST_CASE("F28 a root that its vCPU may not run on any more is not found") {
  Long b;
  Shadow::Reader r(b.mmu);
  const auto found = [&](unsigned i) { return r.lookup(*b.v[i], Gva{b.at(3)}).present; };
  REQUIRE(found(0));
  SUBCASE("zapped by its generation") {
    b.mmu.obsolete_all();
    CHECK_FALSE(found(1));
  }
  SUBCASE("zapped in use, by itself") {
    b.mmu.guest_wrote(Gpa{(1 << 12) + 3}, 2);
    CHECK_FALSE(found(1));
  }
  SUBCASE("of another address space") {
    REQUIRE(b.v[0]->set_cr3(2 << 12) == ControlOutcome::Done);
    CHECK(found(1));
  }
  SUBCASE("of another role") {
    Controls c = kLongMode;
    c.cr0 &= ~cr0::kWp;
    REQUIRE(b.v[0]->set_control(c) == ControlOutcome::Done);
    CHECK(found(1));
  }
  CHECK_FALSE(found(0));
  // The next root is.
  REQUIRE(b.v[0]->set_control(kLongMode) == ControlOutcome::Done);
  REQUIRE(b.v[0]->set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(b.v[0]->enter() == EnterOutcome::Enter);
  REQUIRE(write_fault(*b.v[0], b.at(3)).kind == Kind::Resume);
  CHECK(found(0));
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("F28 another thread translates by the registers of the moment, in each mode") {
  TestHost host(64, 512);
  Shadow mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 64).ok());
  Shadow::Vcpu v(mmu);
  Shadow::Reader r(mmu);
  const auto word = [&](std::uint64_t gfn, std::uint64_t i, std::uint64_t e) {
    static_cast<std::uint64_t*>(host.guest_page(Gfn{gfn}))[i] = e;
  };
  const auto to = [&](std::uint64_t a) {
    const Translated t = r.translate(v, Gva{a}, AccessRequest{});
    return t.ok() ? t.to.gpa.value() : ~std::uint64_t{0};
  };
  CHECK(to(0x5123) == 0x5123);  // paging off
  word(8, 0, 9 << 12 | 1);      // PAE: PDPT 8, PD 9, table 10
  word(9, 0, 10 << 12 | 0x67);
  word(10, 5, 20 << 12 | 0x67);
  REQUIRE(v.set_cr3(8 << 12) == ControlOutcome::Done);
  REQUIRE(v.set_control({cr0::kPe | cr0::kPg, cr4::kPae, 0}) == ControlOutcome::Done);
  CHECK(to(0x5123) == (20U << 12 | 0x123U));
  REQUIRE(v.set_control({cr0::kPe, cr4::kPae, 0}) == ControlOutcome::Done);
  word(11, 0, 8 << 12 | 0x67);  // four levels: 11, 8, 9, 10
  word(8, 0, 9 << 12 | 0x67);
  REQUIRE(v.set_cr3(11 << 12) == ControlOutcome::Done);
  REQUIRE(v.set_control(kLongMode) == ControlOutcome::Done);
  word(10, 5, 21 << 12 | 0x67);
  CHECK(to(0x5123) == (21U << 12 | 0x123U));
  word(10, 6, std::uint64_t{1} << 63U | 22 << 12 | 0x67);  // NX: with EFER.NXE no reserved bit
  CHECK(to(0x6123) == (22U << 12 | 0x123U));
  CHECK_FALSE(r.translate(v, Gva{0x6123}, AccessRequest{false, true, false}).ok());
}

TEST_CASE("5.2 at most so many pages wait; where that is too few the writer waits, and frees the same way") {
  Long b;
  const std::uint64_t before = b.mmu.stats().pages_zapped;
  for (int round = 0; round < 20; ++round) {
    b.mmu.zap_all_fast();
    for (auto& v : b.v) {
      REQUIRE(v->enter() == EnterOutcome::Enter);
      REQUIRE(write_fault(*v, b.at(1)).kind == Kind::Resume);
    }
    const Counters c = b.mmu.stats();
    CHECK(c.pages_deferred_now <= Few::kDeferredPages);
    CHECK(test::unsound(b.mmu) == "");
  }
  const Counters c = b.mmu.stats();
  CHECK(c.pages_zapped > before + 60);
  CHECK(c.pages_deferred > 60);
  CHECK(c.pages_deferred_highest <= Few::kDeferredPages);
  CHECK(c.pages_deferred_highest > 0);
  // Memory that is asked for comes at once.
  static_cast<void>(b.mmu.shrink(100));
  CHECK(b.mmu.stats().pages_deferred_now == 0);
}

TEST_CASE("5.2 without a reader nobody waits, whatever the pages come in") {
  Long b;
  for (int round = 0; round < 50; ++round) {
    b.mmu.zap_all_fast();
    for (auto& v : b.v) REQUIRE(v->enter() == EnterOutcome::Enter);
    for (int n = 0; n < round % 4; ++n)
      REQUIRE(write_fault(*b.v[0], b.at(1) + (std::uint64_t{1} << (21 * n))).kind != Kind::OutOfMemory);
  }
  CHECK(b.mmu.stats().pages_deferred > 100);
  CHECK(b.mmu.stats().reader_waits == 0);
}

TEST_CASE("F21 a write that a log alone refuses is answered without the lock, and logged") {
  Flat b;
  REQUIRE(b.write(5) == Kind::Resume);
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  CHECK_FALSE(b.v->lookup(Gva{5 << 12}).rights.write());
  CHECK(b.word(0) == 0);
  const Counters before = b.mmu.stats();
  REQUIRE(b.write(5) == Kind::Resume);
  CHECK(b.v->lookup(Gva{5 << 12}).rights.write());
  CHECK(b.word(0) == 1U << 5);
  const Counters after = b.mmu.stats();
  CHECK(after.faults_fast == before.faults_fast + 1);
  CHECK(after.faults == before.faults + 1);
  // Not where nothing is mapped, nor where the slot is read-only by now.
  REQUIRE(b.write(6) == Kind::Resume);
  CHECK(b.mmu.stats().faults_fast == after.faults_fast);
  REQUIRE(b.mmu.set_slot_flags(b.slot, SlotFlags{.read_only = true}).ok());
  REQUIRE(b.v->handle_fault(Gva{5 << 12}, 0).kind == Kind::Resume);
  CHECK(b.write(5) == Kind::Mmio);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("F21 never a large leaf of a logged slot: its write splits it") {
  Flat b;
  b.host.use_large_pages(3);
  REQUIRE(b.write(5) == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{5 << 12}).level == Level{2});
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  REQUIRE(b.write(5) == Kind::Resume);
  CHECK(b.v->lookup(Gva{5 << 12}).level == Level{1});
  CHECK(b.mmu.stats().faults_fast == 0);
  // Children of a split are restored one by one.
  REQUIRE(b.mmu.stop_dirty_log(b.slot).ok());
  REQUIRE(b.write(5) == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{5 << 12}).level == Level{2});
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  REQUIRE(b.mmu.split_large_pages(b.slot).ok());
  REQUIRE(b.write(9) == Kind::Resume);
  CHECK(b.mmu.stats().faults_fast == 1);
  CHECK(b.word(0) == 1U << 9);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("F21 never what somebody else than a log protects: a guest table written from real mode") {
  Long b;
  Shadow::Vcpu flat(b.mmu, VcpuId{7});
  REQUIRE(flat.enter() == EnterOutcome::Enter);
  const std::uint64_t table = b.leaf_table(1, b.at(0));
  const auto fault = [&] { return flat.handle_fault(Gva{table << 12}, pferr::kWrite | pferr::kPresent).kind; };
  REQUIRE(flat.handle_fault(Gva{table << 12}, 0).kind == Kind::Resume);
  REQUIRE(fault() == Kind::Resume);  // let go unsync, under the lock
  REQUIRE(b.v[0]->set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(b.v[0]->enter() == EnterOutcome::Enter);  // synced: protected again
  REQUIRE_FALSE(flat.lookup(Gva{table << 12}).rights.write());
  const Counters before = b.mmu.stats();
  REQUIRE(fault() == Kind::Resume);
  CHECK(b.mmu.stats().faults_fast == before.faults_fast);
  CHECK(b.mmu.stats().pages_unsynced > before.pages_unsynced);
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("F20 a reader fetches, reads and clears a log as the lock's holder does; one flush") {
  Long b;
  Shadow::Reader r(b.mmu);
  Flushes flushes(b.host);
  std::uint64_t w[16] = {};
  CHECK(r.fetch_dirty_log(b.slot, 0, 16, w).error() == Error::LogInactive);
  CHECK(r.fetch_dirty_log(SlotId{99}, 0, 16, w).error() == Error::NoSuchSlot);
  for (const DirtyMethod m : {DirtyMethod::WriteProtect, DirtyMethod::DirtyBit}) {
    CAPTURE(m);
    REQUIRE(b.mmu.start_dirty_log(b.slot, m).ok());
    CHECK(r.fetch_dirty_log(b.slot, 16, 1, w).error() == Error::BadRange);
    for (const unsigned n : {3U, 9U}) REQUIRE(write_fault(*b.v[0], b.at(n), true).kind == Kind::Resume);
    flushes.count = 0;
    REQUIRE(r.read_dirty_log(b.slot, 4, 2, w).ok());
    CHECK(flushes.count == 0);
    CHECK(w[0] == (std::uint64_t{1} << (303 - 256) | std::uint64_t{1} << (309 - 256)));
    REQUIRE(r.clear_dirty_log(b.slot, 4, std::uint64_t{1} << (303 - 256)).ok());
    CHECK(flushes.count == 1);
    REQUIRE(r.fetch_dirty_log(b.slot, 4, 2, w).ok());
    CHECK(flushes.count == 2);
    CHECK(w[0] == std::uint64_t{1} << (309 - 256));
    REQUIRE(r.fetch_dirty_log(b.slot, 4, 2, w).ok());
    CHECK(w[0] == 0);
    if (m == DirtyMethod::WriteProtect) CHECK_FALSE(b.v[0]->lookup(Gva{b.at(9)}).rights.write());
    REQUIRE(b.mmu.stop_dirty_log(b.slot).ok());
  }
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("F20 a page with hundreds of mappings is protected whole") {
  TestHost host(1024, 4096);
  Shadow mmu(host);
  const SlotId slot = mmu.add_slot(Gfn{0}, 1024).value();
  const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
  for (std::uint64_t t = 1; t < 4; ++t) table(t)[0] = (t + 1) << 12 | kPage;
  for (std::uint64_t n = 0; n < 300; ++n) table(4)[n] = 500 << 12 | kPage;
  Shadow::Vcpu v(mmu);
  run_long(v, 1);
  for (std::uint64_t n = 0; n < 300; ++n) REQUIRE(write_fault(v, n << 12).kind == Kind::Resume);
  Shadow::Reader r(mmu);
  REQUIRE(mmu.start_dirty_log(slot).ok());
  for (std::uint64_t n = 0; n < 300; ++n) REQUIRE(write_fault(v, n << 12, true).kind == Kind::Resume);
  std::uint64_t w = 0;
  REQUIRE(r.fetch_dirty_log(slot, 500 / 64, 1, &w).ok());
  CHECK(w == std::uint64_t{1} << 500 % 64);
  for (std::uint64_t n = 0; n < 300; ++n) CHECK_FALSE(v.lookup(Gva{n << 12}).rights.write());
  CHECK(test::unsound(mmu) == "");
}
TEST_CASE("F20 a list that a reader cannot copy whole tells it nothing") {
  using List = core::HandleList<memory::Smp, true>;
  core::CellPool cells;
  cells.grow<memory::Smp>([] { return std::calloc(1, kPageSize); });
  std::uint32_t head = 0;
  List::Seen seen;
  for (unsigned n = 0; n < 60; ++n) {
    List::look(cells, head, seen);
    CHECK(seen.whole == (n <= List::Seen::kMost));
    CHECK(seen.count == (seen.whole ? n : 0U));
    List::add(cells, head, core::EntryHandle(7, n));
  }
  // While a chain changes nothing is believed that was copied.
  for (unsigned n = 0; n < 10; ++n) CHECK(List::remove(cells, head, core::EntryHandle(7, n)));
  cells.changes += 1;
  List::look(cells, head, seen);
  CHECK_FALSE(seen.whole);
  CHECK(seen.count == 0);
  cells.drain([](void* p) { std::free(p); });
}
TEST_CASE("F19 a reader tells the age of a page as the lock's holder does") {
  Long b;
  Shadow::Reader r(b.mmu);
  CHECK(r.test_young(Gfn{300}, 40));
  CHECK_FALSE(r.test_young(Gfn{700}, 40));
  b.mmu.clear_young(Gfn{0}, 1024);
  CHECK_FALSE(r.test_young(Gfn{0}, ~std::uint64_t{0}));
}

TEST_CASE("8.1 who protects a table flushes, though a log took W before") {
  Long b;
  // Page 320 is data, written through at(20), and will be the leaf table of another region.
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  REQUIRE_FALSE(b.v[0]->lookup(Gva{b.at(20)}).rights.write());
  const std::uint64_t far = b.at(0) + (std::uint64_t{1} << 21);
  b.table(b.leaf_table(1, b.at(0)) - 1)[Level{2}.index(far)] = 320 << 12 | kPage;
  b.table(320)[0] = 330 << 12 | kPage;
  Flushes flushes(b.host);
  REQUIRE(read_fault(*b.v[0], far).kind == Kind::Resume);
  CHECK(flushes.count > 0);
  CHECK_FALSE(arch::X86_64::mmu_writable(b.v[0]->lookup(Gva{b.at(20)}).entry));
}

/// Returns: whether the deed ends the process by an assertion.
bool asserts(void (*deed)()) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(2);
    ::signal(SIGABRT, SIG_DFL);
    deed();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}
TEST_CASE("a lock that is asked for inside a section is reported; a section without it is not") {
  CHECK(asserts([] {
    Long b;
    Shadow::Reader r(b.mmu);
    const Shadow::Reader::Section section(r);
    b.mmu.zap_all_fast();
  }));
  CHECK(asserts([] {
    Long b;
    Shadow::Reader r(b.mmu);
    const Shadow::Reader::Section section(r);
    static_cast<void>(write_fault(*b.v[0], b.at(1)));
  }));
  CHECK_FALSE(asserts([] {
    Long b;
    Shadow::Reader r(b.mmu);
    const Shadow::Reader::Section section(r);
    const Shadow::Reader::Section inner(r);
    static_cast<void>(r.lookup(*b.v[0], Gva{b.at(1)}));
  }));
}

/// Deferral as a writer and a reader on two threads would see it, played on one: the lock is not checked here.
TEST_CASE("5.1 a page unlinked under a section is not freed until it ends") {
  using Mmu = ShadowMmu<arch::Ept, lock::Readers<lock::Spin>, test::AnyPolicy, TestHost, Few>;
  TestHost host(64, 512);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 64).ok());
  Mmu::Vcpu v(mmu);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  REQUIRE(v.handle_fault(Gva{0x1000}, 0).kind == Kind::Resume);
  Mmu::Reader r(mmu);
  const auto round = [&] {
    mmu.zap_all_fast();
    REQUIRE(v.enter() == EnterOutcome::Enter);
    REQUIRE(v.handle_fault(Gva{0x1000}, 0).kind == Kind::Resume);
  };
  {
    const Mmu::Reader::Section outer(r);
    { const Mmu::Reader::Section inner(r); }
    round();
    CHECK(mmu.stats().pages_deferred_now == 4);
    round();
    CHECK(mmu.stats().pages_deferred_now == 8);  // the first lot has not passed either: the outer section is open
  }
  CHECK(test::unsound(mmu) == "");
  round();  // the first lot's period has passed: it goes, nobody waits
  CHECK(mmu.stats().pages_zapped == 12);
  CHECK(mmu.stats().pages_deferred_now == 8);
  CHECK(mmu.stats().reader_waits == 0);
  CHECK(test::unsound(mmu) == "");
}
}  // namespace
