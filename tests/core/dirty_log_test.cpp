// SPDX-License-Identifier: BSL-1.0
#include <functional>
#include <thread>
#include <utility>

#include "core/world.hpp"

/// Dirty logging (F20), large pages split and restored (F15, F31), ageing (F19).
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>;

/// Data pages 300 to 339 at 64 KiB steps, and a CPU that writes them by its own.
struct Logged : Bench<Mmu> {
  explicit Logged(DirtyMethod m) : cpu(host, VcpuId{0}, config()), method(m) {
    slot = mmu.add_slot(Gfn{0}, 1024).value();
    for (std::uint64_t i = 0; i < 40; ++i) map(1, at(i), 300 + i);
    v = std::make_unique<Mmu::Vcpu>(mmu);
    run_long(*v, 1);
  }
  static sim::CpuConfig config() {
    sim::CpuConfig c;
    c.max_phys_addr = 52;
    return c;
  }
  static std::uint64_t at(std::uint64_t i) { return 0x40'0000 + (i << 16); }
  void access(std::uint64_t i, bool write) {
    for (int tries = 0; tries < 4; ++tries) {
      REQUIRE(v->enter() == EnterOutcome::Enter);
      const HwState h = v->hw_state();
      if (h.cr3 != cr3 || cpu.reload) REQUIRE(cpu.cpu.load(h) == sim::LoadOutcome::Ok);
      cr3 = h.cr3;
      cpu.reload = false;
      const auto got = cpu.cpu.access(at(i), AccessRequest{write, false, true}, CpuMode{3, false});
      if (got.ok()) return;
      exits += 1;
      REQUIRE(v->handle_fault(Gva{at(i)}, got.error_code, CpuMode{3, false}).kind == Kind::Resume);
    }
    FAIL("no progress");
  }
  std::vector<std::uint64_t> fetch() {
    std::vector<std::uint64_t> words(Mmu::dirty_log_words(1024));
    REQUIRE(mmu.fetch_dirty_log(slot, 0, words.size(), words.data()).ok());
    return names(words);
  }
  static std::vector<std::uint64_t> names(const std::vector<std::uint64_t>& words) {
    std::vector<std::uint64_t> gfns;
    for (std::uint64_t g = 256; g < 1024; ++g)  // tables are written by walks, too
      if ((words[g / 64] >> (g % 64) & 1) != 0) gfns.push_back(g);
    return gfns;
  }
  TestCpu cpu;
  DirtyMethod method;
  SlotId slot{};
  std::uint64_t cr3 = 0, exits = 0;
  std::unique_ptr<Mmu::Vcpu> v;
};
using Gfns = std::vector<std::uint64_t>;

void each_method(void (*test)(DirtyMethod)) {
  SUBCASE("by write protection") { test(DirtyMethod::WriteProtect); }
  SUBCASE("by D bits") { test(DirtyMethod::DirtyBit); }
}

TEST_CASE("F20 the log names what was written since it was fetched, and no page that was only read") {
  each_method([](DirtyMethod m) {
    Logged b(m);
    for (std::uint64_t i = 0; i < 10; ++i) b.access(i, true);  // writable before the log is on
    REQUIRE(b.mmu.start_dirty_log(b.slot, m).ok());
    for (std::uint64_t i = 0; i < 20; ++i) b.access(i, false);
    CHECK(b.fetch().empty());
    b.access(3, true);
    b.access(15, true);
    b.access(30, true);
    CHECK(b.fetch() == Gfns{303, 315, 330});
    CHECK(b.fetch().empty());
    b.access(15, true);
    b.access(15, true);
    CHECK(b.fetch() == Gfns{315});
    CHECK(test::unsound(b.mmu) == "");
  });
}
TEST_CASE("F20 under write protection only the first write to a page faults; by D bits none that is mapped does") {
  Logged w(DirtyMethod::WriteProtect);
  Logged d(DirtyMethod::DirtyBit);
  for (Logged* b : {&w, &d}) {
    for (std::uint64_t i = 0; i < 40; ++i) b->access(i, true);
    REQUIRE(b->mmu.start_dirty_log(b->slot, b->method).ok());
    b->exits = 0;
    for (int n = 0; n < 3; ++n)
      for (std::uint64_t i = 0; i < 40; ++i) b->access(i, true);
    CHECK(b->fetch().size() == 40);
  }
  CHECK(w.exits == 40);
  CHECK(d.exits == 0);
}
TEST_CASE("F20 reading leaves the log as it is; clearing takes 64 gfns by mask") {
  each_method([](DirtyMethod m) {
    Logged b(m);
    REQUIRE(b.mmu.start_dirty_log(b.slot, m).ok());
    for (std::uint64_t i = 0; i < 40; ++i) b.access(i, true);
    std::vector<std::uint64_t> words(16);
    REQUIRE(b.mmu.read_dirty_log(b.slot, 0, 16, words.data()).ok());
    CHECK(Logged::names(words).size() == 40);
    // 320 is bit 0 of word 5.
    REQUIRE(b.mmu.clear_dirty_log(b.slot, 5, 0x3).ok());
    REQUIRE(b.mmu.read_dirty_log(b.slot, 5, 1, words.data() + 5).ok());
    CHECK(Logged::names(words).size() == 38);
    b.access(20, true);
    REQUIRE(b.mmu.read_dirty_log(b.slot, 5, 1, words.data() + 5).ok());
    CHECK(Logged::names(words).size() == 39);
    CHECK(b.mmu.read_dirty_log(b.slot, 16, 1, words.data()).error() == Error::BadRange);
    CHECK(b.mmu.read_dirty_log(b.slot, 1, ~std::uint64_t{0}, words.data()).error() == Error::BadRange);
    CHECK(b.mmu.clear_dirty_log(b.slot, 16, 1).error() == Error::BadRange);
  });
}
TEST_CASE("F20 an entry that goes with D set is in the log, and the Host hears of it") {
  each_method([](DirtyMethod m) {
    Logged b(m);
    REQUIRE(b.mmu.start_dirty_log(b.slot, m).ok());
    b.access(5, false);
    b.access(5, true);
    b.host.told.clear();
    b.mmu.zap_all_fast();
    CHECK(b.host.told.count(305) == 1);
    b.access(6, true);
    b.mmu.shrink(100);
    b.access(7, true);
    b.mmu.unmap(Gfn{307});
    CHECK(b.fetch() == Gfns{305, 306, 307});
    CHECK(b.host.told.count(307) == 1);
    CHECK(b.host.told.count(308) == 0);
  });
}
TEST_CASE("F20 the Host hears of a written page also where no log is on, and of no clean one") {
  Logged b(DirtyMethod::Off);
  b.access(1, true);
  b.access(2, false);
  b.mmu.unmap(Gfn{300}, 40);
  CHECK(b.host.told == std::set<std::uint64_t>{301});
}
TEST_CASE("F18 and F20: what the walk, the emulator and hardware's buffer write is logged") {
  Logged b(DirtyMethod::WriteProtect);
  const std::uint64_t table = b.leaf_table(1, Logged::at(0));
  b.table(table)[0] &= ~std::uint64_t{0x60};
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  b.access(0, true);
  std::vector<std::uint64_t> words(16);
  REQUIRE(b.mmu.fetch_dirty_log(b.slot, 0, 16, words.data()).ok());
  CHECK((words[table / 64] >> (table % 64) & 1) == 1);  // A and D of its entries
  b.mmu.guest_wrote(Gpa{(800 << 12) + 4090}, 12);
  const std::uint64_t buffer[] = {900 << 12, (901 << 12) + 8, std::uint64_t{5000} << 12};
  b.mmu.drain_dirty_buffer(buffer, 3);
  CHECK(b.fetch() == Gfns{800, 801, 900, 901});
}
TEST_CASE("the log's life: twice on, off when off, no slot, moved while on; frames come back") {
  Logged b(DirtyMethod::WriteProtect);
  const std::uint64_t frames = b.host.frames_used();
  std::uint64_t word = 0;
  CHECK(b.mmu.stop_dirty_log(b.slot).error() == Error::LogInactive);
  CHECK(b.mmu.fetch_dirty_log(b.slot, 0, 1, &word).error() == Error::LogInactive);
  CHECK(b.mmu.start_dirty_log(b.slot, DirtyMethod::Off).ok());  // a log of no kind is none
  CHECK(b.mmu.stop_dirty_log(b.slot).error() == Error::LogInactive);
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  CHECK(b.host.frames_used() == frames + 2);
  CHECK(b.mmu.start_dirty_log(b.slot).error() == Error::LogActive);
  CHECK(b.mmu.move_slot(b.slot, Gfn{4096}).error() == Error::LogActive);
  CHECK(b.mmu.start_dirty_log(SlotId{9}).error() == Error::NoSuchSlot);
  REQUIRE(b.mmu.stop_dirty_log(b.slot).ok());
  CHECK(b.host.frames_used() == frames);
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  REQUIRE(b.mmu.remove_slot(b.slot).ok());  // takes its log with it
  CHECK(test::unsound(b.mmu) == "");
}

/// A guest page of 2 MiB over a host page of 2 MiB.
struct Large : Logged {
  Large() : Logged(DirtyMethod::Off) { host.use_large_pages(3); }
  std::uint64_t base = 0x4000'0000;
  void map_large() {
    std::uint64_t t = 1;
    for (unsigned l = 4; l >= 3; --l) {
      std::uint64_t& e = table(t)[Level{l}.index(base)];
      if (e == 0) e = next++ << 12 | kPage;
      t = e >> 12 & 0xffff'ffff;
    }
    table(t)[Level{2}.index(base)] = 512 << 12 | kPage | 0x80;
  }
};
TEST_CASE("F15 a log splits large mappings as they are written; when it ends they come back") {
  each_method([](DirtyMethod m) {
    Large b;
    b.map_large();
    REQUIRE(write_fault(*b.v, b.base).kind == Kind::Resume);
    REQUIRE(b.v->lookup(Gva{b.base}).level == Level{2});
    b.host.told.clear();
    REQUIRE(b.mmu.start_dirty_log(b.slot, m).ok());
    CHECK(b.host.told.size() == 512);  // D of the large entry went
    CHECK(b.v->lookup(Gva{b.base}).present);
    CHECK_FALSE(b.v->lookup(Gva{b.base}).rights.write());
    REQUIRE(write_fault(*b.v, b.base + 0x5000, true).kind == Kind::Resume);
    CHECK(b.v->lookup(Gva{b.base + 0x5000}).level == Level{1});
    CHECK(b.fetch() == Gfns{517});
    REQUIRE(b.mmu.stop_dirty_log(b.slot).ok());
    CHECK_FALSE(b.v->lookup(Gva{b.base + 0x5000}).present);
    REQUIRE(write_fault(*b.v, b.base + 0x5000).kind == Kind::Resume);
    CHECK(b.v->lookup(Gva{b.base + 0x5000}).level == Level{2});
    CHECK(test::unsound(b.mmu) == "");
  });
}
TEST_CASE("F31 an eager split maps the same by 4 KiB entries, filled before they are linked") {
  Large b;
  b.map_large();
  REQUIRE(write_fault(*b.v, b.base).kind == Kind::Resume);
  REQUIRE(b.mmu.start_dirty_log(b.slot).ok());
  REQUIRE(b.mmu.split_large_pages(b.slot).ok());
  CHECK(b.mmu.stats().splits == 1);
  for (std::uint64_t i = 0; i < 512; ++i) {
    const EntryInfo e = b.v->lookup(Gva{b.base + (i << 12)});
    CHECK(e.level == Level{1});
    CHECK(e.pfn == b.host.backing(Gfn{512 + i}, false).pfn);
    CHECK_FALSE(e.rights.write());
  }
  // The fault finds the very child that the split made: one entry changes, no page is created.
  const std::uint64_t pages = b.mmu.stats().pages_created;
  REQUIRE(write_fault(*b.v, b.base + 0x7000, true).kind == Kind::Resume);
  CHECK(b.mmu.stats().pages_created == pages);
  CHECK(b.v->lookup(Gva{b.base + 0x8000}).present);
  CHECK(b.fetch() == Gfns{519});
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("F31 an eager split evicts nobody and says when room ends") {
  Large b;
  b.map_large();
  REQUIRE(write_fault(*b.v, b.base).kind == Kind::Resume);
  const std::uint32_t limit = b.mmu.set_limit(1);
  for (std::uint64_t i = 0; i < 24; ++i) b.map(1, 0x8000'0000 + (i << 30), 300 + i);
  for (std::uint64_t i = 0; i < 21; ++i) {
    // The large page is used before the last pages are made: no policy has evicted anything until then.
    if (i == 20) REQUIRE(write_fault(*b.v, b.base).kind == Kind::Resume);
    REQUIRE(write_fault(*b.v, 0x8000'0000 + (i << 30)).kind == Kind::Resume);
  }
  const Counters before = b.mmu.stats();
  CHECK(before.pages_used >= limit - 5);
  CHECK(before.pages_recycled == 0);
  CHECK(b.mmu.split_large_pages(b.slot).error() == Error::OutOfMemory);
  CHECK(b.mmu.stats().pages_recycled == before.pages_recycled);
  CHECK(b.v->lookup(Gva{b.base}).level == Level{2});
  CHECK(b.mmu.split_large_pages(SlotId{8}).error() == Error::NoSuchSlot);
}
TEST_CASE("F31 code in a large page gets 4 KiB entries, data none that executes; both recover") {
  TestHost host(1024, 4096);
  host.use_large_pages(3);
  Mmu::Caps caps;
  caps.nx_huge = true;
  Mmu mmu(host, caps);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  Mmu::Vcpu v(mmu);  // paging is off: gpa = gva, 2 MiB where the Host has it
  REQUIRE(v.enter() == EnterOutcome::Enter);
  const Gva code{0x20'3000}, data{0x20'9000};
  REQUIRE(v.handle_fault(data, pferr::kWrite).kind == Kind::Resume);
  CHECK(v.lookup(data).level == Level{2});
  CHECK_FALSE(v.lookup(code).rights.exec());
  REQUIRE(v.handle_fault(code, pferr::kFetch | pferr::kPresent).kind == Kind::Resume);
  CHECK(v.lookup(code).level == Level{1});
  CHECK(v.lookup(code).rights.exec());
  CHECK_FALSE(v.lookup(data).present);
  REQUIRE(v.handle_fault(data, pferr::kWrite).kind == Kind::Resume);
  CHECK(v.lookup(data).level == Level{1});  // no going back and forth
  CHECK(v.lookup(code).present);
  for (std::uint64_t g = 512; g < 1024; ++g) REQUIRE(v.handle_fault(Gva{g << 12}, pferr::kWrite).kind == Kind::Resume);
  CHECK(mmu.recover_exec_splits(0) == 0);
  CHECK(mmu.recover_exec_splits(5) == 1);
  for (std::uint64_t g = 512; g < 1024; ++g) CHECK_FALSE(v.lookup(Gva{g << 12}).present);
  CHECK(mmu.recover_exec_splits(5) == 0);
  CHECK_FALSE(v.lookup(code).present);
  REQUIRE(v.handle_fault(data, pferr::kWrite).kind == Kind::Resume);
  CHECK(v.lookup(data).level == Level{2});
  CHECK(test::unsound(mmu) == "");
}
TEST_CASE(
    "F19 a page is young since it was used, old once cleared; the test leaves it as it is, and nothing is flushed") {
  Logged b(DirtyMethod::Off);
  b.access(0, false);
  b.access(1, true);
  const std::uint64_t flushes = b.mmu.stats().flushes;
  CHECK(b.mmu.test_young(Gfn{300}, 1));
  CHECK(b.mmu.test_young(Gfn{300}, 1));
  CHECK_FALSE(b.mmu.test_young(Gfn{302}, 38));
  CHECK(b.mmu.clear_young(Gfn{300}, 1));
  CHECK_FALSE(b.mmu.test_young(Gfn{300}, 1));
  CHECK(b.mmu.test_young(Gfn{300}, 2));
  CHECK(b.mmu.stats().flushes == flushes);
  b.v->flush();
  b.access(0, false);
  CHECK(b.mmu.test_young(Gfn{300}, 1));
  CHECK_FALSE(b.mmu.test_young(Gfn{~std::uint64_t{0} - 5}, 3));
  CHECK(b.mmu.clear_young(Gfn{0}, ~std::uint64_t{0}));
  CHECK_FALSE(b.mmu.test_young(Gfn{0}, ~std::uint64_t{0}));
}
TEST_CASE("F30 one commit is one flush: of structures under shadow paging") {
  Logged b(DirtyMethod::Off);
  for (std::uint64_t i = 0; i < 40; ++i) b.access(i, true);
  const std::uint64_t before = b.mmu.stats().flushes;
  b.mmu.unmap(Gfn{300}, 40);
  CHECK(b.mmu.stats().flushes == before + 1);
  b.mmu.unmap(Gfn{300}, 40);
  CHECK(b.mmu.stats().flushes == before + 1);  // nothing went, nothing is flushed
}

/// Hears a flush before the CPU does.
struct BeforeFlush : host::FlushListener {
  explicit BeforeFlush(TestHost& h) : host(h) { host.listen(*this); }
  ~BeforeFlush() override { host.unlisten(*this); }
  void on_flush(const FlushRequest&) noexcept override {
    if (auto f = std::exchange(then, nullptr)) f();
  }
  TestHost& host;
  std::function<void()> then;
};
TEST_CASE("a new log flushes what an earlier log's reader has protected and still owes the flush for") {
  using Direct = ShadowMmu<arch::Ept, lock::Readers<lock::Spin>, test::AnyPolicy, TestHost>;
  for (const DirtyMethod second : {DirtyMethod::WriteProtect, DirtyMethod::DirtyBit}) {
    TestHost host(1024, 4096);
    arch::Ept::Caps caps;
    caps.host_address_bits = 46;
    Direct mmu(host, caps);
    const SlotId slot = mmu.add_slot(Gfn{0}, 1024).value();
    Direct::Vcpu v(mmu);
    BeforeFlush hook(host);
    sim::CpuConfig c;
    c.ept = true;
    TestCpu cpu(host, v.id(), c);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    REQUIRE(cpu.cpu.load(v.hw_state()) == sim::LoadOutcome::Ok);
    REQUIRE(mmu.start_dirty_log(slot, DirtyMethod::WriteProtect).ok());
    const AccessRequest write{true, false, false};
    REQUIRE(v.handle_fault(Gva{5 << 12}, pferr::kWrite).kind == Kind::Resume);
    REQUIRE(cpu.cpu.access(5 << 12, write).ok());
    Direct::Reader reader(mmu);
    bool restarted = false;
    bool written = false;
    hook.then = [&] {
      // The reader is between its section and its flush; another thread restarts the log, and the guest writes.
      std::thread other([&] { restarted = mmu.stop_dirty_log(slot).ok() && mmu.start_dirty_log(slot, second).ok(); });
      other.join();
      written = cpu.cpu.access(5 << 12, write).ok();
    };
    std::uint64_t word = 0;
    REQUIRE(reader.fetch_dirty_log(slot, 0, 1, &word).ok());
    CHECK(word == std::uint64_t{1} << 5);
    REQUIRE(restarted);
    REQUIRE(mmu.fetch_dirty_log(slot, 0, 1, &word).ok());
    CHECK((!written || (word >> 5 & 1) != 0));
  }
}
}  // namespace
