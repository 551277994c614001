// SPDX-License-Identifier: BSL-1.0
#include "exhaustive/driven.hpp"
#include "support/sound.hpp"

/// PDPTEs: where they lie, when they are read, what hardware finds; and every bit of every guest entry and of CR3
/// beside the oracle, with each width of physical addresses.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
/// One gfn far away holds what gfn 10 does.
struct FarHost : TestHost {
  using TestHost::TestHost;
  void* guest_page(Gfn g) noexcept override { return TestHost::guest_page(g == alias ? Gfn{10} : g); }
  Gfn alias{~std::uint64_t{0}};
};
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;
using Guest = Driven<Mmu, FarHost>;

constexpr std::uint64_t kPagesOfMemory = Guest::kPages;
constexpr std::uint64_t kGib = std::uint64_t{1} << 30;
constexpr AccessRequest kRead{false, false, true};
constexpr CpuMode kUserMode{3, false};

/// Four PAE trees, each mapping page 0 of its GiB to a frame of its own; PDPT entries that name them.
struct Trees : Guest {
  explicit Trees(Mmu::Caps c = caps46()) : Guest(c) {
    for (std::uint64_t t = 0; t < 8; ++t) {
      table(20 + 2 * t)[0] = (21 + 2 * t) << 12 | 0x67;
      table(21 + 2 * t)[0] = (500 + t) << 12 | 0x67;
    }
  }
  static std::uint64_t pdpte(std::uint64_t t) { return (20 + 2 * t) << 12 | 1; }
  /// Effects: a PDPT at `place` (bytes) of gfn 10 leads to four of the trees, the first of them `t`.
  void set_pdpt(std::uint64_t gfn, std::uint64_t place, std::uint64_t t) {
    for (unsigned i = 0; i < 4; ++i) table(gfn)[place / 8 + i] = pdpte((t + i) % 8);
  }
  /// Returns: whether each GiB leads to its tree, for the CPU, for the emulator and by the tables of hardware.
  [[nodiscard]] bool leads_to(std::uint64_t t, unsigned absent = 4) {
    bool good = true;
    for (unsigned i = 0; i < 4; ++i) {
      const Reached got = access(i * kGib, kRead, kUserMode);
      const auto to = vcpu->translate(Gva{i * kGib}, kRead, kUserMode);
      if (i == absent) {
        good = good && !got.ok && got.error_code == pferr::kUser && !to.ok();
        continue;
      }
      const Gfn want{500 + (t + i) % 8};
      good = good && got.ok && frame_of(got.hpa) == host.backing(want, false).pfn;
      good = good && to.ok() && frame_of(to.to.gpa) == want;
      good = good && vcpu->lookup(Gva{i * kGib}).pfn == host.backing(want, false).pfn;
    }
    return good;
  }
};

TEST_CASE("F13 a PDPT is found at each of the 128 places of its frame, whatever CR3's low 5 bits say") {
  Trees g;
  for (std::uint64_t place = 0; place < kPageSize; place += 32) g.set_pdpt(10, place, place / 32);
  g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, efer::kNxe);
  for (std::uint64_t place = 0; place < kPageSize; place += 32)
    for (const std::uint64_t low : {0ULL, 1ULL << (place / 32 % 5), 31ULL}) {
      CAPTURE(place);
      g.load(10 << 12 | place | low);
      REQUIRE(g.leads_to(place / 32));
    }
  CHECK(test::unsound(g.mmu) == "");
}
TEST_CASE("F13 each place alone: the words around a PDPT do not matter") {
  Trees g;
  g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, efer::kNxe);
  for (std::uint64_t place = 0; place < kPageSize; place += 32) {
    for (unsigned i = 0; i < 512; ++i) g.table(10)[i] = ~std::uint64_t{0};  // reserved bits everywhere else
    g.set_pdpt(10, place, place / 32 + 3);
    g.load(10 << 12 | place);
    REQUIRE(g.leads_to(place / 32 + 3));
  }
}
TEST_CASE("F13 only CR3's low 32 bits count outside long mode; the page is any of them") {
  Trees g;
  g.set_pdpt(10, 96, 1);
  g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, efer::kNxe);
  for (unsigned bit = 32; bit < 64; ++bit) {
    g.load(10 << 12 | 96 | std::uint64_t{1} << bit);
    REQUIRE(g.leads_to(1));
  }
  // Each bit that is left names another frame; where there is no memory all four are absent.
  for (unsigned bit = 12; bit < 32; ++bit) {
    CAPTURE(bit);
    const std::uint64_t gfn = (std::uint64_t{1} << (bit - 12)) | 1 << 11;
    const std::uint64_t cr3 = gfn << 12 | 96;
    if (gfn < kPagesOfMemory && gfn != 1 << 11) {
      g.set_pdpt(gfn, 96, bit % 7);
      g.load(cr3);
      REQUIRE(g.leads_to(bit % 7));
    } else if (gfn >= kPagesOfMemory) {
      g.load(cr3);
      for (unsigned i = 0; i < 4; ++i) CHECK(g.access(i * kGib, kRead, kUserMode).error_code == pferr::kUser);
    }
  }
  // The highest frame that 32 bits can name.
  g.host.alias = Gfn{0xf'ffff};
  REQUIRE(g.mmu.add_slot(Gfn{0xf'ffff}, 1).ok());
  g.load(0xffff'f060);
  REQUIRE(g.leads_to(1));
}
TEST_CASE("F13 an absent PDPTE faults as the guest's, at each place, whatever its other bits; the others go on") {
  for (const bool nxe : {false, true}) {
    Trees g;
    g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, nxe ? efer::kNxe : 0);
    for (unsigned absent = 0; absent < 4; ++absent)
      for (unsigned bit = 1; bit < 64; ++bit) {
        g.set_pdpt(10, 64, 2);
        g.table(10)[8 + absent] = std::uint64_t{1} << bit;
        g.load(10 << 12 | 64);
        REQUIRE(g.leads_to(2, absent));
        const Reached got = g.access(absent * kGib, {false, true, true}, kUserMode);
        CHECK(got.error_code == (pferr::kUser | (nxe ? pferr::kFetch : 0U)));
      }
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE(
    "F13 reserved PDPTE bits refuse the load, each of them in each of the four, by the guest's width; others not") {
  for (const unsigned width : {32U, 36U, 40U, 46U, 52U}) {
    Mmu::Caps c = Guest::caps46();
    c.guest_address_bits = static_cast<std::uint8_t>(width);
    Trees g(c);
    g.set_pdpt(10, 0, 0);
    g.set_pdpt(11, 32, 4);
    g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, efer::kNxe);
    for (unsigned i = 0; i < 4; ++i)
      for (unsigned bit = 1; bit < 64; ++bit) {
        CAPTURE(width);
        CAPTURE(bit);
        g.set_pdpt(11, 32, 4);
        g.table(11)[4 + i] |= std::uint64_t{1} << bit;
        const bool refused = bit < 3 || (bit >= 5 && bit <= 8) || bit >= width;
        REQUIRE(g.vcpu->set_cr3(11 << 12 | 32) == (refused ? ControlOutcome::InjectGp : ControlOutcome::Done));
        if (refused) {
          CHECK(g.vcpu->cr3() == 10 << 12);
          REQUIRE(g.leads_to(0));
        } else if (bit < 12) {
          REQUIRE(g.leads_to(4));
        }
        g.load(10 << 12);
      }
  }
}
TEST_CASE("F13 PDPTEs are read again by each load of CR3, of the same value too, and by the control bits that say so") {
  Trees g;
  g.set_pdpt(10, 32, 0);
  g.run(Mode::Pae, 10 << 12 | 32, cr0::kWp, cr4::kPse, efer::kNxe);
  REQUIRE(g.leads_to(0));
  std::uint64_t t = 1;
  const auto reloads = [&](Controls c, bool yes) {
    g.set_pdpt(10, 32, t);
    REQUIRE(g.vcpu->set_control(c) == ControlOutcome::Done);
    CHECK(g.leads_to(yes ? t : t - 1));
    g.load(10 << 12 | 32);
    REQUIRE(g.leads_to(t));
    t += 1;
  };
  for (unsigned round = 0; round < 2; ++round) {  // set and cleared
    Controls c = g.vcpu->controls();
    for (const std::uint64_t bit : {1ULL << 29, 1ULL << 30}) reloads({c.cr0 ^= bit, c.cr4, c.efer}, true);
    for (const std::uint64_t bit : {cr4::kPse, cr4::kPge, cr4::kSmep}) reloads({c.cr0, c.cr4 ^= bit, c.efer}, true);
    for (const std::uint64_t bit : {std::uint64_t{cr0::kWp}, std::uint64_t{1} << 18})
      reloads({c.cr0 ^= bit, c.cr4, c.efer}, false);
    reloads({c.cr0, c.cr4 ^= cr4::kSmap, c.efer}, false);
    reloads({c.cr0, c.cr4, c.efer ^= efer::kNxe}, false);
  }
  // Paging off and on again; PAE off and on again.
  const Controls c = g.vcpu->controls();
  g.set_pdpt(10, 32, t);
  REQUIRE(g.vcpu->set_control({c.cr0 & ~cr0::kPg, c.cr4, c.efer}) == ControlOutcome::Done);
  REQUIRE(g.vcpu->set_control(c) == ControlOutcome::Done);
  CHECK(g.leads_to(t));
  g.set_pdpt(10, 32, ++t);
  REQUIRE(g.vcpu->set_control({c.cr0, c.cr4 & ~cr4::kPae, c.efer}) == ControlOutcome::Done);
  REQUIRE(g.vcpu->set_control(c) == ControlOutcome::Done);
  CHECK(g.leads_to(t));
  // The registers stay what they are through what is no load.
  g.set_pdpt(10, 32, t + 1);
  g.vcpu->invlpg(Gva{0});
  g.vcpu->flush();
  g.mmu.guest_wrote(Gpa{10 << 12}, kPageSize);
  g.mmu.zap_all_fast();
  CHECK(g.leads_to(t));
  CHECK(test::unsound(g.mmu) == "");
}
TEST_CASE("a control write that would load reserved PDPTEs is refused, with nothing changed") {
  Trees g;
  g.set_pdpt(10, 0, 0);
  g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, efer::kNxe);
  const Controls before = g.vcpu->controls();
  for (unsigned i = 0; i < 4; ++i) {
    g.table(10)[i] |= 2;
    for (const Controls& c : {Controls{before.cr0, before.cr4 | cr4::kPge, before.efer},
                              Controls{before.cr0 | 1U << 30, before.cr4, before.efer}}) {
      CHECK(g.vcpu->set_control(c) == ControlOutcome::InjectGp);
      CHECK(g.vcpu->controls() == before);
    }
    REQUIRE(g.leads_to(0));
    g.table(10)[i] &= ~2ULL;
  }
}
TEST_CASE(
    "hardware's PDPT: aligned to 32 bytes, below 4 GiB, another at each load, in one frame, and only P and address") {
  Trees g;
  g.set_pdpt(10, 0, 0);
  g.table(10)[2] = 0;
  g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, efer::kNxe);
  std::uint64_t before = 0;
  std::uint64_t frame = 0;
  for (unsigned n = 0; n < 400; ++n) {
    g.load(10 << 12);
    REQUIRE(g.vcpu->enter() == EnterOutcome::Enter);
    const std::uint64_t cr3 = g.vcpu->hw_state().cr3;
    REQUIRE(cr3 != before);
    REQUIRE(cr3 % 32 == 0);
    REQUIRE((cr3 >> 32) == 0);
    if (frame != 0) REQUIRE((cr3 >> 12) == frame);
    frame = cr3 >> 12;
    before = cr3;
    const auto* e = static_cast<const std::uint64_t*>(g.host.to_virt(Hpa{cr3 & ~kPageMask})) + (cr3 & kPageMask) / 8;
    for (unsigned i = 0; i < 4; ++i) REQUIRE((e[i] & kPageMask) == (i == 2 ? 0U : 1U));
  }
  REQUIRE(g.leads_to(0, 2));
}
TEST_CASE("guests without paging and of 32 bits: each GiB, and each quarter of a directory, leads to its own place") {
  Guest g;
  for (std::uint64_t i = 0; i < 16; ++i) {  // 256 MiB apart: all quadrants, all halves of tables
    g.guest.map(Mode::Bits32, 2 << 12, i << 28, 600 + i, 0x67);
    g.guest.map(Mode::Bits32, 2 << 12, (i << 28) + 0x20'0000, 620 + i, 0x67);
    g.guest.map(Mode::Bits32, 2 << 12, (i << 28) + 0x40'0000, 1024, 0x67, 2);
  }
  g.run(Mode::Bits32, 2 << 12, cr0::kWp, cr4::kPse, 0);
  for (unsigned round = 0; round < 2; ++round)
    for (std::uint64_t i = 0; i < 16; ++i) {
      for (const std::uint64_t a : {0U, 0x20'0000U, 0x40'0000U, 0x67'8000U})
        REQUIRE(g.as_the_oracle((i << 28) + a, kRead, kUserMode));
    }
  CHECK(test::unsound(g.mmu) == "");
  Controls off = g.vcpu->controls();
  off.cr0 &= ~cr0::kPg;
  REQUIRE(g.mmu.add_slot(Gfn{1 << 18}, 3).ok());
  g.set(Mode::Flat, off);
  REQUIRE(g.as_the_oracle(0x12'3000, kRead, kUserMode));
  for (std::uint64_t gib = 1; gib < 4; ++gib) {
    const Reached got = g.access(gib * kGib + 0x5000, kRead, kUserMode);
    CHECK(got.last.kind == Kind::Mmio);
    CHECK(got.last.gpa == Gpa{gib * kGib + 0x5000});
  }
}

/// What other threads find by: each mode's roots, for addresses in each GiB.
TEST_CASE("F28 another thread looks up and translates by all four PDPTEs, as the vCPU does") {
  Trees g;
  g.set_pdpt(10, 0, 0);
  g.run(Mode::Pae, 10 << 12, cr0::kWp, 0, efer::kNxe);
  REQUIRE(g.leads_to(0));
  Mmu::Reader reader(g.mmu);
  for (unsigned i = 0; i < 4; ++i) {
    CHECK(reader.lookup(*g.vcpu, Gva{i * kGib}).pfn == g.host.backing(Gfn{500 + i}, false).pfn);
    CHECK(reader.translate(*g.vcpu, Gva{i * kGib}, kRead, kUserMode).to.gpa == address_of(Gfn{500 + i}));
  }
  g.set_pdpt(10, 32, 3);
  g.load(10 << 12 | 32);
  for (unsigned i = 0; i < 4; ++i) {
    CHECK_FALSE(reader.lookup(*g.vcpu, Gva{i * kGib}).present);  // until it has entered
    CHECK(reader.translate(*g.vcpu, Gva{i * kGib}, kRead, kUserMode).to.gpa == address_of(Gfn{503 + i}));
  }
  Controls c = g.vcpu->controls();
  g.enter();
  c.cr0 &= ~cr0::kWp;
  g.set(Mode::Pae, c);
  for (unsigned i = 0; i < 4; ++i) CHECK_FALSE(reader.lookup(*g.vcpu, Gva{i * kGib}).present);
  // Above four levels all addresses have one root.
  g.guest.map(Mode::Long4, 2 << 12, 3 * kGib, 600, 0x67);
  g.run(Mode::Long4, 2 << 12, cr0::kWp, 0, efer::kNxe);
  REQUIRE(g.as_the_oracle(3 * kGib, kRead, kUserMode));
  CHECK(reader.lookup(*g.vcpu, Gva{3 * kGib}).present);
}

// --- every bit of every entry ------------------------------------------------------------------------------------
struct Where {
  std::uint64_t address;
  unsigned level;
};
/// Effects: toggles each bit of each entry above `places` in turn: the CPU, and translate, do what the oracle says.
void each_bit(Guest& g, const std::vector<Where>& places) {
  for (const Where& w : places) {
    const Gpa at = g.entry_of(w.address, w.level);
    for (unsigned bit = 0; bit < 8 * g.guest.width(); ++bit) {
      CAPTURE(w.address);
      CAPTURE(w.level);
      CAPTURE(bit);
      std::uint64_t e = 0;
      REQUIRE(g.host.read(at, g.guest.width(), e));
      static_cast<void>(g.host.write(at, g.guest.width(), e ^ std::uint64_t{1} << bit));
      g.mmu.guest_wrote(at, g.guest.width());
      for (const AccessRequest r : {kRead, AccessRequest{true, false, true}, AccessRequest{false, true, true}}) {
        const auto want = g.oracle(w.address, r, kUserMode);
        const auto to = g.vcpu->translate(Gva{w.address}, r, kUserMode);
        REQUIRE(to.ok() == !want.fault);
        if (want.fault) REQUIRE(to.fault.error_code == want.error_code);
        if (!want.fault) REQUIRE(to.to.gpa == want.gpa);
        REQUIRE(g.as_the_oracle(w.address, r, kUserMode));
      }
      static_cast<void>(g.host.write(at, g.guest.width(), e));
      g.mmu.guest_wrote(at, g.guest.width());
      g.vcpu->invlpg(Gva{w.address});
      REQUIRE(g.as_the_oracle(w.address, kRead, kUserMode));
    }
  }
}
TEST_CASE(
    "F16 reserved and other bits of entries, one by one: each mode, width, NXE, PSE, with 1 GiB pages and without") {
  constexpr std::uint64_t kSmall = 0x40'0000, kLarge = 0x80'0000, kHuge = 0xc000'0000;
  for (const unsigned width : {32U, 36U, 39U, 40U, 41U, 46U, 52U})
    for (const bool gib : {false, true})
      for (const bool on : {false, true}) {
        CAPTURE(width);
        CAPTURE(gib);
        CAPTURE(on);
        Mmu::Caps c = Guest::caps46();
        c.guest_address_bits = static_cast<std::uint8_t>(width);
        c.guest_1g = gib;
        {
          Guest g(c);
          g.guest.map(Mode::Long4, 2 << 12, kSmall, 600, 7);
          g.guest.map(Mode::Long4, 2 << 12, kLarge, 512, 7, 2);
          g.guest.map(Mode::Long4, 2 << 12, kHuge, gib ? 0 : 601, 7, gib ? 3 : 1);
          g.run(Mode::Long4, 2 << 12, cr0::kWp, 0, on ? efer::kNxe : 0);
          each_bit(g, {{kSmall, 4}, {kSmall, 3}, {kSmall, 2}, {kSmall, 1}, {kLarge, 2}, {kHuge, 3}});
        }
        if (gib) continue;
        {
          Guest g(c);
          g.guest.map(Mode::Pae, 2 << 12, kSmall, 600, 7);
          g.guest.map(Mode::Pae, 2 << 12, kLarge, 512, 7, 2);
          g.run(Mode::Pae, 2 << 12, cr0::kWp, 0, on ? efer::kNxe : 0);
          each_bit(g, {{kSmall, 2}, {kSmall, 1}, {kLarge, 2}});
        }
        Guest g(c);
        g.guest.map(Mode::Bits32, 2 << 12, kSmall, 600, 7);
        if (on) g.guest.map(Mode::Bits32, 2 << 12, kLarge, 0, 7, 2);
        g.run(Mode::Bits32, 2 << 12, cr0::kWp, on ? cr4::kPse : 0, 0);
        if (!on) static_cast<void>(g.host.write(Gpa{(2 << 12) + 4 * (kSmall >> 22)}, 1, 0xa7));  // bit 7: ignored
        each_bit(g, {{kSmall, 2}, {kSmall, 1}});
        if (on) each_bit(g, {{kLarge, 2}});
        CHECK(test::unsound(g.mmu) == "");
      }
}
/// Effects: every entry of the path has A and D, or not, in each combination: a walk sets A in all, D in the last where
/// it is written, and nothing else.
void each_accessed_and_dirty(Mode m, std::uint64_t a, unsigned page_level) {
  Guest g(Guest::caps46());
  g.guest.map(m, 2 << 12, a, 512, 7, page_level);
  g.run(m, 2 << 12, cr0::kWp, m == Mode::Bits32 ? cr4::kPse : 0, 0);
  std::vector<Gpa> path;
  for (const auto& s : g.guest.path(a)) path.push_back(s.at);
  constexpr std::uint64_t kBits = guest::kEntryAccessed | guest::kEntryDirty;
  std::uint64_t plain[4] = {}, now = 0;
  for (unsigned l = 0; l < path.size(); ++l) REQUIRE(g.host.read(path[l], g.guest.width(), plain[l]));
  for (unsigned set = 0; set < 1U << 2 * path.size(); ++set)
    for (const bool write : {false, true}) {
      CAPTURE(set);
      CAPTURE(write);
      for (unsigned l = 0; l < path.size(); ++l) {
        static_cast<void>(g.host.write(path[l], g.guest.width(), (plain[l] & ~kBits) | (set >> 2 * l & 3) << 5));
        g.mmu.guest_wrote(path[l], g.guest.width());
      }
      g.vcpu->flush();
      REQUIRE(g.as_the_oracle(a, {write, false, true}, kUserMode));
      for (unsigned l = 0; l < path.size(); ++l) {
        REQUIRE(g.host.read(path[l], g.guest.width(), now));
        const bool last = l + 1 == path.size();
        CHECK((now & kBits) ==
              ((set >> 2 * l & 3) << 5 | guest::kEntryAccessed | (last && write ? guest::kEntryDirty : 0)));
      }
    }
}
TEST_CASE("F16 A and D of each entry of a path, in each combination: what a walk sets, and what it leaves") {
  each_accessed_and_dirty(Mode::Long4, 0x40'0000, 1);
  each_accessed_and_dirty(Mode::Long4, 0x80'0000, 2);
  each_accessed_and_dirty(Mode::Pae, 0x40'0000, 1);
  each_accessed_and_dirty(Mode::Bits32, 0x40'0000, 1);
}
TEST_CASE("CR3: bits from the guest's width up are refused in long mode, each of them, and in no other mode") {
  for (const unsigned width : {36U, 40U, 46U, 52U}) {
    Mmu::Caps c = Guest::caps46();
    c.guest_address_bits = static_cast<std::uint8_t>(width);
    Guest g(c);
    g.run(Mode::Long4, 2 << 12, cr0::kWp, 0, 0);
    for (unsigned bit = 12; bit < 64; ++bit) {
      CAPTURE(width);
      CAPTURE(bit);
      const std::uint64_t cr3 = std::uint64_t{1} << bit | 2 << 12;
      CHECK(g.vcpu->set_cr3(cr3) == (bit >= width ? ControlOutcome::InjectGp : ControlOutcome::Done));
      CHECK(g.vcpu->cr3() == (bit >= width ? 2 << 12 : cr3));
      g.load(2 << 12);
    }
    Guest legacy(c);
    legacy.run(Mode::Bits32, 2 << 12, cr0::kWp, 0, 0);
    for (unsigned bit = 32; bit < 64; ++bit)
      CHECK(legacy.vcpu->set_cr3(std::uint64_t{1} << bit | 2 << 12) == ControlOutcome::Done);
  }
}
}  // namespace
