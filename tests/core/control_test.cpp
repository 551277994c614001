// SPDX-License-Identifier: BSL-1.0
#include <optional>

#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Checked<TestLock>, test::AnyPolicy, TestHost>;
constexpr std::uint64_t kAt = 0x40'0000;
constexpr std::uint64_t kReadOnly = kPage & ~2ULL;

struct Machine : Bench<Mmu> {
  explicit Machine(std::uint64_t flags = kPage, Mmu::Caps caps = {}) : Bench(caps) {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    map(1, kAt, 400, flags);
    vcpu = std::make_unique<Mmu::Vcpu>(mmu);
    run_long(*vcpu, 1);
  }
  ~Machine() { vcpu.reset(); }
  ControlOutcome control(std::uint64_t cr0_off, std::uint64_t cr4_on, std::uint64_t efer_off = 0) {
    Controls c = kLongMode;
    c.cr0 &= ~cr0_off;
    c.cr4 |= cr4_on;
    c.efer &= ~efer_off;
    const ControlOutcome o = vcpu->set_control(c);
    static_cast<void>(vcpu->enter());
    return o;
  }
  FaultOutcome fault(std::uint32_t code, CpuMode m = {}) { return vcpu->handle_fault(Gva{kAt}, code, m); }
  std::unique_ptr<Mmu::Vcpu> vcpu;
};

TEST_CASE(
    "INVLPG of a vCPU that has no root is a flush and nothing else: before the first entry, after a zap, in any mode") {
  Bench<Mmu> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, kAt, 400);
  Mmu::Vcpu v(b.mmu);
  v.invlpg(Gva{kAt});  // paging is off, and nothing was ever entered
  REQUIRE(v.enter() == EnterOutcome::Enter);
  v.invlpg(Gva{kAt});
  REQUIRE(v.set_control(kLongMode) == ControlOutcome::Done);
  v.invlpg(Gva{kAt});
  REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
  v.invlpg(Gva{kAt});
  REQUIRE(v.enter() == EnterOutcome::Enter);
  REQUIRE(write_fault(v, kAt).kind == Kind::Resume);
  b.mmu.obsolete_all();
  b.mmu.reclaim_obsolete(1000);
  v.invlpg(Gva{kAt});
  b.mmu.zap_all_fast();
  v.invlpg(Gva{kAt});
  CHECK(test::unsound(b.mmu) == "");
  REQUIRE(v.enter() == EnterOutcome::Enter);
  CHECK(write_fault(v, kAt).kind == Kind::Resume);
}
TEST_CASE("CR0.WP = 0: a supervisor's write to a read-only user page hides it from the user until he reads it") {
  Machine m(kReadOnly);
  REQUIRE(m.control(cr0::kWp, 0) == ControlOutcome::Done);
  REQUIRE(m.fault(pferr::kWrite).kind == Kind::Resume);
  Access r = m.vcpu->lookup(Gva{kAt}).rights;
  CHECK(r.write());
  CHECK_FALSE(r.user());
  CHECK(r.exec());
  REQUIRE(m.fault(pferr::kUser | pferr::kPresent, {3, false}).kind == Kind::Resume);
  r = m.vcpu->lookup(Gva{kAt}).rights;
  CHECK_FALSE(r.write());
  CHECK(r.user());
  CHECK(m.fault(pferr::kUser | pferr::kWrite | pferr::kPresent, {3, false}).error_code == 7);
  CHECK(test::unsound(m.mmu) == "");
}
TEST_CASE("CR0.WP = 0 with SMEP: the rewritten entry is not executable either") {
  Machine m(kReadOnly);
  REQUIRE(m.control(cr0::kWp, cr4::kSmep) == ControlOutcome::Done);
  REQUIRE(m.fault(pferr::kWrite).kind == Kind::Resume);
  CHECK_FALSE(m.vcpu->lookup(Gva{kAt}).rights.exec());
  const FaultOutcome o = m.fault(pferr::kFetch | pferr::kPresent);
  CHECK(o.kind == Kind::InjectPageFault);
  CHECK(o.error_code == (pferr::kFetch | pferr::kPresent));
}
TEST_CASE(
    "CR0.WP = 0 with SMAP: the write is the embedder's to carry out, through a window that leaves nothing behind") {
  Machine m(kReadOnly);
  REQUIRE(m.control(cr0::kWp, cr4::kSmap) == ControlOutcome::Done);
  CHECK(m.fault(pferr::kWrite).error_code == (pferr::kWrite | pferr::kPresent));  // AC clear: SMAP refuses
  const FaultOutcome o = m.fault(pferr::kWrite, {0, true});
  REQUIRE(o.kind == Kind::Emulate);
  CHECK(o.reason == EmulateReason::SupervisorWrite);
  REQUIRE(m.vcpu->begin_write_window(o).ok());
  CHECK(m.fault(pferr::kWrite, {0, true}).kind == Kind::Resume);
  CHECK(m.vcpu->lookup(Gva{kAt}).rights.write());
  m.vcpu->end_write_windows();
  CHECK_FALSE(m.vcpu->lookup(Gva{kAt}).present);
  CHECK(test::unsound(m.mmu) == "");
}
TEST_CASE("what hardware runs with") {
  Machine m;
  HwState h = m.vcpu->hw_state();
  CHECK((h.cr0 & (cr0::kPg | cr0::kWp)) == (cr0::kPg | cr0::kWp));
  CHECK((h.efer & (efer::kLma | efer::kLme | efer::kNxe)) == (efer::kLma | efer::kLme | efer::kNxe));
  REQUIRE(m.control(cr0::kWp, cr4::kSmep | cr4::kPge, efer::kNxe) == ControlOutcome::Done);
  h = m.vcpu->hw_state();
  CHECK((h.cr0 & cr0::kWp) != 0);
  CHECK((h.cr4 & cr4::kSmep) != 0);
  CHECK((h.efer & efer::kNxe) != 0);
  // Paging off: PAE tables all the same, SMEP and SMAP out of the way, long mode left.
  Controls c{cr0::kPe, cr4::kSmep | cr4::kSmap, efer::kLme};
  REQUIRE(m.vcpu->set_control(c) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  h = m.vcpu->hw_state();
  CHECK((h.cr0 & cr0::kPg) != 0);
  CHECK((h.cr4 & (cr4::kPae | cr4::kSmep | cr4::kSmap)) == cr4::kPae);
  CHECK((h.efer & (efer::kLma | efer::kLme)) == 0);
  CHECK(h.cr3 < (1ULL << 32));
  CHECK(h.cr3 % 32 == 0);
  CHECK(m.fault(pferr::kWrite).kind == Kind::Mmio);  // beyond the slot: gva = gpa
  CHECK(m.vcpu->handle_fault(Gva{0x5678}, pferr::kWrite).kind == Kind::Resume);
  CHECK(m.vcpu->lookup(Gva{0x5678}).pfn == m.host.backing(Gfn{5}, false).pfn);
  // Real mode: PE stays clear.
  c.cr0 = 0;
  REQUIRE(m.vcpu->set_control(c) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  CHECK((m.vcpu->hw_state().cr0 & (cr0::kPe | cr0::kPg)) == cr0::kPg);
}
TEST_CASE("control writes that hardware refuses change nothing") {
  Machine m;
  const Controls before = m.vcpu->controls();
  const auto refused = [&](Controls c) {
    CHECK(m.vcpu->set_control(c) == ControlOutcome::InjectGp);
    CHECK(m.vcpu->controls() == before);
  };
  refused({cr0::kPg, cr4::kPae, before.efer});                  // PG without PE
  refused({before.cr0, before.cr4 & ~cr4::kPae, before.efer});  // LMA without PAE
  refused({before.cr0, before.cr4 | cr4::kLa57, before.efer});
  refused({before.cr0, before.cr4 | cr4::kPke, before.efer});
  refused({before.cr0, before.cr4 | cr4::kPcide, before.efer});  // not a capability
  refused({before.cr0 & ~cr0::kPg, before.cr4, before.efer});    // LMA without PG
  CHECK(m.vcpu->set_cr3(1ULL << 52) == ControlOutcome::InjectGp);
  CHECK(m.vcpu->cr3() == 1 << 12);
}
TEST_CASE("PAE: reserved PDPTE bits refuse MOV to CR3; the registers keep what was loaded until the next one") {
  Machine m;
  const auto pdpt = [&](unsigned i) -> std::uint64_t& { return m.table(60)[i]; };
  m.table(61)[0] = 62 << 12 | kPage;
  m.table(62)[0] = 410 << 12 | kPage;
  m.table(63)[0] = 64 << 12 | kPage;
  m.table(64)[0] = 411 << 12 | kPage;
  pdpt(0) = 61 << 12 | 1;
  REQUIRE(m.vcpu->set_control({cr0::kPe | cr0::kWp, cr4::kPae, efer::kNxe}) == ControlOutcome::Done);
  REQUIRE(m.vcpu->set_cr3(60 << 12) == ControlOutcome::Done);
  REQUIRE(m.vcpu->set_control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kNxe}) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  REQUIRE(m.vcpu->handle_fault(Gva{0}, pferr::kWrite).kind == Kind::Resume);
  CHECK(m.vcpu->lookup(Gva{0}).pfn == m.host.backing(Gfn{410}, false).pfn);
  CHECK(m.vcpu->handle_fault(Gva{1ULL << 30}, pferr::kWrite).error_code == pferr::kWrite);
  pdpt(0) = 63 << 12 | 1;
  m.vcpu->invlpg(Gva{0});
  CHECK(m.vcpu->lookup(Gva{0}).pfn == m.host.backing(Gfn{410}, false).pfn);
  REQUIRE(m.vcpu->set_cr3(60 << 12) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  REQUIRE(m.vcpu->handle_fault(Gva{0}, pferr::kWrite).kind == Kind::Resume);
  CHECK(m.vcpu->lookup(Gva{0}).pfn == m.host.backing(Gfn{411}, false).pfn);
  pdpt(3) = 1 | 2;
  CHECK(m.vcpu->set_cr3(60 << 12) == ControlOutcome::InjectGp);
  pdpt(3) = 2;  // not present: anything goes
  CHECK(m.vcpu->set_cr3(60 << 12) == ControlOutcome::Done);
  pdpt(3) = 1ULL << 52 | 1;
  CHECK(m.vcpu->set_cr3(60 << 12) == ControlOutcome::InjectGp);
  CHECK(test::unsound(m.mmu) == "");
}
/// Two roots, 1 and 2, share all below; leaf table 5 is also mapped, so that the guest can write it unseen once the
/// alias has been written. PCIDE is on, PCID 2 is loaded first.
struct SharedTables {
  SharedTables() {
    Mmu::Caps caps;
    caps.pcid = true;
    b.emplace(caps);
    REQUIRE(b->mmu.add_slot(Gfn{0}, 1024).ok());
    b->table(1)[0] = b->table(2)[0] = 3 << 12 | kPage;
    b->table(3)[0] = 4 << 12 | kPage;
    b->table(4)[0] = 5 << 12 | kPage;
    b->table(4)[1] = 6 << 12 | kPage;
    b->table(5)[4] = 304 << 12 | kPage;
    b->table(6)[0] = 5 << 12 | kPage;
    v.emplace(b->mmu);
    run_long(*v, 1);
    Controls pcid = kLongMode;
    pcid.cr4 |= cr4::kPcide;
    REQUIRE(v->set_control(pcid) == ControlOutcome::Done);
    load(2 << 12 | 2);
  }
  void load(std::uint64_t cr3) {
    REQUIRE(v->set_cr3(cr3) == ControlOutcome::Done);
    REQUIRE(v->enter() == EnterOutcome::Enter);
  }
  std::optional<Bench<Mmu>> b;
  std::optional<Mmu::Vcpu> v;
};
/// Counts flushes of everything.
struct CountFlushes : host::FlushListener {
  explicit CountFlushes(TestHost& h) : host(h) { host.listen(*this); }
  ~CountFlushes() override { host.unlisten(*this); }
  void on_flush(const FlushRequest& r) noexcept override {
    all += r.scope == FlushRequest::Scope::Structures ? 1U : 0U;
  }
  TestHost& host;
  unsigned all = 0;
};
constexpr std::uint64_t kKeep = std::uint64_t{1} << 63;

TEST_CASE("PCID: bit 63 keeps no translation for a PCID that cannot have cached it") {
  SharedTables t;
  REQUIRE(read_fault(*t.v, 0x4000).kind == Kind::Resume);
  std::uint64_t there = 2 << 12 | 2;
  SUBCASE("another root and PCID") { t.load(1 << 12 | 1); }
  SUBCASE("the same tables under another PCID") {
    t.load(1 << 12 | 1);
    there = 1 << 12 | 2;
  }
  REQUIRE(write_fault(*t.v, 0x20'0000).kind == Kind::Resume);  // by its alias the guest may write table 5
  t.b->table(5)[3] = 303 << 12 | kPage;
  REQUIRE(read_fault(*t.v, 0x3000).kind == Kind::Resume);  // PCID 1 caches 303
  t.b->table(5)[3] = 305 << 12 | kPage;                    // stale for PCID 1, and not there for PCID 2
  const CountFlushes count(t.b->host);
  t.load(kKeep | there);
  const EntryInfo e = t.v->lookup(Gva{0x3000});
  CHECK((!e.present || e.pfn == t.b->host.backing(Gfn{305}, false).pfn));
  CHECK(count.all > 0);  // the one tag of the hardware may hold what PCID 1 cached
  CHECK(test::unsound(t.b->mmu) == "");
}
TEST_CASE("PCID: a load of the same CR3 with bit 63 may keep what this PCID has, and does") {
  SharedTables t;
  t.load(1 << 12 | 1);
  REQUIRE(read_fault(*t.v, 0x4000).kind == Kind::Resume);
  REQUIRE(write_fault(*t.v, 0x20'0000).kind == Kind::Resume);
  t.b->table(5)[3] = 303 << 12 | kPage;
  REQUIRE(read_fault(*t.v, 0x3000).kind == Kind::Resume);
  const std::uint64_t synced = t.b->mmu.stats().pages_synced;
  t.load(kKeep | 1 << 12 | 1);
  CHECK(t.b->mmu.stats().pages_synced == synced);
  t.load(1 << 12 | 1);
  CHECK(t.b->mmu.stats().pages_synced > synced);
}
TEST_CASE("a root that lies nowhere: the guest faults, and finds memory there when a slot appears") {
  TestHost host(1024, 4096);
  Mmu mmu(host);
  Mmu::Vcpu v(mmu);
  run_long(v, 1);
  FaultOutcome o = v.handle_fault(Gva{kAt}, pferr::kWrite);
  CHECK(o.kind == Kind::InjectPageFault);
  CHECK(o.error_code == pferr::kWrite);
  std::uint64_t t = 1;
  for (unsigned l = 4; l >= 1; --l) {
    static_cast<std::uint64_t*>(host.guest_page(Gfn{t}))[Level{l}.index(kAt)] = (t + 1) << 12 | kPage;
    ++t;
  }
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  REQUIRE(v.enter() == EnterOutcome::Enter);
  o = v.handle_fault(Gva{kAt}, pferr::kWrite);
  CHECK(o.kind == Kind::Resume);
  CHECK(test::unsound(mmu) == "");
}
TEST_CASE("translate gives the emulator what the guest's own access would") {
  Machine m(kReadOnly & ~0x60ULL);
  auto t = m.vcpu->translate(Gva{kAt + 0x123}, {.write = false, .fetch = false, .user = true}, {3, false});
  REQUIRE(t.ok());
  CHECK(t.to.gpa == Gpa{(400 << 12) + 0x123});
  CHECK((m.table(m.leaf_table(1, kAt))[0] & 0x60) == 0x20);
  t = m.vcpu->translate(Gva{kAt}, {.write = true, .fetch = false, .user = true}, {3, false});
  CHECK_FALSE(t.ok());
  CHECK(t.fault.error_code == 7);
  CHECK((m.table(m.leaf_table(1, kAt))[0] & 0x60) == 0x20);
}
/// A supervisor's read, with AC set, of a user page under SMAP, again and again until something else than Resume comes.
struct UnderSmap {
  UnderSmap() {
    slot = b.mmu.add_slot(Gfn{0}, 1024).value();
    b.map(1, kAt, 400);
    b.map(1, kAt + 0x1000, 401);
    Controls c = kLongMode;
    c.cr4 |= cr4::kSmap;
    REQUIRE(v.set_control(c) == ControlOutcome::Done);
    REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
  }
  static Mmu::Caps caps() {
    Mmu::Caps c;
    c.host_address_bits = 46;
    return c;
  }
  bool refused(bool implicit, std::uint32_t write = 0) {
    REQUIRE(v.enter() == EnterOutcome::Enter);
    REQUIRE(cpu.cpu.load(v.hw_state()) == sim::LoadOutcome::Ok);
    const auto r = cpu.cpu.access(kAt, AccessRequest{write != 0, false, false}, CpuMode{0, true}, implicit);
    code = r.error_code;
    return !r.ok();
  }
  FaultOutcome fault() { return v.handle_fault(Gva{kAt}, code, CpuMode{0, true}); }
  Bench<Mmu> b{caps()};
  Mmu::Vcpu v{b.mmu};
  TestCpu cpu{b.host, v.id(), {}};
  SlotId slot{};
  std::uint32_t code = 0;
};
TEST_CASE("SMAP: an implicit supervisor access at CPL 0 with AC ends in the guest's fault") {
  UnderSmap t;
  for (const std::uint32_t write : {0U, unsigned{pferr::kWrite}}) {
    unsigned faults = 0;
    FaultOutcome o;
    do {
      REQUIRE(t.refused(true, write));
      o = t.fault();
      faults += 1;
    } while (o.kind == Kind::Resume && faults < 10);
    CHECK(o.kind == Kind::InjectPageFault);
    CHECK(o.error_code == (pferr::kPresent | write));
    CHECK(o.address == kAt);
    CHECK(faults == (write == 0 ? 4U : 3U));  // one maps the page, three ask for it in vain
  }
}
TEST_CASE("SMAP: a write that the log has seen, and an implicit read after it, do not take turns for ever") {
  UnderSmap t;
  REQUIRE(t.b.mmu.start_dirty_log(t.slot, DirtyMethod::WriteProtect).ok());
  unsigned faults = 0;
  FaultOutcome o;
  do {
    if (t.refused(false, pferr::kWrite)) {
      o = t.fault();
    } else {
      REQUIRE(t.refused(true));
      o = t.fault();
    }
    faults += 1;
  } while (o.kind == Kind::Resume && faults < 12);
  CHECK(o.kind == Kind::InjectPageFault);
  CHECK(o.error_code == pferr::kPresent);
  CHECK(faults <= 6);
}
TEST_CASE("SMAP: an explicit access with AC is let through, and a TLB that is behind is no refusal") {
  UnderSmap t;
  REQUIRE(t.refused(false));
  REQUIRE(t.fault().kind == Kind::Resume);
  CHECK_FALSE(t.refused(false));
  // What the vCPU's own TLB holds of the page may be why; nothing else need go.
  struct Heard : host::FlushListener {
    explicit Heard(TestHost& h) : host(h) { host.listen(*this); }
    ~Heard() override { host.unlisten(*this); }
    void on_flush(const FlushRequest& r) noexcept override { all.push_back(r); }
    TestHost& host;
    std::vector<FlushRequest> all;
  } heard(t.b.host);
  REQUIRE(t.v.handle_fault(Gva{kAt}, pferr::kPresent, CpuMode{0, true}).kind == Kind::Resume);
  REQUIRE(heard.all.size() == 1);
  CHECK(heard.all[0].scope == FlushRequest::Scope::Range);
  CHECK(heard.all[0].first == kAt >> kPageShift);
  CHECK(heard.all[0].pages == 1);
  CHECK(heard.all[0].vcpus == t.v.id());
  t.v.invlpg(Gva{kAt + 0x1000});
  // Spurious faults with something else between: a flush, another page's fault, another CR3 load.
  for (unsigned n = 0; n < 12; ++n) {
    REQUIRE(t.v.handle_fault(Gva{kAt}, pferr::kPresent, CpuMode{0, true}).kind == Kind::Resume);
    if (n % 3 == 0) t.v.invlpg(Gva{kAt + 0x1000});
    if (n % 3 == 1) REQUIRE(t.v.handle_fault(Gva{kAt + 0x1000}, 0, CpuMode{0, true}).kind == Kind::Resume);
    if (n % 3 == 2) REQUIRE(t.v.set_cr3(1 << 12) == ControlOutcome::Done);
    REQUIRE(t.v.enter() == EnterOutcome::Enter);
  }
}
TEST_CASE("SMAP: faults on an entry that was not present, and that another vCPU fills first, are no refusals") {
  UnderSmap t;
  Mmu::Vcpu other(t.b.mmu, VcpuId{1});
  REQUIRE(other.set_control(t.v.controls()) == ControlOutcome::Done);
  REQUIRE(other.set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(other.enter() == EnterOutcome::Enter);
  REQUIRE(t.v.enter() == EnterOutcome::Enter);
  for (unsigned n = 0; n < 6; ++n) {
    t.b.mmu.unmap(Gfn{400});
    REQUIRE(other.handle_fault(Gva{kAt}, 0, CpuMode{0, true}).kind == Kind::Resume);
    CHECK(t.v.handle_fault(Gva{kAt}, 0, CpuMode{0, true}).kind == Kind::Resume);
  }
}
}  // namespace
