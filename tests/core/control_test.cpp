// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Checked<lock::None>, test::AnyPolicy, TestHost>;
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
  CHECK(m.mmu.audit().violations == 0);
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
  CHECK(m.mmu.audit().violations == 0);
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
  CHECK(m.mmu.audit().violations == 0);
}
TEST_CASE("PCID: a CR3 load with bit 63 keeps what was not flushed; INVLPG reaches previous roots") {
  Mmu::Caps caps;
  caps.pcid = true;
  Machine m(kPage, caps);
  m.next = 80;
  m.map(50, kAt, 401);
  const std::uint64_t alias = 0x7f00'0000'0000;
  m.map(1, alias, m.leaf_table(50, kAt));
  REQUIRE(m.control(0, cr4::kPcide) == ControlOutcome::Done);
  const std::uint64_t other = 50 << 12 | 5;
  REQUIRE(m.vcpu->set_cr3(other) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  REQUIRE(m.fault(pferr::kWrite).kind == Kind::Resume);
  REQUIRE(m.vcpu->set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  REQUIRE(m.vcpu->handle_fault(Gva{alias}, pferr::kWrite).kind == Kind::Resume);  // the other space's table goes unsync
  m.table(m.leaf_table(50, kAt))[0] = 402 << 12 | kPage;
  REQUIRE(m.vcpu->set_cr3(other | 1ULL << 63) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  CHECK(m.vcpu->lookup(Gva{kAt}).pfn == m.host.backing(Gfn{401}, false).pfn);  // kept, as asked
  CHECK(m.mmu.stats().pages_synced == 0);
  REQUIRE(m.vcpu->set_cr3(1ULL << 12 | 1ULL << 63) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  m.vcpu->invlpg(Gva{kAt});
  REQUIRE(m.vcpu->set_cr3(other | 1ULL << 63) == ControlOutcome::Done);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  CHECK_FALSE(m.vcpu->lookup(Gva{kAt}).present);
  CHECK(m.mmu.audit().violations == 0);
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
  CHECK(mmu.audit().violations == 0);
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
}  // namespace
