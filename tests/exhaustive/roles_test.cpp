// SPDX-License-Identifier: BSL-1.0
#include "exhaustive/driven.hpp"
#include "support/sound.hpp"

/// F3: what a control bit changes is seen at the next access, though the tables are shadowed already: each bit is
/// toggled under each access that may come before and after.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;
using Guest = Driven<Mmu>;

constexpr std::uint64_t kNx = std::uint64_t{1} << 63;
constexpr std::uint64_t kSmall = 0x40'0000, kLarge = 0x1000'0000;
constexpr std::uint64_t kRoot = 2 << 12;

/// Eight small pages and eight large ones, one for each of W, U and NX. Returns: their addresses.
std::vector<std::uint64_t> map_all_rights(Guest& g, Mode m) {
  std::vector<std::uint64_t> at;
  const unsigned large = m == Mode::Bits32 ? 22U : 21U;
  for (std::uint64_t i = 0; i < 8; ++i) {
    const std::uint64_t flags = 0x61 | (i & 3) << 1 | (i >> 2) * (m == Mode::Bits32 ? 0 : kNx);
    at.push_back(kSmall + (i << 12));
    g.guest.map(m, kRoot, at.back(), 600 + i, flags);
    at.push_back(kLarge + (i << large));
    g.guest.map(m, kRoot, at.back(), 1024, flags, 2);
  }
  return at;
}
struct Bits {
  std::uint64_t cr0, cr4, efer;
};
constexpr Bits kBits[] = {{cr0::kWp, 0, 0}, {0, 0, efer::kNxe}, {0, cr4::kSmep, 0}, {0, cr4::kSmap, 0}};
Controls toggled(Controls c, const Bits& b) { return {c.cr0 ^ b.cr0, c.cr4 ^ b.cr4, c.efer ^ b.efer}; }

void each_bit_toggled(Mode m) {
  Guest g;
  const auto at = map_all_rights(g, m);
  for (unsigned set = 0; set < 16; ++set) {
    Bits on{};
    for (unsigned n = 0; n < 4; ++n)
      if ((set >> n & 1) != 0) on = {on.cr0 | kBits[n].cr0, on.cr4 | kBits[n].cr4, on.efer | kBits[n].efer};
    g.run(m, kRoot, on.cr0, on.cr4 | cr4::kPse, on.efer);
    const Controls before = g.vcpu->controls();
    for (unsigned n = 0; n < 4; ++n)
      for (const EachAccess& first : kAccesses)
        for (const EachAccess& then : kAccesses) {
          const auto all_as_the_oracle = [&](const EachAccess& x) {
            for (const std::uint64_t a : at)
              if (!g.as_the_oracle(a, x.request, x.mode)) FAIL("controls " << set << ", bit " << n << ", at " << a);
          };
          all_as_the_oracle(first);
          g.set(m, toggled(before, kBits[n]));
          all_as_the_oracle(then);
          g.set(m, before);
        }
  }
  CHECK(test::unsound(g.mmu) == "");
}
TEST_CASE("F3 WP, NXE, SMEP, SMAP: four levels") { each_bit_toggled(Mode::Long4); }
TEST_CASE("F3 WP, NXE, SMEP, SMAP: PAE") { each_bit_toggled(Mode::Pae); }
TEST_CASE("F3 WP, SMEP, SMAP: 32 bits") { each_bit_toggled(Mode::Bits32); }

TEST_CASE("F3 PSE: what was a page is a table, and a page again") {
  Guest g;
  g.guest.map(Mode::Bits32, kRoot, kSmall, 600, 0x67);
  g.guest.map(Mode::Bits32, kRoot, kLarge, 1024, 0x67, 2);  // 4 MiB at gfn 1024; as a table, that frame
  for (unsigned i = 0; i < 1024; ++i) reinterpret_cast<std::uint32_t*>(g.table(1024))[i] = (700 + i % 64) << 12 | 0x67;
  for (const bool first : {false, true}) {
    g.run(Mode::Bits32, kRoot, cr0::kWp, first ? cr4::kPse : 0, 0);
    Controls c = g.vcpu->controls();
    for (unsigned n = 0; n < 6; ++n) {
      for (std::uint64_t i = 0; i < 1024; i += 31)
        for (const EachAccess& x : {kAccesses[0], kAccesses[1]})
          REQUIRE(g.as_the_oracle(kLarge + (i << 12), x.request, x.mode));
      REQUIRE(g.as_the_oracle(kSmall, {}, {}));
      c.cr4 ^= cr4::kPse;
      g.set(Mode::Bits32, c);
    }
  }
  CHECK(test::unsound(g.mmu) == "");
}
TEST_CASE("F3 the mode: one tree as PAE directory and below four levels; bits 62:52 are reserved in the one only") {
  Guest g;
  // PML4 -> PDPT -> directory -> table, and a PAE guest whose PDPTE names the same directory.
  g.guest.map(Mode::Long4, kRoot, kSmall, 600, 0x67);
  g.guest.map(Mode::Long4, kRoot, kLarge, 1024, 0x67, 2);
  g.guest.mode = Mode::Long4;
  g.guest.cr3 = kRoot;
  const Gpa small = g.entry_of(kSmall, 1);
  const Gpa large = g.entry_of(kLarge, 2);
  const Gpa dir{g.entry_of(kSmall, 2).value() & ~kPageMask};
  g.table(15)[0] = dir.value() | 1;
  for (unsigned bit = 52; bit < 63; ++bit)
    for (const Gpa at : {small, large})
      for (const Mode from : {Mode::Long4, Mode::Pae}) {
        CAPTURE(bit);
        std::uint64_t e = 0;
        REQUIRE(g.host.read(at, 8, e));
        const auto run = [&](Mode m) {
          g.run(m, m == Mode::Long4 ? kRoot : 15 << 12, cr0::kWp, cr4::kPse, efer::kNxe);
          for (const std::uint64_t a : {kSmall, kLarge})
            for (const EachAccess& x : {kAccesses[0], kAccesses[1]}) REQUIRE(g.as_the_oracle(a, x.request, x.mode));
        };
        static_cast<void>(g.host.write(at, 8, e | std::uint64_t{1} << bit));
        g.mmu.guest_wrote(at, 8);
        run(from);
        run(from == Mode::Long4 ? Mode::Pae : Mode::Long4);
        static_cast<void>(g.host.write(at, 8, e));
        g.mmu.guest_wrote(at, 8);
      }
  CHECK(test::unsound(g.mmu) == "");
}

/// A leaf table that the guest has let go unsync by a write to it through `kAlias`.
constexpr std::uint64_t kAlias = 0x7000'0000;
struct Unsync : Guest {
  explicit Unsync(Mode m, std::uint64_t cr4_bits = 0, std::uint64_t efer_bits = efer::kNxe, Mmu::Caps c = caps46())
      : Guest(c) {
    guest.map(m, kRoot, kSmall, 600, 0x67);
    guest.map(m, kRoot, kSmall + 0x1000, 601, 0x67);
    guest.mode = m;
    guest.cr3 = kRoot;
    guest.pdptes = sim::Oracle<TestHost>::read_pdptes(host, kRoot);
    leaf = entry_of(kSmall, 1).value() & ~kPageMask;
    guest.map(m, kRoot, kAlias, leaf >> 12, 0x67);
    run(m, kRoot, cr0::kWp, cr4::kPse | cr4_bits, efer_bits);
    touch();
  }
  void touch() {
    REQUIRE(access(kSmall, {true, false, true}, {3, false}).ok);
    REQUIRE(access(kSmall + 0x1000, {true, false, true}, {3, false}).ok);
  }
  /// Effects: the guest stores its entry i, without a fault that the Mmu could learn from.
  void store(unsigned i, std::uint64_t e) {
    REQUIRE(access(kAlias, {true, false, true}, {3, false}).ok);
    static_cast<void>(host.write(Gpa{leaf + i * guest.width()}, guest.width(), e));
  }
  std::uint64_t leaf = 0;
};
TEST_CASE("control bits whose change flushes the TLB: what the guest had edited is seen, by this vCPU alone") {
  struct Log : host::FlushListener {
    void on_flush(const FlushRequest& r) noexcept override {
      structures += r.scope == FlushRequest::Scope::Structures && r.vcpus == VcpuId{0} ? 1U : 0U;
      others += r.vcpus != VcpuId{0} ? 1U : 0U;
    }
    unsigned structures = 0, others = 0;
  } log;
  const auto flushes = [&](Mode m, std::uint64_t cr4_on, std::uint64_t cr4_then, bool pcid) {
    Mmu::Caps c = Guest::caps46();
    c.pcid = pcid;
    Unsync u(m, cr4_on & ~cr4::kPcide, efer::kNxe, c);
    Controls now = u.vcpu->controls();
    now.cr4 |= cr4_on;
    u.set(m, now);
    u.store(0, 602 << 12 | 0x67);
    u.host.listen(log);
    log = {};
    now.cr4 = (now.cr4 & ~cr4_on) | cr4_then;
    u.set(m, now);
    CHECK(log.structures >= 1);
    CHECK(log.others == 0);
    u.host.unlisten(log);
    REQUIRE(u.as_the_oracle(kSmall, {}, {}));
    CHECK(test::unsound(u.mmu) == "");
  };
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
    flushes(m, 0, cr4::kSmep, false);  // set
    flushes(m, 0, cr4::kPge, false);
    flushes(m, cr4::kPge, 0, false);  // cleared
  }
  flushes(Mode::Long4, cr4::kPcide, 0, true);
}
TEST_CASE("CR0 bits that flush nothing leave the TLB alone") {
  Unsync u(Mode::Long4);
  u.store(0, 602 << 12 | 0x67);
  const std::uint64_t synced = u.mmu.stats().pages_synced;
  struct Log : host::FlushListener {
    void on_flush(const FlushRequest& r) noexcept override { own += r.vcpus == VcpuId{0} ? 1U : 0U; }
    unsigned own = 0;
  } log;
  u.host.listen(log);
  Controls c = u.vcpu->controls();
  c.cr0 ^= 1U << 18;  // AM
  u.set(Mode::Long4, c);
  u.enter();
  CHECK(log.own == 0);
  CHECK(u.mmu.stats().pages_synced == synced);
  u.host.unlisten(log);
}
TEST_CASE("F11 sync goes by the bits under which the page was made: what they allow stays, what they forbid goes") {
  for (const Mode m : {Mode::Long4, Mode::Pae})
    for (const bool nxe : {false, true})
      for (unsigned bit = 7; bit < 64; ++bit) {
        CAPTURE(bit);
        Unsync u(m, 0, nxe ? efer::kNxe : 0);
        const std::uint64_t e = 600 << 12 | 0x67 | std::uint64_t{1} << bit;
        const bool names_another = bit >= 12 && bit < 46 && e >> 12 != 600;
        u.store(0, e);
        u.vcpu->flush();
        u.enter();
        const bool reserved = u.oracle(kSmall, {false, false, true}, {3, false}).fault;
        const EntryInfo now = u.vcpu->lookup(Gva{kSmall});
        CHECK(now.present == (!reserved && !names_another));
        CHECK(u.vcpu->lookup(Gva{kSmall + 0x1000}).present);
        if (now.present) CHECK(now.rights.exec() == (bit != 63));
        if (now.present) CHECK(now.rights.write());
        REQUIRE(u.as_the_oracle(kSmall, {false, false, true}, {3, false}));
        CHECK(test::unsound(u.mmu) == "");
      }
}
TEST_CASE("F11 sync takes what the guest's entry no longer grants, and no more, right by right") {
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32})
    for (unsigned i = 0; i < 64; ++i) {
      CAPTURE(i);
      Unsync u(m);
      // P, W, U, A, D each there or not; NX.
      std::uint64_t e = 600 << 12 | (i & 7) | (i & 8) << 2 | (i & 16) << 2;
      if ((i & 32) != 0) e |= m == Mode::Bits32 ? 0 : kNx;
      u.store(0, e);
      u.vcpu->flush();
      u.enter();
      const EntryInfo now = u.vcpu->lookup(Gva{kSmall});
      CHECK(now.present == ((e & 0x21) == 0x21));
      if (now.present) {
        CHECK(now.rights.write() == ((e & 0x42) == 0x42));
        CHECK(now.rights.user() == ((e & 4) != 0));
        CHECK(now.rights.exec() == ((e & kNx) == 0));
      }
      for (const EachAccess& x : kAccesses) REQUIRE(u.as_the_oracle(kSmall, x.request, x.mode));
      CHECK(test::unsound(u.mmu) == "");
    }
}
TEST_CASE("a write-protected page stays so when its table is synced") {
  Unsync u(Mode::Long4);
  REQUIRE(u.mmu.start_dirty_log(u.slot).ok());
  u.store(1, 601 << 12 | 0x67);  // the same: nothing changes
  std::uint64_t words[48];
  REQUIRE(u.mmu.fetch_dirty_log(u.slot, 0, 48, words).ok());
  CHECK_FALSE(u.vcpu->lookup(Gva{kSmall}).rights.write());
  u.vcpu->flush();
  u.enter();
  CHECK(u.vcpu->lookup(Gva{kSmall}).present);
  CHECK_FALSE(u.vcpu->lookup(Gva{kSmall}).rights.write());
  CHECK(test::unsound(u.mmu) == "");
}
TEST_CASE("F3 one frame as the begin of a large page and as a leaf table: two pages, in either order") {
  for (const bool table_first : {false, true}) {
    Guest g;
    g.guest.map(Mode::Long4, kRoot, kLarge, 1024, 0x67, 2);
    g.guest.map(Mode::Long4, kRoot, kSmall, 600, 0x67);
    g.guest.mode = Mode::Long4;
    g.guest.cr3 = kRoot;
    static_cast<void>(g.host.write(g.entry_of(kSmall, 2), 8, 1024 << 12 | 0x67));
    for (std::uint64_t i = 0; i < 512; ++i) g.table(1024)[i] = (600 + i) << 12 | 0x67;
    g.run(Mode::Long4, kRoot, cr0::kWp, 0, efer::kNxe);
    for (unsigned round = 0; round < 4; ++round)
      for (std::uint64_t i = 0; i < 512; i += 73) {
        const std::uint64_t a = (round % 2 == 0) == table_first ? kSmall : kLarge;
        REQUIRE(g.as_the_oracle(a + (i << 12), {false, false, true}, {3, false}));
      }
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE("8.8 SMEP and SMAP make other pages only while WP is clear: with WP set every page serves on") {
  Guest g;
  const auto at = map_all_rights(g, Mode::Long4);
  for (const bool wp : {true, false}) {
    g.run(Mode::Long4, kRoot, wp ? cr0::kWp : 0, 0, efer::kNxe);
    for (const std::uint64_t a : at) REQUIRE(g.as_the_oracle(a, {}, {0, true}));
    for (const std::uint64_t bit : {cr4::kSmep, cr4::kSmap}) {
      const std::uint64_t created = g.mmu.stats().pages_created;
      Controls c = g.vcpu->controls();
      c.cr4 ^= bit;
      g.set(Mode::Long4, c);
      for (const std::uint64_t a : at) REQUIRE(g.as_the_oracle(a, {}, {0, true}));
      CHECK((g.mmu.stats().pages_created == created) == wp);
    }
  }
}
TEST_CASE("PCIDE is refused with any of CR3's low 12 bits set, and outside long mode") {
  Mmu::Caps c = Guest::caps46();
  c.pcid = true;
  Guest g(c);
  g.run(Mode::Long4, kRoot, cr0::kWp, 0, 0);
  Controls on = g.vcpu->controls();
  on.cr4 |= cr4::kPcide;
  for (unsigned bit = 0; bit < 12; ++bit) {
    g.load(kRoot | 1U << bit);
    CHECK(g.vcpu->set_control(on) == ControlOutcome::InjectGp);
  }
  g.load(kRoot);
  CHECK(g.vcpu->set_control(on) == ControlOutcome::Done);
  g.load(kRoot | 0xfff);
  CHECK(g.vcpu->set_control(on) == ControlOutcome::Done);  // it is set already
  Guest p(c);
  p.run(Mode::Pae, kRoot, cr0::kWp, 0, 0);
  on = p.vcpu->controls();
  on.cr4 |= cr4::kPcide;
  CHECK(p.vcpu->set_control(on) == ControlOutcome::InjectGp);
}
TEST_CASE("hardware runs with PG, WP, PAE and NXE, without PCIDE, whatever the guest has; its other bits are its own") {
  Mmu::Caps c = Guest::caps46();
  c.pcid = true;
  Guest g(c);
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32, Mode::Flat})
    for (unsigned set = 0; set < 64; ++set) {
      const auto bit = [set](unsigned n, std::uint64_t value) { return (set >> n & 1) != 0 ? value : 0; };
      const std::uint64_t cr4 = bit(0, cr4::kSmep) | bit(1, cr4::kSmap) | bit(2, cr4::kPge) | bit(3, cr4::kPse);
      g.run(m == Mode::Flat ? Mode::Pae : m, kRoot, bit(4, cr0::kWp), cr4, bit(5, efer::kNxe));
      if (m == Mode::Flat) {
        Controls off = g.vcpu->controls();
        off.cr0 &= ~cr0::kPg;
        g.set(m, off);
      }
      if (m == Mode::Long4 && (set & 1) != 0) {
        Controls pcide = g.vcpu->controls();
        pcide.cr4 |= cr4::kPcide;
        g.set(m, pcide);
      }
      REQUIRE(g.vcpu->enter() == EnterOutcome::Enter);
      const HwState h = g.vcpu->hw_state();
      CHECK((h.cr0 & (cr0::kPg | cr0::kWp | cr0::kPe)) == (cr0::kPg | cr0::kWp | cr0::kPe));
      const std::uint64_t kept = m == Mode::Flat ? ~(cr4::kSmep | cr4::kSmap) : ~std::uint64_t{0};
      CHECK(h.cr4 == ((cr4 & kept) | cr4::kPae));
      CHECK(h.efer == (efer::kNxe | (m == Mode::Long4 ? efer::kLme | efer::kLma : 0)));
    }
}
TEST_CASE("the I bit of error codes is there with NXE under PAE, or with SMEP, and not else") {
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32})
    for (unsigned set = 0; set < 4; ++set) {
      Guest g;
      g.guest.map(m, kRoot, kSmall, 600, 0x67);
      g.run(m, kRoot, cr0::kWp, (set & 1) != 0 ? cr4::kSmep : 0, (set & 2) != 0 ? efer::kNxe : 0);
      for (const std::uint64_t a : {kSmall + 0x1000, kSmall + 0x20'0000, std::uint64_t{0x8000'0000}}) {
        const Reached got = g.access(a, {false, true, true}, {3, false});
        CHECK((got.error_code & pferr::kFetch) == ((set & 1) != 0 || ((set & 2) != 0 && m != Mode::Bits32) ? 16U : 0U));
        CHECK(g.as_the_oracle(a, {false, true, true}, {3, false}));
      }
    }
}
TEST_CASE("what the last MMIO answer was good for ends with each change of registers, and each flush") {
  for (unsigned way = 0; way < 5; ++way) {
    Guest g;
    g.guest.map(Mode::Long4, kRoot, kSmall, 5000, 0x67);
    g.run(Mode::Long4, kRoot, cr0::kWp, 0, efer::kNxe);
    REQUIRE(g.access(kSmall, {}, {}).last.kind == Kind::Mmio);
    REQUIRE(g.access(kSmall, {}, {}).last.kind == Kind::Mmio);
    REQUIRE(g.mmu.stats().mmio_cached == 1);
    Controls c = g.vcpu->controls();
    c.cr0 ^= 1U << 18;
    switch (way) {
      case 0:
        g.set(Mode::Long4, c);
        break;
      case 1:
        g.load(kRoot);
        break;
      case 2:
        g.vcpu->flush();
        break;
      case 3:
        g.vcpu->invlpg(Gva{kSmall});
        break;
      default:
        g.vcpu->invlpg(Gva{0});
        break;
    }
    REQUIRE(g.access(kSmall, {}, {}).last.kind == Kind::Mmio);
    CHECK(g.mmu.stats().mmio_cached == 1);
  }
}

TEST_CASE("a plain table entry: present, naming a table, nothing reserved; each mode, width, bit and pair of bits") {
  unsigned plain_ones = 0;
  for (const Controls& mode : {Controls{cr0::kPe | cr0::kPg, cr4::kPae, efer::kLme | efer::kLma},
                               Controls{cr0::kPe | cr0::kPg, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe},
                               Controls{cr0::kPe | cr0::kPg, cr4::kPae, 0}, Controls{cr0::kPe | cr0::kPg, 0, 0},
                               Controls{cr0::kPe | cr0::kPg, cr4::kPse, 0}})
    for (const unsigned width : {32U, 36U, 40U, 52U})
      for (const bool gib : {false, true}) {
        const guest::Paging paging(mode, width, gib);
        const unsigned top = paging.mode() == GuestMode::Long4 ? 4 : 2;  // four PDPTEs are registers
        const unsigned bits = paging.mode() == GuestMode::Bits32 ? 32 : 64;
        for (unsigned level = 2; level <= top; ++level)
          for (unsigned a = 0; a < bits; ++a)
            for (unsigned b = 0; b < bits; ++b)
              for (const std::uint64_t present : {0U, 1U}) {
                const std::uint64_t e = std::uint64_t{1} << a | std::uint64_t{1} << b | present;
                const bool plain =
                    (e & guest::kEntryPresent) != 0 && !paging.reserved_set(e, level) && !paging.maps_page(e, level);
                if (paging.plain_table(e, level) != plain) FAIL(e << " at level " << level << ", width " << width);
                plain_ones += plain ? 1U : 0U;
              }
      }
  CHECK(plain_ones > 10'000);
}
TEST_CASE("PSE-36: bits 20:13 of a 4 MiB page name its frame as far as MAXPHYADDR goes, the others must be clear") {
  for (unsigned width = 24; width <= 52; ++width) {
    const guest::Paging paging(Controls{cr0::kPe | cr0::kPg, cr4::kPse, 0}, width, false);
    for (unsigned bit = 13; bit <= 21; ++bit) {
      CAPTURE(width);
      CAPTURE(bit);
      const std::uint64_t e = guest::kEntryPresent | guest::kEntryLarge | std::uint64_t{1} << bit;
      CHECK(paging.reserved_set(e, 2) == (bit == 21 || bit - 13 + 32 >= std::max(width, 32U)));
    }
  }
}
}  // namespace
