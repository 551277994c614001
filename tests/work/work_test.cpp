// SPDX-License-Identifier: BSL-1.0
#include <cstdlib>
#include <vector>

#include "core/world.hpp"
#include "support/ledger.hpp"
#include "work/work_readers_rows.hpp"
#include "work/work_rows.hpp"

/// What each operation costs, counted rather than timed: accesses of shared cells and guest entries, holds of a lock,
/// and what is asked of the Host. A change that only makes the library slower (a path that is remembered but never
/// used, a flush too many, a walk that begins at the root) breaks no rule; here it is seen. A change that means to
/// change a figure writes all of them anew and says why:
///
///     SHADOWMMU_WORK_ROWS=tests/work build/gcc/tests/test_work
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

/// A Bench that writes down what an operation costs.
template <class M>
struct Counted : Bench<M, CountingHost> {
  Counted(Ledger& l, typename M::Caps caps) : Bench<M, CountingHost>(caps), ledger(l) {}
  [[nodiscard]] Work now() {
    const auto& h = this->host;
    return {CountingMemory::accesses, WorkLock::taken, h.guest_pages_asked, h.backings, h.frames_taken,
            h.frames_given,           h.whole_flushes, h.pages_flushed,     h.kicks};
  }
  template <class F>
  void counts(const std::string& operation, F&& f) {
    const Work before = now();
    f();
    ledger.add(operation, now() - before);
    INFO(operation);
    CHECK(test::unsound(this->mmu) == "");
  }
  Ledger& ledger;
  SlotId slot{};
  std::vector<std::unique_ptr<typename M::Vcpu>> v;
};

/// One guest: data pages 256 and up; 16 leaf tables of 16 pages each at kData, dense in the first 8 of each.
template <class M>
struct Machine : Counted<M> {
  using Base = Counted<M>;
  using Base::host, Base::mmu, Base::map, Base::leaf_table, Base::table, Base::slot, Base::v;
  static constexpr std::uint64_t kData = 0x4000'0000, kAlias = 0x7f00'0000'0000, kDevice = 0x5000'0000'0000,
                                 kLarge = std::uint64_t{1} << 39;
  explicit Machine(Ledger& l, typename M::Caps caps = {}, bool large = false) : Base(l, caps) {
    if (large) host.use_large_pages(7);
    slot = mmu.add_slot(Gfn{0}, 1024).value();
    for (std::uint64_t n = 0; n < 16; ++n)
      for (std::uint64_t i = 0; i < 16; ++i) map(1, at(n, i), 256 + n * 16 + i);
    for (std::uint64_t n = 0; n < 16; ++n) map(1, kAlias + (n << 12), leaf_table(1, at(n, 0)));
    map(1, kAlias + (20 << 12), leaf_table(1, at(0, 0)) - 1);  // the directory of all
    map(1, kDevice, 5000);
    map(1, kDevice + 0x1000, 5001);
    for (std::uint64_t r = 0; r < 20; ++r) table(200 + r)[0] = table(1)[0];
    // A guest of 32 bits with and without PAE.
    for (std::uint64_t i = 0; i < 4; ++i) table(230)[i] = (231 + i) << 12 | 1;
    table(231)[0] = 240 << 12 | kPage;
    for (std::uint64_t i = 0; i < 64; ++i) table(240)[i] = (400 + i) << 12 | kPage;
    auto* narrow = reinterpret_cast<std::uint32_t*>(table(241));
    narrow[0] = 242 << 12 | 0x67;
    narrow[1] = 0xe7;
    auto* leaf = reinterpret_cast<std::uint32_t*>(table(242));
    for (std::uint32_t i = 0; i < 64; ++i) leaf[i] = (500 + i) << 12 | 0x67;
    for (std::uint32_t n = 0; n < 2; ++n) {
      v.push_back(std::make_unique<typename M::Vcpu>(mmu, VcpuId{n}));
      run_long(*v[n], 1);
    }
  }
  static std::uint64_t at(std::uint64_t n, std::uint64_t i) { return kData + (n << 21) + ((i < 8 ? i : i * 8) << 12); }
  void read(std::uint64_t a, unsigned n = 0, Kind kind = Kind::Resume) {
    REQUIRE(v[n]->enter() == EnterOutcome::Enter);
    REQUIRE(read_fault(*v[n], a).kind == kind);
  }
  void write(std::uint64_t a, unsigned n = 0, Kind kind = Kind::Resume, bool present = false) {
    REQUIRE(v[n]->enter() == EnterOutcome::Enter);
    REQUIRE(write_fault(*v[n], a, present).kind == kind);
  }
  void load(std::uint64_t root, unsigned n = 0) {
    REQUIRE(v[n]->set_cr3(root << 12) == ControlOutcome::Done);
    REQUIRE(v[n]->enter() == EnterOutcome::Enter);
  }
  void control(const Controls& c, unsigned n = 0) {
    REQUIRE(v[n]->set_control(c) == ControlOutcome::Done);
    REQUIRE(v[n]->enter() == EnterOutcome::Enter);
  }
  /// Effects: the guest maps frames 512 to 1023 by a large page at kLarge, and again beside it.
  void map_large() {
    table(1)[1] = 190 << 12 | kPage;
    table(190)[0] = 191 << 12 | kPage;
    table(191)[0] = table(191)[1] = 512 << 12 | 0xe7;
  }
  void fill() {
    for (std::uint64_t t = 0; t < 16; ++t)
      for (std::uint64_t i = 0; i < 16; ++i)
        if (!v[0]->lookup(Gva{at(t, i)}).rights.write()) write(at(t, i));
  }
};

template <class M>
void faults(Ledger& l) {
  Machine<M> m(l);
  m.counts("the first fault of an address space", [&] { m.read(Machine<M>::at(0, 8)); });
  m.counts("a fault beside it", [&] { m.read(Machine<M>::at(0, 9)); });
  m.counts("a fault whose leaf table is to be made", [&] { m.read(Machine<M>::at(1, 8)); });
  m.counts("the same, by a write", [&] { m.write(Machine<M>::at(2, 8)); });
  m.counts("a fault in another leaf table that is there", [&] { m.read(Machine<M>::at(0, 10)); });
  m.counts("a spurious fault", [&] { m.read(Machine<M>::at(0, 10)); });
  m.counts("a spurious write", [&] { m.write(Machine<M>::at(2, 8)); });
  m.counts("a fault that brings its neighbours", [&] { m.read(Machine<M>::at(0, 3)); });
  m.counts("a neighbour's own fault", [&] { m.read(Machine<M>::at(0, 4)); });
  m.counts("the first write to a page that was read", [&] { m.write(Machine<M>::at(0, 9), 0, Kind::Resume, true); });
  m.table(m.leaf_table(1, Machine<M>::at(3, 0)))[64] = (256 + 3 * 16 + 8) << 12 | 0x07;  // A and D clear
  m.counts("a read where A is clear", [&] { m.read(Machine<M>::at(3, 8)); });
  m.counts("a write where D is clear", [&] { m.write(Machine<M>::at(3, 8)); });
  m.counts("a fault that is the guest's", [&] { m.read(0x6000'0000'0000, 0, Kind::InjectPageFault); });
  m.counts("another vCPU's fault on a page that is there", [&] { m.read(Machine<M>::at(0, 9), 1); });
  m.counts("another vCPU's fault in a table that is there", [&] { m.read(Machine<M>::at(0, 12), 1); });
  m.counts("a fault while an invalidation is in progress", [&] {
    m.mmu.invalidate_begin(Gfn{256}, 1);
    m.read(Machine<M>::at(0, 0), 0, Kind::Retry);
    m.mmu.invalidate_end();
  });
  m.counts("a fault where there is no memory", [&] { m.read(Machine<M>::kDevice, 0, Kind::Mmio); });
  m.counts("the same again", [&] { m.read(Machine<M>::kDevice, 0, Kind::Mmio); });
  m.counts("the same by another vCPU", [&] { m.read(Machine<M>::kDevice, 1, Kind::Mmio); });
  m.counts("the page beside it", [&] { m.read(Machine<M>::kDevice + 0x1000, 0, Kind::Mmio); });
  m.counts("an MMIO entry that is met again", [&] { m.read(Machine<M>::kDevice, 0, Kind::Mmio); });
  m.counts("MMIO entries made invalid", [&] { m.mmu.invalidate_mmio(); });
  m.counts("a stale MMIO entry", [&] { m.read(Machine<M>::kDevice, 0, Kind::Mmio); });
  m.counts("a translation for the emulator", [&] {
    REQUIRE(m.v[0]->translate(Gva{Machine<M>::at(5, 5)}, {false, false, true}, {3, false}).ok());
  });
  m.counts("a look at the shadow tables", [&] { REQUIRE(m.v[0]->lookup(Gva{Machine<M>::at(0, 9)}).present); });
  m.host.set_read_only(Gfn{256 + 5 * 16}, true);
  m.counts("a write to what the Host holds read-only", [&] { m.write(Machine<M>::at(5, 0), 0, Kind::Mmio); });
  for (std::uint64_t n = 6; n < 16; ++n) m.read(Machine<M>::at(n, 8));
  for (Work before{}, after{};;) {
    before = m.now();
    m.mmu.invalidate_mmio();
    after = m.now();
    if (m.mmu.stats().mmio_wraps == 0) continue;
    l.add("generations of MMIO entries come round", after - before);
    break;
  }
  for (std::uint64_t n = 0; n < 16; ++n) m.read(Machine<M>::at(n, 8));
  m.counts("the vCPUs end", [&] { m.v.clear(); });
  m.counts("the VM ends", [&] { m.mmu.release(); });
}

template <class M>
void tables(Ledger& l) {
  Machine<M> m(l);
  m.fill();
  const std::uint64_t leaf = m.leaf_table(1, Machine<M>::at(0, 0)), upper = leaf - 1;
  m.counts("a write to a leaf table: it goes unsync", [&] { m.write(Machine<M>::kAlias); });
  m.counts("a write to it by the other vCPU", [&] { m.write(Machine<M>::kAlias, 1); });
  m.table(leaf)[3] = 300 << 12 | kPage;
  m.counts("INVLPG of an entry that changed", [&] { m.v[0]->invlpg(Gva{Machine<M>::at(0, 3)}); });
  m.counts("the fault after INVLPG", [&] { m.read(Machine<M>::at(0, 3)); });
  m.counts("INVLPG of an entry that did not change", [&] { m.v[0]->invlpg(Gva{Machine<M>::at(0, 8)}); });
  m.counts("INVLPG where nothing is mapped", [&] { m.v[0]->invlpg(Gva{0x6000'0000'0000}); });
  m.table(leaf)[4] = 301 << 12 | kPage;
  m.counts("a CR3 load that syncs one table", [&] { m.load(1); });
  m.counts("a CR3 load with nothing to sync", [&] { m.load(1); });
  for (std::uint64_t n = 0; n < 8; ++n) m.write(Machine<M>::kAlias + (n << 12));
  m.table(leaf)[5] = 301 << 12 | 0x61;
  m.counts("a CR3 load that syncs eight", [&] { m.load(1); });
  m.counts("a write to a directory", [&] { m.write(Machine<M>::kAlias + (20 << 12), 0, Kind::Emulate); });
  m.counts("the emulator's write of a leaf table's entry", [&] {
    m.table(leaf)[6] = 302 << 12 | kPage;
    m.mmu.guest_wrote(Gpa{(leaf << 12) + 48}, 8);
  });
  m.counts("the emulator's write of half an entry", [&] { m.mmu.guest_wrote(Gpa{(leaf << 12) + 44}, 4); });
  m.counts("the emulator's write of a directory's entry", [&] {
    m.table(upper)[1] = 0;
    m.mmu.guest_wrote(Gpa{(upper << 12) + 8}, 8);
  });
  m.counts("another, and the directory floods", [&] {
    for (unsigned i = 2; i < 6; ++i) m.mmu.guest_wrote(Gpa{(upper << 12) + i * 8}, 8);
  });
  m.counts("the fault after the flood", [&] { m.read(Machine<M>::at(7, 9)); });
  m.counts("a device's write over two pages of data", [&] { m.mmu.guest_wrote(Gpa{(600 << 12) + 8}, 8000); });
  m.counts("a device's write over all memory", [&] { m.mmu.guest_wrote(Gpa{0}, 1024 << 12); });
  m.counts("the guest flushes all", [&] { m.v[0]->flush(); });
  const FaultOutcome o = write_fault(*m.v[0], Machine<M>::kAlias + (20 << 12));
  REQUIRE(o.kind == Kind::Emulate);
  m.counts("a write window opened and closed", [&] {
    REQUIRE(m.v[0]->begin_write_window(o).ok());
    m.table(upper)[8] = 0;
    m.v[0]->end_write_windows();
  });
}

template <class M>
void roots(Ledger& l) {
  Machine<M> m(l, {.pcid = true});
  m.read(Machine<M>::at(0, 8));
  m.counts("a CR3 load of a new root", [&] { m.load(200); });
  m.counts("a CR3 load of a root that is remembered", [&] { m.load(1); });
  for (std::uint64_t r = 0; r < 16; ++r) m.load(200 + r);
  m.counts("a CR3 load of a root that is there", [&] { m.load(1); });
  m.counts("the other vCPU loads it", [&] { m.load(205, 1); });
  m.counts("a CR3 load of a root without memory", [&] { m.load(4000); });
  m.counts("a fault below it", [&] { m.read(Machine<M>::at(0, 8), 0, Kind::InjectPageFault); });
  m.load(1);
  Controls c = kLongMode;
  c.cr0 &= ~cr0::kWp;
  m.counts("CR0.WP goes", [&] { m.control(c); });
  m.counts("the fault after CR0.WP went", [&] { m.read(Machine<M>::at(0, 8)); });
  m.counts("CR0.WP comes", [&] { m.control(kLongMode); });
  c = kLongMode;
  c.cr4 |= cr4::kSmep;
  m.counts("CR4.SMEP comes", [&] { m.control(c); });
  c.cr4 |= cr4::kPcide;
  m.counts("CR4.PCIDE comes", [&] { m.control(c); });
  m.counts("a CR3 load of another PCID", [&] {
    REQUIRE(m.v[0]->set_cr3(201 << 12 | 3) == ControlOutcome::Done);
    REQUIRE(m.v[0]->enter() == EnterOutcome::Enter);
  });
  m.counts("a CR3 load of a PCID that keeps", [&] {
    REQUIRE(m.v[0]->set_cr3(201 << 12 | 3 | std::uint64_t{1} << 63) == ControlOutcome::Done);
    REQUIRE(m.v[0]->enter() == EnterOutcome::Enter);
  });
  m.load(1);
  Controls off = c;
  off.efer &= ~efer::kNxe;
  m.counts("EFER.NXE goes", [&] { m.control(off); });
  m.control(Controls{});
  m.counts("a fault without paging", [&] { m.read(300 << 12); });
  m.counts("a write beside it", [&] { m.write(301 << 12); });
  REQUIRE(m.v[0]->set_cr3(230 << 12) == ControlOutcome::Done);
  m.counts("PAE paging comes", [&] { m.control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kNxe}); });
  m.counts("a fault under PAE", [&] { m.read(0x9000); });
  m.counts("a fault under PAE beside it", [&] { m.read(0x2'0000); });
  m.control(Controls{});
  REQUIRE(m.v[0]->set_cr3(241 << 12) == ControlOutcome::Done);
  m.counts("two-level paging comes", [&] { m.control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPse, 0}); });
  m.counts("a fault of two levels", [&] { m.read(0x9000); });
  m.counts("a fault in a page of 4 MiB", [&] { m.write(0x40'0000); });
  m.counts("a fault beside it that is there for the asking", [&] { m.write(0x42'0000); });
}

template <class M>
void ranges(Ledger& l) {
  Machine<M> m(l);
  m.fill();
  m.load(200, 1);
  m.read(Machine<M>::at(4, 4), 1);
  m.counts("a page's use asked for", [&] { REQUIRE(m.mmu.test_young(Gfn{300}, 1)); });
  m.counts("a page aged", [&] { REQUIRE(m.mmu.clear_young(Gfn{300}, 1)); });
  m.counts("all pages aged", [&] { REQUIRE(m.mmu.clear_young(Gfn{0}, 1024)); });
  m.counts("a page taken back", [&] { m.mmu.unmap(Gfn{300}); });
  m.counts("a page taken back that nobody maps", [&] { m.mmu.unmap(Gfn{300}); });
  m.counts("64 pages taken back", [&] { m.mmu.unmap(Gfn{320}, 64); });
  m.counts("a guest table's frame taken back", [&] { m.mmu.unmap(Gfn{m.leaf_table(1, Machine<M>::at(9, 0))}); });
  m.counts("all taken back", [&] { m.mmu.unmap(Gfn{0}, 1024); });
  m.fill();
  m.counts("a slot zapped", [&] { REQUIRE(m.mmu.zap_slot(m.slot).ok()); });
  m.load(1);
  m.fill();
  SlotId second{};
  m.counts("a slot added", [&] { second = m.mmu.add_slot(Gfn{4096}, 512).value(); });
  m.counts("a slot moved", [&] { REQUIRE(m.mmu.move_slot(second, Gfn{8192}).ok()); });
  m.counts("a slot made larger", [&] { REQUIRE(m.mmu.resize_slot(second, Gfn{8192}, 1024).ok()); });
  m.counts("a slot made read-only", [&] { REQUIRE(m.mmu.set_slot_flags(second, SlotFlags{true}).ok()); });
  m.counts("a slot removed", [&] { REQUIRE(m.mmu.remove_slot(second).ok()); });
  m.load(1);
  m.fill();
  m.counts("everything zapped", [&] { m.mmu.zap_all_fast(); });
  m.load(1);
  m.fill();
  m.counts("everything obsolete", [&] { m.mmu.obsolete_all(); });
  m.counts("five obsolete pages freed", [&] { REQUIRE(m.mmu.reclaim_obsolete(5) == 5); });
  m.counts("a fault beside obsolete pages", [&] { m.read(Machine<M>::at(3, 9)); });
  m.counts("the others freed", [&] { REQUIRE(m.mmu.reclaim_obsolete(1000) > 5); });
  m.fill();
  m.counts("four pages evicted", [&] { REQUIRE(m.mmu.shrink(4) == 4); });
  m.counts("a limit set", [&] { m.mmu.set_limit(1); });
  m.counts("a round of all pages within the limit", [&] {
    for (std::uint64_t t = 0; t < 16; ++t) m.write(Machine<M>::at(t, 8));
  });
}

template <class M>
void logs(Ledger& l, DirtyMethod method, bool large) {
  Machine<M> m(l, {}, large);
  if (large) {
    m.map_large();
    m.write(Machine<M>::kLarge);
    REQUIRE(m.v[0]->lookup(Gva{Machine<M>::kLarge}).level == Level{2});
  }
  m.fill();
  std::vector<std::uint64_t> words(M::dirty_log_words(1024));
  const std::string how =
      std::string(large ? ", large pages" : "") + (method == DirtyMethod::DirtyBit ? ", by D bits" : "");
  const auto counts = [&](const char* what, auto&& f) { m.counts(what + how, f); };
  counts("a log started", [&] { REQUIRE(m.mmu.start_dirty_log(m.slot, method).ok()); });
  counts("a write that is logged", [&] { m.write(Machine<M>::at(4, 9), 0, Kind::Resume, true); });
  if (large) counts("a write that splits", [&] { m.write(Machine<M>::kLarge + 0x5000, 0, Kind::Resume, true); });
  counts("a write that is logged by the other vCPU", [&] { m.write(Machine<M>::at(5, 9), 1); });
  counts("a log fetched", [&] { REQUIRE(m.mmu.fetch_dirty_log(m.slot, 0, words.size(), words.data()).ok()); });
  m.write(Machine<M>::at(4, 9), 0, Kind::Resume, true);
  typename M::Reader reader(m.mmu);
  counts("a log read by a reader", [&] { REQUIRE(reader.read_dirty_log(m.slot, 0, words.size(), words.data()).ok()); });
  counts("a word of it cleared", [&] { REQUIRE(reader.clear_dirty_log(m.slot, 5, ~std::uint64_t{0}).ok()); });
  m.write(Machine<M>::at(6, 9), 0, Kind::Resume, true);
  counts("a log fetched by a reader",
         [&] { REQUIRE(reader.fetch_dirty_log(m.slot, 0, words.size(), words.data()).ok()); });
  const std::uint64_t logged[] = {300 << 12, 301 << 12, 302 << 12};
  counts("three addresses that hardware logged", [&] { m.mmu.drain_dirty_buffer(logged, 3); });
  counts("what is large split", [&] { REQUIRE(m.mmu.split_large_pages(m.slot).ok()); });
  counts("a log stopped", [&] { REQUIRE(m.mmu.stop_dirty_log(m.slot).ok()); });
  counts("a write after it", [&] { m.write(large ? Machine<M>::kLarge + 0x6000 : Machine<M>::at(7, 9)); });
}

template <class M>
void large(Ledger& l) {
  Machine<M> m(l, {.nx_huge = true}, true);
  m.map_large();
  constexpr std::uint64_t a = Machine<M>::kLarge;
  m.counts("a large page", [&] { m.read(a); });
  REQUIRE(m.v[0]->lookup(Gva{a}).level == Level{2});
  m.counts("a write in a large page", [&] { m.write(a + 0x5000); });
  m.counts("code in a large page", [&] {
    REQUIRE(m.v[0]->handle_fault(Gva{a + 0x7000}, pferr::kFetch | pferr::kUser, {3, false}).kind == Kind::Resume);
  });
  m.counts("data beside the code", [&] { m.write(a + 0x9000); });
  m.counts("the split undone", [&] { REQUIRE(m.mmu.recover_exec_splits(4) == 1); });
  m.counts("data after it", [&] { m.write(a + 0x9000); });
  m.counts("a large page taken back by one of its pages", [&] { m.mmu.unmap(Gfn{520}); });
  m.counts("the fault after a large page went", [&] { m.read(a + 0x20'3000); });
}

/// A small system's hour: two address spaces, pages that come and go, at the limit.
template <class M>
void mixed(Ledger& l, const std::string& policy) {
  Machine<M> m(l);
  constexpr std::uint64_t kMany = 110;  // leaf tables; a sixth more than the least limit
  for (std::uint64_t n = 16; n < kMany; ++n) m.map(1, Machine<M>::at(n, 8), 256 + n);
  m.mmu.set_limit(1);
  sim::Random rng(11);
  m.counts("3,000 steps at the least limit under " + policy, [&] {
    for (unsigned step = 0; step < 3000; ++step) {
      const std::uint64_t r = rng.next();
      const auto n = static_cast<unsigned>(r >> 8 & 1);
      const bool dense = (r >> 31 & 1) != 0;
      const std::uint64_t a = dense ? Machine<M>::at(r >> 16 & 15, r >> 20 & 15) : Machine<M>::at((r >> 32) % kMany, 8);
      switch (r % 16) {
        case 0:
          m.load((r >> 30 & 1) != 0 ? 1 : 200 + (r >> 24 & 15), n);
          break;
        case 1:
          m.mmu.unmap(Gfn{256 + (r >> 16 & 255)});
          break;
        case 2:
          m.v[n]->invlpg(Gva{a});
          break;
        case 3: {
          REQUIRE(m.v[n]->enter() == EnterOutcome::Enter);
          const std::uint64_t alias = Machine<M>::kAlias + (r >> 16 & 15) * 0x1000;
          if (!m.v[n]->lookup(Gva{alias}).rights.write()) static_cast<void>(write_fault(*m.v[n], alias));
          break;
        }
        case 4:
          if ((r >> 24 & 7) == 0) m.mmu.obsolete_all();
          break;
        case 5:
          m.mmu.clear_young(Gfn{256 + (r >> 16 & 255)}, r >> 24 & 63);
          break;
        default:
          REQUIRE(m.v[n]->enter() == EnterOutcome::Enter);
          if (!m.v[n]->lookup(Gva{a}).present) REQUIRE(write_fault(*m.v[n], a).kind == Kind::Resume);
      }
    }
  });
}

/// A direct map under a lock with readers: what they, and faults that take no lock, cost too.
template <class M>
struct DirectMachine : Counted<M> {
  using Base = Counted<M>;
  using Base::host, Base::mmu, Base::slot, Base::v;
  DirectMachine(Ledger& l, typename M::Caps caps, std::uint8_t large) : Base(l, caps) {
    if (large != 0) host.use_large_pages(large);
    slot = mmu.add_slot(Gfn{0}, 1024).value();
    for (std::uint32_t n = 0; n < 2; ++n) {
      v.push_back(std::make_unique<typename M::Vcpu>(mmu, VcpuId{n}));
      REQUIRE(v[n]->enter() == EnterOutcome::Enter);
    }
  }
  void touch(std::uint64_t gfn, bool write, unsigned n = 0, bool present = false) {
    REQUIRE(v[n]->enter() == EnterOutcome::Enter);
    const std::uint32_t code = (write ? pferr::kWrite : 0U) | (present ? pferr::kPresent : 0U);
    REQUIRE(v[n]->handle_fault(Gva{gfn << 12}, code, CpuMode{}).kind == Kind::Resume);
  }
};
template <class M>
void direct(Ledger& l, bool bits, bool large) {
  DirectMachine<M> m(l, {.accessed_dirty = bits}, large ? 7 : 0);
  const std::string how = std::string("EPT") + (bits ? "" : " without A and D") + (large ? ", large pages: " : ": ");
  typename M::Reader reader(m.mmu);
  std::vector<std::uint64_t> words(M::dirty_log_words(1024));
  m.counts(how + "the first fault", [&] { m.touch(3, false); });
  m.counts(how + "a fault beside it", [&] { m.touch(4, true); });
  m.counts(how + "a fault of the other vCPU", [&] { m.touch(600, true, 1); });
  m.counts(how + "a spurious fault", [&] { m.touch(600, true, 0); });
  for (std::uint64_t g = 0; g < 512; g += 3) m.touch(g, true);
  m.counts(how + "a page's use asked for by a reader", [&] { REQUIRE(reader.test_young(Gfn{300}, 1)); });
  m.counts(how + "all pages aged", [&] { REQUIRE(m.mmu.clear_young(Gfn{0}, 1024)); });
  m.counts(how + "their use asked for by a reader", [&] { REQUIRE_FALSE(reader.test_young(Gfn{0}, 1024)); });
  if (!bits) m.counts(how + "an aged page used", [&] { m.touch(300, true); });
  m.counts(how + "a look by a reader", [&] { static_cast<void>(reader.lookup(*m.v[0], Gva{300 << 12})); });
  for (const DirtyMethod d : {DirtyMethod::WriteProtect, DirtyMethod::DirtyBit}) {
    const std::string by = how + (d == DirtyMethod::DirtyBit ? "by D bits, " : "");
    for (const std::uint64_t g : {303U, 600U}) m.touch(g, true);
    m.counts(by + "a log started", [&] { REQUIRE(m.mmu.start_dirty_log(m.slot, d).ok()); });
    m.counts(by + "a write that is logged", [&] { m.touch(303, true, 0, true); });
    m.counts(by + "a write beside it", [&] { m.touch(306, true, 0, true); });
    m.counts(by + "a log fetched by a reader",
             [&] { REQUIRE(reader.fetch_dirty_log(m.slot, 0, words.size(), words.data()).ok()); });
    m.counts(by + "the same write again", [&] { m.touch(303, true, 0, true); });
    m.counts(by + "a log read by a reader",
             [&] { REQUIRE(reader.read_dirty_log(m.slot, 0, words.size(), words.data()).ok()); });
    m.counts(by + "a word of it cleared by a reader",
             [&] { REQUIRE(reader.clear_dirty_log(m.slot, 4, ~std::uint64_t{0}).ok()); });
    m.touch(306, true, 0, true);
    m.counts(by + "a log fetched", [&] { REQUIRE(m.mmu.fetch_dirty_log(m.slot, 0, words.size(), words.data()).ok()); });
    if (large) {
      const std::uint64_t splits = m.mmu.stats().splits;
      m.counts(by + "what is large split", [&] { REQUIRE(m.mmu.split_large_pages(m.slot).ok()); });
      CHECK(m.mmu.stats().splits == splits + 1);
    }
    m.counts(by + "a log stopped", [&] { REQUIRE(m.mmu.stop_dirty_log(m.slot).ok()); });
  }
  for (std::uint64_t g = 0; g < 700; g += 3) m.touch(g, true);
  m.counts(how + "a page taken back", [&] { m.mmu.unmap(Gfn{300}); });
  m.counts(how + "64 pages taken back", [&] { m.mmu.unmap(Gfn{620}, 64); });
  m.counts(how + "pages evicted", [&] { static_cast<void>(m.mmu.shrink(2)); });
  m.counts(how + "everything obsolete", [&] { m.mmu.obsolete_all(); });
  m.counts(how + "a fault beside obsolete pages", [&] { m.touch(9, true); });
  m.counts(how + "obsolete pages freed", [&] { static_cast<void>(m.mmu.reclaim_obsolete(1000)); });
  m.counts(how + "the slot zapped", [&] { REQUIRE(m.mmu.zap_slot(m.slot).ok()); });
  m.counts(how + "the VM ends", [&] {
    m.v.clear();
    m.mmu.release();
  });
}

template <class M>
void all_tables(Ledger& l) {
  faults<M>(l);
  tables<M>(l);
  roots<M>(l);
  ranges<M>(l);
  for (const DirtyMethod d : {DirtyMethod::WriteProtect, DirtyMethod::DirtyBit})
    for (const bool pages : {false, true}) logs<M>(l, d, pages);
  large<M>(l);
}
TEST_CASE("work: what each operation costs is what the table says") {
  using Mmu = ShadowMmu<arch::X86_64, WorkLock, test::AnyPolicy, TestHost>;
  Ledger l(kWorkRows, "kWorkRows", "work_rows.hpp");
  all_tables<Mmu>(l);
  each_policy([&] { mixed<Mmu>(l, std::getenv("SHADOWMMU_TEST_POLICY")); });
  l.finish();
}
TEST_CASE("work: what each operation costs under a lock with readers, and of a direct map, is what the table says") {
  using Shadow = ShadowMmu<arch::X86_64, lock::Readers<WorkLock>, reclaim::Fifo, TestHost>;
  using Direct = ShadowMmu<arch::Ept, lock::Readers<WorkLock>, reclaim::Fifo, TestHost>;
  Ledger l(kReadersWorkRows, "kReadersWorkRows", "work_readers_rows.hpp");
  all_tables<Shadow>(l);
  mixed<Shadow>(l, "Fifo");
  for (const bool bits : {true, false})
    for (const bool large : {false, true}) direct<Direct>(l, bits, large);
  l.finish();
}
}  // namespace
