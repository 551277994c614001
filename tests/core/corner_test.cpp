// SPDX-License-Identifier: BSL-1.0
#include <functional>
#include <memory>
#include <vector>

#include "core/world.hpp"

/// Corners where two features meet. Each case was a bug once, found by review.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

/// Moves one frame; the memory that it lay in keeps its bytes.
struct MovingHost : TestHost {
  using TestHost::TestHost;
  std::uint64_t moved = ~std::uint64_t{0};
  alignas(4096) char fresh[4096] = {};
  void* guest_page(Gfn g) noexcept override { return g.value() == moved ? fresh : TestHost::guest_page(g); }
};
template <class M>
typename M::Caps width46() {
  typename M::Caps c;
  c.host_address_bits = 46;
  return c;
}
using Plain = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
constexpr std::uint32_t kRsvd = pferr::kUser | pferr::kReserved | pferr::kPresent;

TEST_CASE("8.10 a large leaf does not reach into a range whose invalidation is in progress") {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
  TestHost host(1024, 4096);
  host.use_large_pages(3);
  M mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  M::Vcpu v(mmu);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  SUBCASE("a fault beside the range") {
    mmu.invalidate_begin(Gfn{513}, 1);
    CHECK(v.handle_fault(Gva{514 << 12}, pferr::kWrite).kind == Kind::Resume);
    CHECK(v.lookup(Gva{514 << 12}).level == Level{1});
  }
  SUBCASE("a fault that asked the Host before it began") {
    TestLock::turn = [&] { mmu.invalidate_begin(Gfn{513}, 1); };
    CHECK(v.handle_fault(Gva{514 << 12}, pferr::kWrite).kind == Kind::Resume);
  }
  CHECK_FALSE(v.lookup(Gva{513 << 12}).present);
  mmu.invalidate_end();
  CHECK_FALSE(v.lookup(Gva{513 << 12}).present);
  CHECK(v.handle_fault(Gva{513 << 12}, pferr::kWrite).kind == Kind::Resume);
  CHECK(v.lookup(Gva{513 << 12}).level == Level{2});
}

/// A guest page of 2 MiB at gfn 512 and its directory entry.
struct LargePage : Bench<Plain> {
  LargePage() {
    slot = mmu.add_slot(Gfn{0}, 1024).value();
    host.use_large_pages(3);
    map(1, kBase + 0x20'0000, 300);
    pd = 1;
    for (unsigned l = 4; l >= 3; --l) pd = table(pd)[Level{l}.index(kBase)] >> 12 & 0xffff'ffff;
    pde() = 512 << 12 | kPage | 0x80;
    v = std::make_unique<Plain::Vcpu>(mmu);
    run_long(*v, 1);
  }
  std::uint64_t& pde() { return table(pd)[Level{2}.index(kBase)]; }
  void report() {
    mmu.guest_wrote(Gpa{(pd << 12) + Level{2}.index(kBase) * 8}, 8);
    v->invlpg(Gva{kBase});
  }
  static constexpr std::uint64_t kBase = 0x4000'0000;
  SlotId slot{};
  std::uint64_t pd = 0;
  std::unique_ptr<Plain::Vcpu> v;
};
TEST_CASE("8.5 a split links no writable child below a guest page whose D bit is clear") {
  LargePage b;
  // A guest leaf table inside the page: no large mapping over it for now.
  b.table(b.pd)[Level{2}.index(b.kBase + 0x40'0000)] = 600 << 12 | kPage;
  b.table(600)[0] = 301 << 12 | kPage;
  REQUIRE(read_fault(*b.v, b.kBase + 0x40'0000).kind == Kind::Resume);
  REQUIRE(write_fault(*b.v, b.kBase + 0x5000).kind == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{b.kBase + 0x5000}).level == Level{1});
  // The guest cleans its page and flushes; then it gives up the table.
  b.pde() &= ~std::uint64_t{0x40};
  b.report();
  b.mmu.guest_wrote(Gpa{(600 << 12) + 1}, 2);
  REQUIRE(read_fault(*b.v, b.kBase + 0x6000).kind == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{b.kBase + 0x5000}).level == Level{2});
  REQUIRE(b.mmu.split_large_pages(b.slot).ok());
  CHECK_FALSE(b.v->lookup(Gva{b.kBase + 0x5000}).rights.write());  // else D stays clear for ever
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a split between an emulator's write and its report hands down no right that is gone") {
  LargePage b;
  REQUIRE(write_fault(*b.v, b.kBase + 0x5000).kind == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{b.kBase}).level == Level{2});
  b.pde() &= ~std::uint64_t{2};
  REQUIRE(b.mmu.split_large_pages(b.slot).ok());
  b.report();
  REQUIRE(b.mmu.start_dirty_log(b.slot, DirtyMethod::DirtyBit).ok());
  REQUIRE(read_fault(*b.v, b.kBase + 0x6000).kind == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{b.kBase + 0x6000}).level == Level{1});
  CHECK_FALSE(b.v->lookup(Gva{b.kBase + 0x5000}).rights.write());
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a split of a read-only large page shares no table with that of a writable one of the same frame") {
  LargePage b;
  const std::uint64_t twin = b.kBase + 0x60'0000;
  b.table(b.pd)[Level{2}.index(twin)] = 512 << 12 | 0xe5;
  REQUIRE(write_fault(*b.v, b.kBase + 0x5000).kind == Kind::Resume);
  REQUIRE(read_fault(*b.v, twin + 0x5000).kind == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{b.kBase}).level == Level{2});
  REQUIRE(b.v->lookup(Gva{twin}).level == Level{2});
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  REQUIRE(b.mmu.split_large_pages(b.slot).ok());
  REQUIRE(b.mmu.stats().splits == 2);
  for (const std::uint64_t page : {0x5000U, 0x6000U}) {
    REQUIRE(write_fault(*b.v, b.kBase + page, true).kind == Kind::Resume);
    CHECK(b.v->lookup(Gva{b.kBase + page}).rights.write());
    CHECK_FALSE(b.v->lookup(Gva{twin + page}).rights.write());
    CHECK(write_fault(*b.v, twin + page).kind == Kind::InjectPageFault);
  }
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("3.5 a split puts no page of this generation below one that is obsolete: the leaf goes") {
  LargePage b;
  REQUIRE(read_fault(*b.v, b.kBase).kind == Kind::Resume);
  REQUIRE(b.v->lookup(Gva{b.kBase}).level == Level{2});
  b.mmu.obsolete_all();
  const Counters before = b.mmu.stats();
  REQUIRE(b.mmu.split_large_pages(b.slot).ok());
  CHECK(b.mmu.stats().splits == before.splits);
  CHECK(b.mmu.stats().pages_created == before.pages_created);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a directory entry that became another, nobody told: the next fault follows what it says now") {
  constexpr std::uint64_t kBase = 0x4000'0000, kFirst = 0x180, kSecond = 0x181;  // pages of the entry's 2 MiB
  // A large page or a table, of frame 0 or 512; and where it leads the second page.
  struct {
    std::uint64_t entry, gfn;
  } const states[] = {{0xe7, 385}, {512 << 12 | 0xe7, 897}, {0x67, 302}, {512 << 12 | 0x67, 303}};
  for (const auto& before : states)
    for (const auto& after : states) {
      if (before.entry == after.entry) continue;
      CAPTURE(before.entry);
      CAPTURE(after.entry);
      Bench<Plain> b;
      REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
      b.map(1, kBase + 0x20'0000, 310);
      std::uint64_t pd = 1;
      for (unsigned l = 4; l >= 3; --l) pd = b.table(pd)[Level{l}.index(kBase)] >> 12;
      for (const std::uint64_t t : {0U, 512U})
        for (const std::uint64_t page : {kFirst, kSecond})
          b.table(t)[page] = (300 + (page - kFirst) * 2 + t / 512) << 12 | kPage;
      std::uint64_t& pde = b.table(pd)[Level{2}.index(kBase)];
      pde = before.entry;
      Plain::Vcpu v(b.mmu);
      run_long(v, 1);
      REQUIRE(write_fault(v, kBase + (kFirst << 12)).kind == Kind::Resume);
      pde = after.entry;
      Kind k = Kind::Retry;
      for (int tries = 0; tries < 4 && k == Kind::Retry; ++tries) k = write_fault(v, kBase + (kSecond << 12)).kind;
      CHECK(k == Kind::Resume);
      CHECK(v.lookup(Gva{kBase + (kSecond << 12)}).pfn == b.host.backing(Gfn{after.gfn}, false).pfn);
      CHECK(test::unsound(b.mmu) == "");
    }
}

TEST_CASE("a way that grants more by now, nobody told: another way to the same table grants no more than it did") {
  constexpr std::uint64_t kOther = 0x4000'0000;
  Bench<Plain> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, 0, 400);
  b.map(1, 0x1000, 401);
  std::uint64_t* const pdpt = b.table(b.table(1)[0] >> 12);
  pdpt[0] = pdpt[1] = pdpt[0] & ~std::uint64_t{2};
  Plain::Vcpu v(b.mmu);
  run_long(v, 1);
  REQUIRE(read_fault(v, kOther + 0x1000).kind == Kind::Resume);
  REQUIRE(read_fault(v, 0).kind == Kind::Resume);
  pdpt[0] |= 2;
  Kind k = Kind::Retry;
  for (int tries = 0; tries < 4 && k == Kind::Retry; ++tries) k = write_fault(v, 0x1000).kind;
  CHECK(k == Kind::Resume);
  CHECK(v.lookup(Gva{0x1000}).rights.write());
  CHECK(v.lookup(Gva{kOther + 0x1000}).present);
  CHECK_FALSE(v.lookup(Gva{kOther + 0x1000}).rights.write());
  CHECK(test::unsound(b.mmu) == "");
}

/// A GiB backed by one host page.
struct HugeHost : TestHost {
  HugeHost() : TestHost(512, 4096) {}
  Backing backing(Gfn g, bool) noexcept override {
    Backing b;
    b.kind = Backing::Kind::Memory;
    b.pfn = Pfn{(std::uint64_t{7} << 18) + g.value()};
    b.level = Level{3};
    return b;
  }
};
TEST_CASE("F31 code in one region of a GiB and data in another do not chase each other after a recovery") {
  using M = ShadowMmu<arch::Ept, lock::Spin, test::AnyPolicy, TestHost>;
  HugeHost host;
  M::Caps c;
  c.nx_huge = true;
  M mmu(host, c);
  REQUIRE(mmu.add_slot(Gfn{0}, 1 << 18).ok());
  M::Vcpu v(mmu);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  const Gva first{0x20'0000}, second{0x40'0000}, data{0x80'0000};
  REQUIRE(v.handle_fault(first, pferr::kFetch).kind == Kind::Resume);
  REQUIRE(v.handle_fault(second, pferr::kFetch).kind == Kind::Resume);
  REQUIRE(mmu.recover_exec_splits(1) == 1);
  // An instruction of the second region that writes data needs both entries at once.
  if (!v.lookup(second).rights.exec()) REQUIRE(v.handle_fault(second, pferr::kFetch).kind == Kind::Resume);
  REQUIRE(v.handle_fault(data, pferr::kWrite).kind == Kind::Resume);
  CHECK(v.lookup(second).rights.exec());
  CHECK(v.lookup(data).rights.write());
  REQUIRE(mmu.recover_exec_splits(9) == 1);
  REQUIRE(v.handle_fault(data, pferr::kWrite).kind == Kind::Resume);
  CHECK(v.lookup(data).level == Level{3});
}

struct FlushLog : host::FlushListener {
  std::vector<FlushRequest> seen;
  void on_flush(const FlushRequest& q) noexcept override { seen.push_back(q); }
  [[nodiscard]] bool covers(std::uint64_t gfn) const {
    for (const FlushRequest& q : seen)
      if (q.scope == FlushRequest::Scope::Structures || gfn - q.first < q.pages) return true;
    return false;
  }
};
/// Shares frames until somebody writes, where it is told to: a read is given no right to write, whoever had it.
struct SharingHost : TestHost {
  using TestHost::TestHost;
  bool shares = false;
  Backing backing(Gfn g, bool write) noexcept override {
    Backing b = TestHost::backing(g, write);
    if (shares) b.writable = write;
    return b;
  }
};
/// Two vCPUs on a second-level table without A and D bits.
struct Aged {
  using M = ShadowMmu<arch::Ept, lock::Spin, test::AnyPolicy, TestHost>;
  Aged() {
    host.listen(log);
    slot = mmu.add_slot(Gfn{0}, 1024).value();
    REQUIRE(writer.enter() == EnterOutcome::Enter);
    REQUIRE(reader.enter() == EnterOutcome::Enter);
  }
  ~Aged() { host.unlisten(log); }
  static M::Caps caps() {
    M::Caps c;
    c.accessed_dirty = false;
    return c;
  }
  /// One writes the page, it is aged, and the other reads it.
  void written_aged_read() {
    REQUIRE(writer.handle_fault(kAt, pferr::kWrite).kind == Kind::Resume);
    CHECK(mmu.clear_young(Gfn{300}, 1));
    log.seen.clear();
    REQUIRE(reader.handle_fault(kAt, 0).kind == Kind::Resume);
    CHECK_FALSE(reader.lookup(kAt).rights.write());
  }
  static constexpr Gva kAt{300 << 12};
  SharingHost host{1024, 4096};
  FlushLog log;
  M mmu{host, caps()};
  SlotId slot{};
  M::Vcpu writer{mmu, VcpuId{0}};
  M::Vcpu reader{mmu, VcpuId{1}};
};
TEST_CASE("8.1 an aged entry that a read fault makes read-only under a log is flushed: a TLB may write by it") {
  Aged b;
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  b.written_aged_read();
  std::uint64_t words[16];
  REQUIRE(b.mmu.fetch_dirty_log(b.slot, 0, 16, words).ok());
  CHECK((words[300 / 64] >> (300 % 64) & 1) == 1);
  CHECK(b.log.covers(300));
}
TEST_CASE("8.1 an aged entry that a Host gives back read-only is flushed then: no later protector would do it") {
  Aged b;
  b.host.shares = true;
  b.written_aged_read();
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  CHECK(b.log.covers(300));
}
TEST_CASE("an MMIO entry is not made from a table that was re-backed since it was walked") {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
  Bench<M, MovingHost> b(width46<M>());
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, 0x40'0000, 5000);
  M::Vcpu v(b.mmu);
  run_long(v, 1);
  const std::uint64_t t = b.leaf_table(1, 0x40'0000);
  TestLock::turn = [&] {
    b.mmu.invalidate_begin(Gfn{t}, 1);
    std::memcpy(b.host.fresh, b.host.TestHost::guest_page(Gfn{t}), kPageSize);
    b.host.moved = t;
    b.mmu.invalidate_end();
    b.table(t)[0] = 400 << 12 | kPage;  // another CPU: nobody shadows the table yet
  };
  CHECK(read_fault(v, 0x40'0000).kind == Kind::Mmio);  // as of before
  v.invlpg(Gva{0x40'0000});
  CHECK(v.handle_fault(Gva{0x40'0000}, kRsvd, CpuMode{3, false}).kind == Kind::Resume);
  CHECK(b.mmu.stats().mmio_hits == 0);
}
TEST_CASE("4.5 an entry is not believed once add_slot or invalidate_mmio has returned, though the fault began before") {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
  Bench<M> b(width46<M>());
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1000).ok());
  b.map(1, 0x40'0000, 1010);
  M::Vcpu v(b.mmu);
  run_long(v, 1);
  REQUIRE(read_fault(v, 0x40'0000).kind == Kind::Mmio);
  v.invlpg(Gva{0x70'0000});
  SUBCASE("a slot") {
    TestLock::turn = [&] { REQUIRE(b.mmu.add_slot(Gfn{1000}, 24).ok()); };
    CHECK(v.handle_fault(Gva{0x40'0000}, kRsvd, CpuMode{3, false}).kind == Kind::Resume);
  }
  SUBCASE("an invalidation") {
    TestLock::turn = [&] { b.mmu.invalidate_mmio(); };
    CHECK(v.handle_fault(Gva{0x40'0000}, kRsvd, CpuMode{3, false}).kind == Kind::Mmio);
  }
  CHECK(b.mmu.stats().mmio_hits == 0);
}

/// Eight PAE vCPUs, each with four roots of its own, and 26 more pages.
struct Pinned {
  using Small = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost, SmallLimit>;
  Pinned() {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    for (unsigned i = 0; i < 8; ++i) {
      v.push_back(std::make_unique<Small::Vcpu>(mmu, VcpuId{i}));
      for (unsigned k = 0; k < 4; ++k) table(1 + i)[k] = (100 + i * 4 + k) << 12 | 1;
      REQUIRE(v[i]->set_cr3((1 + i) << 12) == ControlOutcome::Done);
      REQUIRE(v[i]->set_control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kNxe}) == ControlOutcome::Done);
      REQUIRE(v[i]->enter() == EnterOutcome::Enter);
    }
    for (unsigned k = 0; mmu.stats().pages_used < 58; ++k) {
      table(100 + 7 * 4)[k] = (200 + k) << 12 | kPage;
      table(200 + k)[0] = 700 << 12 | kPage;
      REQUIRE(read_fault(*v[7], std::uint64_t{k} << 21).kind == Kind::Resume);
    }
  }
  std::uint64_t* table(std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); }
  TestHost host{1024, 4096};
  Small mmu{host};
  std::vector<std::unique_ptr<Small::Vcpu>> v;
};
TEST_CASE("3.8 obsolete roots in use are no freed pages: reclaim goes on to those that can be freed") {
  Pinned p;
  SUBCASE("a root load at the limit") {
    p.mmu.set_limit(58);
    p.mmu.obsolete_all();
    CHECK(p.v[7]->enter() == EnterOutcome::Enter);
  }
  SUBCASE("fewer pages") {
    p.mmu.obsolete_all();
    CHECK(p.mmu.shrink(13) == 13);
    CHECK(p.mmu.stats().pages_used <= 45);
  }
  SUBCASE("what is said to be freed is freed") {
    p.mmu.obsolete_all();
    CHECK(p.mmu.reclaim_obsolete(9) == 9);
    CHECK(p.mmu.stats().pages_used == 49);
    CHECK(p.mmu.shrink(20) == 17);
    CHECK(p.mmu.stats().pages_used == 32);
  }
  CHECK(test::unsound(p.mmu) == "");
}

/// Gives no frame beyond a budget.
struct TightHost : TestHost {
  using TestHost::TestHost;
  std::uint64_t budget = ~std::uint64_t{0};
  Result<Hpa> alloc_frame(FrameKind k) noexcept override {
    if (frames_used() >= budget) return Error::OutOfMemory;
    return TestHost::alloc_frame(k);
  }
};
TEST_CASE("3.8 obsolete pages do not outlive the memory pressure of slots and logs either") {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
  Bench<M, TightHost> b;
  const SlotId slot = b.mmu.add_slot(Gfn{0}, 512).value();
  M::Vcpu v(b.mmu);
  for (std::uint64_t i = 0; i < 30; ++i) b.map(1, 0x40'0000 + (i << 21), 300 + i);
  run_long(v, 1);
  for (std::uint64_t i = 0; i < 30; ++i) REQUIRE(read_fault(v, 0x40'0000 + (i << 21)).kind == Kind::Resume);
  b.mmu.obsolete_all();
  b.host.budget = b.host.frames_used();
  SUBCASE("remove") { CHECK(b.mmu.remove_slot(slot).ok()); }
  SUBCASE("add") { CHECK(b.mmu.add_slot(Gfn{512}, 512).ok()); }
  SUBCASE("move") { CHECK(b.mmu.move_slot(slot, Gfn{512}).ok()); }
  SUBCASE("log") { CHECK(b.mmu.start_dirty_log(slot).ok()); }
  SUBCASE("but without them there is nothing to give") {
    b.mmu.reclaim_obsolete(1000);
    b.host.budget = 0;
    CHECK(b.mmu.add_slot(Gfn{512}, 512).error() == Error::OutOfMemory);
  }
  CHECK(test::unsound(b.mmu) == "");
}
/// Somebody always waits.
TEST_CASE("3.4 a region full of tables, or of long chains, is not zapped in one critical section") {
  const Crowd crowd;
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
  TestHost host(2048, 8192);
  M mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 512).ok());
  const SlotId high = mmu.add_slot(Gfn{512}, 1024).value();
  M::Vcpu v(mmu);
  mmu.set_limit(3000);
  const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
  table(1)[0] = 2 << 12 | kPage;
  table(2)[0] = 3 << 12 | kPage;
  for (std::uint64_t i = 0; i < 500; ++i) {
    table(3)[i] = (1024 + i) << 12 | kPage;
    table(1024 + i)[0] = 600 << 12 | kPage;
  }
  run_long(v, 1);
  for (std::uint64_t i = 0; i < 500; ++i) REQUIRE(read_fault(v, i << 21).kind == Kind::Resume);
  TestLock::taken = 0;
  SUBCASE("tables") {
    REQUIRE(mmu.zap_slot(high).ok());
    CHECK(TestLock::taken >= 500 / 10);
  }
  SUBCASE("what is to be shrunk") {
    CHECK(mmu.shrink(400) == 400);
    CHECK(TestLock::taken >= 400 / 64);
  }
  SUBCASE("a write of the whole memory, and beyond its end") {
    mmu.guest_wrote(Gpa{5}, ~std::uint64_t{0});
    CHECK(TestLock::taken >= 2000 / 10 / 2);
  }
  CHECK(test::unsound(mmu) == "");
}
TEST_CASE("F36 the audit may be asked in the middle of a change of flags") {
  const Crowd crowd;
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;
  TestHost host(1024, 4096);
  M mmu(host);
  const SlotId slot = mmu.add_slot(Gfn{0}, 1024).value();
  M::Vcpu v(mmu);  // paging is off
  REQUIRE(v.enter() == EnterOutcome::Enter);
  for (std::uint64_t g = 0; g < 1024; ++g) REQUIRE(v.handle_fault(Gva{g << 12}, pferr::kWrite).kind == Kind::Resume);
  unsigned asked = 0;
  std::function<void()> ask = [&] {
    asked += 1;
    CHECK(test::unsound(mmu) == "");
  };
  TestLock::turn = ask;
  REQUIRE(mmu.set_slot_flags(slot, SlotFlags{true}).ok());
  TestLock::turn = nullptr;
  CHECK(asked > 3);
}
}  // namespace
