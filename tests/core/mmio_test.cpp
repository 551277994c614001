// SPDX-License-Identifier: BSL-1.0
#include <functional>

#include "core/world.hpp"

/// MMIO entries. Each case is named after the rule that it shows: 4.1 to 4.7 of the rules on MMIO entries.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

constexpr std::uint64_t kDevice = 5000;  ///< a gfn that no slot owns
constexpr std::uint32_t kRsvd = pferr::kReserved | pferr::kPresent;

struct TwoBits : config::Default {
  static constexpr unsigned kMmioGenerationBits = 2;
};

template <class C = config::Default>
struct Mmio : Bench<ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost, C>> {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost, C>;
  explicit Mmio(std::uint8_t width = 46) : Bench<M>(caps(width)) {
    slot = this->mmu.add_slot(Gfn{0}, 1024).value();
    this->map(1, 0x40'0000, kDevice);
    this->map(1, 0x40'8000, kDevice + 1, 0x65);  // user, not writable
    this->map(1, 0x41'0000, 400);
    v = std::make_unique<typename M::Vcpu>(this->mmu);
    run_long(*v, 1);
  }
  static typename M::Caps caps(std::uint8_t width) {
    typename M::Caps c;
    c.host_address_bits = width;
    return c;
  }
  FaultOutcome read(std::uint64_t a, std::uint32_t code = kRsvd) {
    return v->handle_fault(Gva{a}, code | pferr::kUser, CpuMode{3, false});
  }
  /// What the vCPU remembers besides the tables is forgotten.
  void forget_last() { v->invlpg(Gva{0x7000'0000}); }
  Counters stats() { return this->mmu.stats(); }
  SlotId slot{};
  std::unique_ptr<typename M::Vcpu> v;
};

TEST_CASE("4.1 invalidating takes no lock and visits no page, but once in 2^bits") {
  Mmio<TwoBits> b;
  REQUIRE(b.read(0x40'0000, 0).kind == Kind::Mmio);
  for (int round = 0; round < 3; ++round) {  // the generation is 1: a slot was added
    const std::uint64_t zapped = b.stats().pages_zapped;
    const std::uint64_t before = TestLock::taken;
    b.mmu.invalidate_mmio();
    b.mmu.invalidate_mmio();
    CHECK(TestLock::taken == before);
    CHECK(b.stats().pages_zapped == zapped);
    b.mmu.invalidate_mmio();
    CHECK(TestLock::taken > before + 1);
    b.mmu.invalidate_mmio();
  }
  CHECK(b.stats().mmio_wraps == 3);
}
TEST_SUITE_BEGIN("no policy");  // nothing is evicted here: once is enough
template <class A>
void whole_width(std::uint64_t width) {
  TestHost host(1024, 4096);
  ShadowMmu<A, TestLock, test::AnyPolicy, TestHost> mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());  // generation 1
  for (std::uint64_t i = 1; i < width - 1; ++i) mmu.invalidate_mmio();
  CHECK(mmu.stats().mmio_wraps == 0);
  CHECK(mmu.stats().generations == 0);
  mmu.invalidate_mmio();
  CHECK(mmu.stats().mmio_wraps == 1);
  CHECK(mmu.stats().generations == 1);
}
TEST_CASE("4.1 in full width everything is purged once in 524,288 invalidations, or 1,048,576 under EPT") {
  whole_width<arch::X86_64>(524'288);
  whole_width<arch::Ept>(1'048'576);
}
template <class A>
void round_trip(typename A::Caps caps, Access access) {
  for (std::uint64_t g = 0; g < std::uint64_t{1} << A::kMmioGenerationBits; ++g) {
    const Gfn gfn{(g * 0x9e37'79b9) & 0xffff'ffff};
    const std::uint64_t e = A::make_mmio(caps, {gfn, access, static_cast<std::uint32_t>(g)});
    const MmioSpec m = A::read_mmio(caps, e);
    if (m.generation != g || m.gfn != gfn || m.access != access || !A::mmio(e) || A::present(e))
      FAIL("generation " << g << " does not come back");
  }
}
TEST_CASE("4.2 every generation of the width, every right and the corners of the gfns come back, in every format") {
  static_assert(arch::X86_64::kMmioGenerationBits >= 19 && arch::Ept::kMmioGenerationBits >= 19);
  // 2^19 is 524,288; a mail of 2013 says 33,554,432, which is 2^25.
  static_assert((std::uint64_t{1} << 19) == 524'288 && (std::uint64_t{1} << 25) == 33'554'432);
  for (unsigned a = 0; a < 8; ++a) round_trip<arch::X86_64>({}, Access{a});
  round_trip<arch::X86_64>({.host_address_bits = 36}, Access::all());
  round_trip<arch::Ept>({}, Access::all());
  round_trip<arch::Ept>({.host_address_bits = 39}, Access::all());
  for (unsigned width = 36; width <= 52; ++width)
    for (unsigned bit = 0; bit < 32; ++bit)
      for (const std::uint64_t gfn : {std::uint64_t{1} << bit, ~(std::uint64_t{1} << bit) & 0xffff'ffff}) {
        const auto w = static_cast<std::uint8_t>(width);
        const std::uint64_t x = arch::X86_64::make_mmio({.host_address_bits = w}, {Gfn{gfn}, Access{1}, 0x7'ffff});
        CHECK(arch::X86_64::read_mmio({.host_address_bits = w}, x).gfn == Gfn{gfn});
        const std::uint64_t e = arch::Ept::make_mmio({.host_address_bits = w}, {Gfn{gfn}, Access::all(), 0xf'ffff});
        CHECK(arch::Ept::read_mmio({.host_address_bits = w}, e).gfn == Gfn{gfn});
      }
}
TEST_SUITE_END();
TEST_CASE("4.3 a hit, a stale entry and another entry are told apart; a stale one is made again by the whole walk") {
  Mmio<> b;
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  b.forget_last();
  CHECK(b.read(0x40'0000).kind == Kind::Mmio);
  CHECK(b.stats().mmio_hits == 1);
  CHECK(b.stats().mmio_stale == 0);
  b.mmu.invalidate_mmio();
  const FaultOutcome o = b.read(0x40'0123);
  CHECK(o.kind == Kind::Mmio);
  CHECK(o.gpa == Gpa{kDevice << 12 | 0x123});
  CHECK(b.stats().mmio_hits == 1);
  CHECK(b.stats().mmio_stale == 1);
  b.forget_last();
  CHECK(b.read(0x40'0000).kind == Kind::Mmio);  // restamped
  CHECK(b.stats().mmio_hits == 2);
  CHECK(b.read(0x41'0000).kind == Kind::Resume);  // a reserved bit is reported where memory lies: the walk decides
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("4.3 an entry answers only what it allows; the rest takes the walk, and its fault") {
  Mmio<> b;
  CHECK(b.read(0x40'8000, 0).kind == Kind::Mmio);
  CHECK(b.read(0x40'8000).kind == Kind::Mmio);
  const FaultOutcome o = b.v->handle_fault(Gva{0x40'8000}, kRsvd | pferr::kUser | pferr::kWrite, CpuMode{3, false});
  CHECK(o.kind == Kind::InjectPageFault);
  CHECK(o.error_code == (pferr::kPresent | pferr::kUser | pferr::kWrite));
}
TEST_CASE("4.3 the first write sets the guest's D bit, though a read left an entry") {
  Mmio<> b;
  std::uint64_t& gpte = b.table(b.leaf_table(1, 0x40'0000))[0];
  gpte &= ~std::uint64_t{0x40};
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  CHECK((gpte & 0x40) == 0);
  SUBCASE("by a user") {
    CHECK(b.v->handle_fault(Gva{0x40'0000}, kRsvd | pferr::kUser | pferr::kWrite, CpuMode{3, false}).kind ==
          Kind::Mmio);
  }
  SUBCASE("by a supervisor whom CR0.WP = 0 lets write anything") {
    Controls c = kLongMode;
    c.cr0 &= ~cr0::kWp;
    REQUIRE(b.v->set_control(c) == ControlOutcome::Done);
    CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
    CHECK(b.v->handle_fault(Gva{0x40'0000}, kRsvd | pferr::kWrite, CpuMode{0, true}).kind == Kind::Mmio);
  }
  CHECK((gpte & 0x40) != 0);
}
TEST_CASE("4.4 an entry of the old generation 0 is not believed by the new one") {
  Mmio<TwoBits> b;
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  for (int i = 0; i < 4; ++i) b.mmu.invalidate_mmio();
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  const Counters before = b.stats();
  CHECK(b.read(0x40'0000).kind == Kind::Mmio);
  CHECK(b.stats().mmio_hits == before.mmio_hits);
  CHECK(b.stats().mmio_cached == before.mmio_cached);
}
TEST_CASE("4.5 while slots change no entry is made or believed") {
  using M = Mmio<>::M;
  Mmio<> b;
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  using G = core::MmioGeneration<M::State>;
  TestHost host(16, 64);
  M::State s(host, {});
  const std::uint64_t before = G::now(s);
  CHECK(G::stable(before));
  G::begin(s);
  CHECK_FALSE(G::stable(G::now(s)));
  G::invalidate(s);  // nothing to do: what exists is not believed, and will be of an old generation
  CHECK(G::stored(G::now(s)) == G::stored(before));
  G::end(s);
  CHECK(G::stable(G::now(s)));
  CHECK(G::stored(G::now(s)) == G::stored(before) + 1);
}
TEST_CASE("4.5 a fault in the middle of an update finds the device, believes no entry for it and leaves none") {
  Mmio<> b;
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  b.map(1, 0x40'1000, kDevice + 7);
  unsigned turns = 0;
  const auto fault = [&] {
    turns += 1;
    const Counters before = b.stats();
    CHECK(b.read(0x40'0000).kind == Kind::Mmio);
    b.forget_last();
    CHECK(b.read(0x40'0000).kind == Kind::Mmio);
    CHECK(b.read(0x40'1000, 0).kind == Kind::Mmio);
    CHECK(b.stats().mmio_hits == before.mmio_hits);
    CHECK(b.stats().mmio_cached == before.mmio_cached);
  };
  TestLock::turn = [&] {  // the slots lock; the next is the Mmu's, inside the update
    TestLock::turn = fault;
  };
  REQUIRE(b.mmu.add_slot(Gfn{7000}, 1).ok());
  CHECK(turns == 1);
  const Counters before = b.stats();
  CHECK(b.read(0x40'1000).kind == Kind::Mmio);
  CHECK(b.stats().mmio_hits == before.mmio_hits);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("4.5 a slot that appears is seen at once: entries from before it are stale") {
  Mmio<> b;
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  REQUIRE(b.mmu.move_slot(b.slot, Gfn{8192}).ok());
  REQUIRE(b.mmu.move_slot(b.slot, Gfn{0}).ok());
  b.map(1, 0x40'0000, 700);  // as if the device's page were memory now
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  CHECK(b.read(0x40'0000).kind == Kind::Resume);
}
template <std::uint8_t Width>
void what_hardware_reports() {
  Mmio<> b(Width);
  sim::CpuConfig config;
  config.max_phys_addr = Width;
  TestCpu cpu(b.host, VcpuId{0}, config);
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  REQUIRE(cpu.cpu.load(b.v->hw_state()) == sim::LoadOutcome::Ok);
  const auto got = cpu.cpu.access(0x40'0000, AccessRequest{false, false, true}, CpuMode{3, false});
  CHECK(got.kind == sim::AccessKind::PageFault);
  CHECK((got.error_code & pferr::kReserved) == (Width < 52 ? pferr::kReserved : 0U));
  b.forget_last();
  CHECK(b.v->handle_fault(Gva{0x40'0000}, got.error_code, CpuMode{3, false}).kind == Kind::Mmio);
  CHECK(b.stats().mmio_hits == 1);
  // Reported as QEMU does, without P.
  b.forget_last();
  CHECK(b.v->handle_fault(Gva{0x40'0000}, got.error_code & ~pferr::kPresent, CpuMode{3, false}).kind == Kind::Mmio);
  CHECK(b.stats().mmio_hits == 2);
}
TEST_CASE("4.6 the CPU reports a reserved bit; with 52 address bits, where none is left, a page that is not present") {
  what_hardware_reports<46>();
  what_hardware_reports<36>();
  what_hardware_reports<51>();
  what_hardware_reports<52>();
}
TEST_CASE("4.6 no entry's address names memory that a host could have: the top five physical bits are set") {
  for (unsigned width = 36; width <= 52; ++width) {
    const auto w = static_cast<std::uint8_t>(width);
    for (const std::uint64_t gfn : {0ULL, 0xffff'ffffULL, 0x1'2345ULL}) {
      const std::uint64_t physical = (std::uint64_t{1} << width) - 1;
      const std::uint64_t top = std::uint64_t{31} << (width - 5);
      CHECK((arch::X86_64::make_mmio({.host_address_bits = w}, {Gfn{gfn}, Access{}, 0}) & physical & top) == top);
      CHECK((arch::Ept::make_mmio({.host_address_bits = w}, {Gfn{gfn}, Access{}, 0}) & physical & top) == top);
    }
  }
}
TEST_CASE("4.7 a mapping is dropped, its rmap entry too, before an MMIO entry takes its place, and the reverse") {
  Mmio<> b;
  std::uint64_t& gpte = b.table(b.leaf_table(1, 0x41'0000))[Level{1}.index(0x41'0000)];
  REQUIRE(write_fault(*b.v, 0x41'0000).kind == Kind::Resume);
  REQUIRE(b.mmu.stats().pages_unsynced == 0);
  // Let the table go unsync, so that the guest's edit leaves the mapping in place until the next fault.
  b.map(1, 0x42'0000, b.leaf_table(1, 0x41'0000));
  REQUIRE(write_fault(*b.v, 0x42'0000).kind == Kind::Resume);
  gpte = kDevice << 12 | kPage;
  CHECK(b.read(0x41'0000, 0).kind == Kind::Mmio);
  CHECK(test::unsound(b.mmu) == "");
  CHECK(b.mmu.audit().leaves == b.mmu.audit().rmap_entries);
  gpte = 401 << 12 | kPage;
  b.v->invlpg(Gva{0x41'0000});
  CHECK(b.read(0x41'0000).kind == Kind::Resume);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("4.7 writes to read-only memory are the embedder's, and are not remembered as MMIO") {
  Mmio<> b;
  REQUIRE(b.mmu.set_slot_flags(b.slot, SlotFlags{true}).ok());
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  for (int i = 0; i < 3; ++i) CHECK(write_fault(*b.v, 0x41'0000, true).kind == Kind::Mmio);
  CHECK(read_fault(*b.v, 0x41'0000).kind == Kind::Resume);
  CHECK(b.v->lookup(Gva{0x41'0000}).present);
  CHECK(b.stats().mmio_hits + b.stats().mmio_cached == 0);
  REQUIRE(b.mmu.set_slot_flags(b.slot, SlotFlags{false}).ok());
  CHECK(write_fault(*b.v, 0x41'0000).kind == Kind::Resume);
}
TEST_CASE("the last MMIO page answers without any lock, until the guest flushes it or the generation moves") {
  Mmio<> b;
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  const std::uint64_t before = TestLock::taken;
  for (int i = 0; i < 5; ++i) CHECK(b.read(0x40'0010 + 8U * static_cast<unsigned>(i)).kind == Kind::Mmio);
  CHECK(TestLock::taken == before);
  CHECK(b.stats().mmio_cached == 5);
  CHECK(b.stats().faults_mmio == 6);
  // The guest unmaps the device and flushes, each way that it can: the page is forgotten.
  std::uint64_t& gpte = b.table(b.leaf_table(1, 0x40'0000))[0];
  const std::uint64_t was = std::exchange(gpte, 0);
  b.mmu.guest_wrote(Gpa{b.leaf_table(1, 0x40'0000) << 12}, 8);
  b.v->invlpg(Gva{0x40'0000});
  CHECK(b.read(0x40'0000).kind == Kind::InjectPageFault);
  gpte = was;
  CHECK(b.read(0x40'0000).kind == Kind::Mmio);
  gpte = 0;
  b.mmu.guest_wrote(Gpa{b.leaf_table(1, 0x40'0000) << 12}, 8);
  REQUIRE(b.v->set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  CHECK(b.read(0x40'0000).kind == Kind::InjectPageFault);
}
TEST_CASE("an unsync table's MMIO entries follow the guest's at its flush") {
  Mmio<> b;
  CHECK(b.read(0x40'0000, 0).kind == Kind::Mmio);
  const std::uint64_t table = b.leaf_table(1, 0x40'0000);
  b.map(1, 0x60'0000, table);
  REQUIRE(write_fault(*b.v, 0x60'0000).kind == Kind::Resume);  // unsync now
  b.table(table)[0] = (kDevice + 9) << 12 | kPage;
  b.v->flush();
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  const FaultOutcome o = b.read(0x40'0000);
  CHECK(o.kind == Kind::Mmio);
  CHECK(o.gpa == Gpa{(kDevice + 9) << 12});
  REQUIRE(write_fault(*b.v, 0x60'0000).kind == Kind::Resume);  // unsync again
  b.table(table)[0] = 0;
  b.v->flush();
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  CHECK(b.read(0x40'0000).kind == Kind::InjectPageFault);
}
TEST_CASE("an unsync table's MMIO entry that becomes the user's answers no supervisor's fetch that SMEP forbids") {
  Mmio<> b;
  Controls c = b.v->controls();
  c.cr4 |= cr4::kSmep;
  REQUIRE(b.v->set_control(c) == ControlOutcome::Done);
  const std::uint64_t table = b.leaf_table(1, 0x40'0000);
  b.table(table)[0] = kDevice << 12 | 0x63;  // the supervisor's
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  REQUIRE(b.v->handle_fault(Gva{0x40'0000}, 0, CpuMode{}).kind == Kind::Mmio);
  b.map(1, 0x60'0000, table);
  REQUIRE(write_fault(*b.v, 0x60'0000).kind == Kind::Resume);  // unsync now
  b.table(table)[0] |= 4;
  b.v->invlpg(Gva{0x40'0000});
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  const FaultOutcome o = b.v->handle_fault(Gva{0x40'0000}, kRsvd | pferr::kFetch, CpuMode{});
  CHECK(o.kind == Kind::InjectPageFault);
  CHECK(o.error_code == (pferr::kPresent | pferr::kFetch));
}
TEST_CASE("gfns beyond what an entry can name are MMIO all the same, without an entry") {
  Mmio<> b;
  b.map(1, 0x40'3000, std::uint64_t{1} << 33);
  for (int i = 0; i < 3; ++i) CHECK(b.read(0x40'3000).gpa == Gpa{std::uint64_t{1} << 45});
  CHECK(b.stats().mmio_hits + b.stats().mmio_cached == 0);
}
}  // namespace
