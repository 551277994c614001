// SPDX-License-Identifier: BSL-1.0
#include "exhaustive/driven.hpp"
#include "support/sound.hpp"

/// First and last entries: of the window that a fault maps, of what a write to a table touches, of what a CPU lets go
/// unsync; tables in slots that go.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;
using Guest = Driven<Mmu, MeddledHost>;

constexpr std::uint64_t kNx = std::uint64_t{1} << 63;
constexpr std::uint64_t kRoot = 2 << 12, kAt = 0x80'0000, kAlias = 0x7000'0000;
constexpr AccessRequest kRead{false, false, true}, kWrite{true, false, true};
constexpr CpuMode kUserMode{3, false};

/// A leaf table all of whose entries map frames from 600 on.
struct Full : Guest {
  explicit Full(Mode m = Mode::Long4) : mode(m), entries(m == Mode::Bits32 ? 1024 : 512) {
    for (std::uint64_t i = 0; i < entries; ++i) guest.map(m, kRoot, kAt + (i << 12), 600 + i, 0x67);
    guest.mode = m;
    guest.cr3 = kRoot;
    guest.pdptes = sim::Oracle<TestHost>::read_pdptes(host, kRoot);
    leaf = entry_of(kAt, 1).value() & ~kPageMask;
    guest.map(m, kRoot, kAlias, leaf >> 12, 0x67);
    run(m, kRoot, cr0::kWp, cr4::kPse, m == Mode::Bits32 ? 0 : efer::kNxe);
  }
  void put(std::uint64_t i, std::uint64_t e) {
    static_cast<void>(host.write(Gpa{leaf + i * guest.width()}, guest.width(), e));
  }
  /// Effects: nothing is shadowed of the leaf table, and the Mmu knows what it says.
  void start() {
    mmu.guest_wrote(Gpa{leaf}, kPageSize);
    vcpu->flush();
    enter();
  }
  EntryInfo at(std::uint64_t i) { return vcpu->lookup(Gva{kAt + (i << 12)}); }
  Kind fault(std::uint64_t i, AccessRequest r = kRead) {
    return vcpu->handle_fault(Gva{kAt + (i << 12)}, r.error_bits(), kUserMode).kind;
  }
  Mode mode;
  std::uint64_t entries, leaf = 0;
};

// --- prefetch ----------------------------------------------------------------------------------------------------
TEST_CASE("F12 a fault maps the aligned window of 8 around it, each in its place, and nothing beyond") {
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
    Full g(m);
    // Heads for all frames: what was never mapped is not prefetched.
    for (std::uint64_t i = 0; i < g.entries; i += 8) REQUIRE(g.fault(i) == Kind::Resume);
    for (const std::uint64_t base : {std::uint64_t{0}, std::uint64_t{248}, std::uint64_t{496}, g.entries - 16})
      for (std::uint64_t i = base; i < base + 16; ++i) {
        CAPTURE(i);
        g.start();
        REQUIRE(g.fault(i) == Kind::Resume);
        for (std::uint64_t n = base < 16 ? 0 : base - 16; n < g.entries && n < base + 32; ++n) {
          CHECK(g.at(n).present == (n / 8 == i / 8));
          if (g.at(n).present) CHECK(g.at(n).pfn == g.host.backing(Gfn{600 + n}, false).pfn);
        }
      }
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE(
    "F12 a neighbour gets what its own entry says: every combination of P, W, U, A, D and NX, and reserved bits") {
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
    Full g(m);
    REQUIRE(g.fault(0) == Kind::Resume);
    for (unsigned set = 0; set < 64; ++set) {
      CAPTURE(set);
      const std::uint64_t e =
          601 << 12 | (set & 7) | (set & 8) << 2 | (set & 16) << 2 | (set & 32 && m != Mode::Bits32 ? kNx : 0);
      g.put(1, e);
      g.start();
      REQUIRE(g.fault(0) == Kind::Resume);
      CHECK(g.at(1).present == ((e & 0x21) == 0x21));
      if (g.at(1).present) {
        CHECK(g.at(1).rights.write() == ((e & 0x42) == 0x42));
        CHECK(g.at(1).rights.user() == ((e & 4) != 0));
        CHECK(g.at(1).rights.exec() == ((e & kNx) == 0));
        CHECK((g.at(1).entry & arch::X86_64::kDirty) == 0);
      }
      CHECK(test::unsound(g.mmu) == "");
    }
    for (unsigned bit = 46; bit < 8 * g.guest.width(); ++bit) {
      CAPTURE(bit);
      g.put(1, 601 << 12 | 0x67 | std::uint64_t{1} << bit);
      g.start();
      REQUIRE(g.fault(0) == Kind::Resume);
      CHECK(g.at(1).present == !g.oracle(kAt + 0x1000, kRead, kUserMode).fault);
    }
  }
}
TEST_CASE("F12 rights of the tables above hold for neighbours too") {
  for (unsigned set = 0; set < 8; ++set)
    for (unsigned level = 2; level <= 4; ++level) {
      Full g;
      std::uint64_t e = 0;
      const Gpa at = g.entry_of(kAt, level);
      REQUIRE(g.host.read(at, 8, e));
      static_cast<void>(g.host.write(at, 8, (e & ~6ULL) | (set & 3) << 1 | (set & 4 ? kNx : 0)));
      g.mmu.guest_wrote(at, 8);
      g.start();
      const auto by = [](AccessRequest r) { return EachAccess{r, CpuMode{0, true}}; };
      REQUIRE(g.vcpu->handle_fault(Gva{kAt}, 0, by({}).mode).kind == Kind::Resume);
      REQUIRE(g.at(1).present);
      CHECK(g.at(1).rights == Access{(set & 3) | (set & 4 ? 0U : 4U)});
    }
}
TEST_CASE("F12 no neighbour is mapped while the Host invalidates anything, in the range or out of it") {
  for (const std::uint64_t first : {0U, 599U, 600U, 601U, 604U, 607U, 608U, 2000U}) {
    Full g;
    REQUIRE(g.fault(0) == Kind::Resume);
    g.start();
    g.mmu.invalidate_begin(Gfn{first}, 1);
    const std::uint64_t faulting = first == 600 ? 3 : 0;
    REQUIRE(g.fault(faulting) == Kind::Resume);
    for (std::uint64_t i = 0; i < 16; ++i) CHECK(g.at(i).present == (i == faulting));
    g.mmu.invalidate_end();
    g.start();
    REQUIRE(g.fault(faulting) == Kind::Resume);
    CHECK(g.at(7).present);
  }
}
TEST_CASE("F12 no neighbour is mapped that the Host does not back by memory, or that hardware cannot name") {
  for (const auto kind : {Backing::Kind::None, Backing::Kind::Device, Backing::Kind::ReadOnly, Backing::Kind::Pending,
                          Backing::Kind::Poisoned, Backing::Kind::Memory}) {
    Full g;
    REQUIRE(g.fault(0) == Kind::Resume);
    g.start();
    g.host.special = Gfn{603};
    g.host.instead.kind = kind;
    g.host.instead.pfn = Pfn{kind == Backing::Kind::Memory ? std::uint64_t{1} << 34 : 0x12345};
    REQUIRE(g.fault(0) == Kind::Resume);
    for (std::uint64_t i = 0; i < 8; ++i) CHECK(g.at(i).present == (i != 3));
    CHECK(g.host.asked_to_write == 0);
  }
}
TEST_CASE(
    "F12 a neighbour is no write: not in the log, not dirty, no table let go for it; what is mapped stays as it is") {
  Full g;
  g.put(2, g.leaf | 0x67);  // the leaf table itself, writable
  REQUIRE(g.mmu.start_dirty_log(g.slot).ok());
  REQUIRE(g.fault(0, kWrite) == Kind::Resume);
  g.start();
  std::uint64_t words[48];
  REQUIRE(g.mmu.fetch_dirty_log(g.slot, 0, 48, words).ok());
  REQUIRE(g.fault(1, kWrite) == Kind::Resume);
  CHECK(g.at(1).rights.write());
  const Counters before = g.mmu.stats();
  for (std::uint64_t i = 0; i < 8; ++i) CHECK(g.at(i).present);
  CHECK_FALSE(g.at(0).rights.write());
  CHECK_FALSE(g.at(2).rights.write());
  CHECK(before.pages_unsynced == 0);
  g.mmu.unmap(Gfn{600});
  REQUIRE(g.fault(0, kWrite) == Kind::Resume);
  CHECK(g.at(1).rights.write());  // as it was
  REQUIRE(g.mmu.read_dirty_log(g.slot, 0, 48, words).ok());
  for (std::uint64_t gfn = 602; gfn < 700; ++gfn) CHECK((words[gfn / 64] >> (gfn % 64) & 1) == 0);
  CHECK(test::unsound(g.mmu) == "");
}

TEST_CASE("F12 a neighbour that maps a synced table is not let write it") {
  Full g;
  g.put(2, g.leaf | 0x67);
  REQUIRE(g.fault(0) == Kind::Resume);
  g.start();
  REQUIRE(g.fault(1) == Kind::Resume);
  CHECK(g.at(2).present);
  CHECK(g.at(3).rights.write());
  CHECK_FALSE(g.at(2).rights.write());
  CHECK(g.mmu.stats().pages_unsynced == 0);
  CHECK(test::unsound(g.mmu) == "");
}

// --- writes to tables --------------------------------------------------------------------------------------------
TEST_CASE("F8 a reported write takes the entries whose bytes it touches and no other, at each offset and length") {
  for (const Mode m : {Mode::Long4, Mode::Bits32}) {
    Full g(m);
    const std::uint64_t width = g.guest.width();
    // Around the table's begin, its middle (where a 32-bit table's quadrants meet) and its end.
    for (const std::uint64_t middle : {width, 512 * width / (m == Mode::Bits32 ? 1 : 2), kPageSize - 2 * width})
      for (std::uint64_t off = middle - width; off < middle + 2 * width; ++off)
        for (const std::uint64_t bytes : {1U, 2U, 3U, 4U, 5U, 7U, 8U, 9U, 16U, 24U}) {
          if (off + bytes > kPageSize) continue;
          CAPTURE(off);
          CAPTURE(bytes);
          const std::uint64_t i = middle / width;
          for (std::uint64_t n = i - 1; n < i + 5 && n < g.entries; ++n)
            if (!g.at(n).present) REQUIRE(g.fault(n) == Kind::Resume);
          const std::uint64_t aligned_to = bytes < width ? bytes : width;
          const bool odd = bytes != 1 && (bytes < 4 || off % aligned_to != 0);
          const std::uint64_t apart = (i + g.entries / 2) % g.entries;  // the same index in the other quadrant
          if (!g.at(apart).present) REQUIRE(g.fault(apart) == Kind::Resume);
          g.mmu.guest_wrote(Gpa{g.leaf + off}, bytes);
          if (!odd) CHECK(g.at(apart).present);
          for (std::uint64_t n = i - 1; n < i + 5 && n < g.entries; ++n) {
            const bool hit = n * width < off + bytes && (n + 1) * width > off;
            if (hit) CHECK_FALSE(g.at(n).present);
            if (!hit && !odd) CHECK(g.at(n).present);
            if (odd && m == Mode::Long4) CHECK_FALSE(g.at(n).present);
          }
        }
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE("F8 a 4-byte directory entry feeds two shadow entries, in its own quarter; no other goes") {
  Guest g;
  const std::uint64_t slots[] = {0, 1, 2, 255, 256, 257, 511, 512, 767, 768, 1022, 1023};
  for (const std::uint64_t i : slots)
    for (const std::uint64_t half : {0U, 0x20'0000U}) g.guest.map(Mode::Bits32, kRoot, (i << 22) + half, 600 + i, 0x67);
  g.run(Mode::Bits32, kRoot, cr0::kWp, cr4::kPse, 0);
  for (const std::uint64_t hit : slots) {
    g.mmu.zap_all_fast();  // or the writes that follow count as a flood of the quarters that are not walked
    for (const std::uint64_t i : slots)
      for (const std::uint64_t half : {0U, 0x20'0000U}) REQUIRE(g.access((i << 22) + half, kRead, kUserMode).ok);
    g.mmu.guest_wrote(Gpa{kRoot + hit * 4}, 4);
    g.enter();
    for (const std::uint64_t i : slots)
      for (const std::uint64_t half : {0U, 0x20'0000U})
        CHECK(g.vcpu->lookup(Gva{(i << 22) + half}).present == (i != hit));
  }
  CHECK(test::unsound(g.mmu) == "");
}
TEST_CASE("F8 a write over the end of a page is of both tables, and of pages between; wrapping ones end at the end") {
  Guest g;
  // Three tables in frames side by side.
  g.guest.next_frame = 100;
  const std::uint64_t at[] = {0x8000'0000, 0x8020'0000, 0x8040'0000};
  g.guest.map(Mode::Long4, kRoot, at[0], 600, 0x67);
  const std::uint64_t first = g.guest.next_frame - 1;
  for (unsigned t = 1; t < 3; ++t) g.guest.map(Mode::Long4, kRoot, at[t], 600, 0x67);
  REQUIRE(g.guest.next_frame == first + 3);
  for (unsigned t = 0; t < 3; ++t)
    for (std::uint64_t i = 0; i < 512; ++i) g.table(first + t)[i] = (600 + i) << 12 | 0x67;
  g.run(Mode::Long4, kRoot, cr0::kWp, 0, efer::kNxe);
  REQUIRE(g.mmu.start_dirty_log(g.slot).ok());
  const std::uint64_t points[] = {0, 8, 4088, 4096, 4104, 8184, 8192, 8200, 12280, 12288};
  for (const std::uint64_t from : points)
    for (const std::uint64_t to : points) {
      if (to <= from) continue;
      CAPTURE(from);
      CAPTURE(to);
      for (const std::uint64_t p : points)
        if (p < 12288) REQUIRE(g.access(at[p / 4096] + (p % 4096 / 8 << 12), kRead, kUserMode).ok);
      std::uint64_t words[48];
      REQUIRE(g.mmu.fetch_dirty_log(g.slot, 0, 48, words).ok());
      g.mmu.guest_wrote(Gpa{(first << 12) + from}, to - from);
      for (const std::uint64_t p : points)
        if (p < 12288) CHECK(g.vcpu->lookup(Gva{at[p / 4096] + (p % 4096 / 8 << 12)}).present == (p < from || p >= to));
      REQUIRE(g.mmu.fetch_dirty_log(g.slot, 0, 48, words).ok());
      for (std::uint64_t gfn = first - 1; gfn < first + 4; ++gfn)
        CHECK((words[gfn / 64] >> (gfn % 64) & 1) ==
              (gfn >= first + from / 4096 && gfn <= first + (to - 1) / 4096 ? 1 : 0));
    }
  REQUIRE(g.access(at[2] + 0x1f'f000, kRead, kUserMode).ok);
  g.mmu.guest_wrote(Gpa{(first + 2) << 12}, ~std::uint64_t{0});
  CHECK_FALSE(g.vcpu->lookup(Gva{at[2] + 0x1f'f000}).present);
  CHECK(test::unsound(g.mmu) == "");
}
TEST_CASE("a window sees each entry that its instruction changes: the first, the last, both halves of a word") {
  for (const Mode m : {Mode::Long4, Mode::Bits32}) {
    Guest g;
    const unsigned shift = m == Mode::Long4 ? 21 : 22;
    const std::uint64_t slots[] = {0, 1, 2, 3, 255, 256, 510, 511, 512, 1022, 1023};
    for (const std::uint64_t i : slots)
      if (m == Mode::Bits32 || i < 512) g.guest.map(m, kRoot, i << shift, 600 + i, 0x67);
    g.guest.mode = m;
    g.guest.cr3 = kRoot;
    const std::uint64_t dir = g.entry_of(0, 2).value() & ~kPageMask;
    const std::uint64_t alias = 5ULL << shift;
    g.guest.map(m, kRoot, alias, dir >> 12, 0x67);
    g.run(m, kRoot, cr0::kWp, cr4::kPse, 0);
    const unsigned width = g.guest.width();
    for (const std::uint64_t i : slots) {
      if (m == Mode::Long4 && i >= 512) continue;
      CAPTURE(i);
      for (const unsigned wide : {4U, 8U, 16U}) {
        for (const std::uint64_t n : slots)
          if (m == Mode::Bits32 || n < 512) REQUIRE(g.access(n << shift, kRead, kUserMode).ok);
        // An instruction of so many bytes clears the entry (and its neighbour, where they are narrower).
        const Gpa at{(dir + i * width) & ~std::uint64_t{wide - 1}};
        const unsigned word = wide < 8 ? wide : 8U;
        std::uint64_t was[2] = {};
        for (unsigned w = 0; w < wide / word; ++w) REQUIRE(g.host.read(at + w * 8, word, was[w]));
        const std::uint64_t a = alias + (at.value() & kPageMask);
        const auto store = [&](std::uint64_t mask) {
          const auto write = [&] {
            for (unsigned w = 0; w < wide / word; ++w) static_cast<void>(g.host.write(at + w * 8, word, was[w] & mask));
          };
          REQUIRE(g.access(a, kWrite, kUserMode, write).ok);
        };
        store(0);
        for (const std::uint64_t n : slots)
          if (m == Mode::Bits32 || n < 512) REQUIRE(g.as_the_oracle(n << shift, kRead, kUserMode));
        store(~std::uint64_t{0});
        for (const std::uint64_t n : slots)
          if (m == Mode::Bits32 || n < 512) REQUIRE(g.as_the_oracle(n << shift, kRead, kUserMode));
      }
    }
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE(
    "F17 a window for a supervisor's write to a read-only user page leaves nothing behind, large pages included") {
  for (const unsigned level : {1U, 2U}) {
    Guest g;
    g.host.use_large_pages(3);
    g.guest.map(Mode::Long4, kRoot, 0x8000'0000, 1024, 0x65, level);
    g.run(Mode::Long4, kRoot, 0, cr4::kSmap, efer::kNxe);
    bool seen = false;
    const auto inside = [&] {
      const EntryInfo e = g.vcpu->lookup(Gva{0x8000'0000});
      seen = e.rights.write() && e.level == Level{1};  // what one use would take from another is mapped by 4 KiB
    };
    REQUIRE(g.access(0x8000'0000, {true, false, false}, {0, true}, inside).ok);
    CHECK(seen);
    CHECK_FALSE(g.vcpu->lookup(Gva{0x8000'0000}).present);
    for (const EachAccess& x : kAccesses) REQUIRE(g.as_the_oracle(0x8000'0000, x.request, x.mode));
  }
}
TEST_CASE(
    "F17 a window for a supervisor's write is for its own page: the same frame elsewhere asks for one of its own") {
  Guest g;
  g.guest.map(Mode::Long4, kRoot, 0x8000'0000, 1024, 0x65);
  g.guest.map(Mode::Long4, kRoot, 0x8000'1000, 1024, 0x65);
  g.run(Mode::Long4, kRoot, 0, cr4::kSmap, efer::kNxe);
  const auto fault = [&](std::uint64_t a) { return g.vcpu->handle_fault(Gva{a}, pferr::kWrite, CpuMode{0, true}); };
  const FaultOutcome o = fault(0x8000'0000);
  REQUIRE(o.kind == FaultOutcome::Kind::Emulate);
  REQUIRE(g.vcpu->begin_write_window(o).ok());
  CHECK(fault(0x8000'0000).kind == FaultOutcome::Kind::Resume);
  CHECK(fault(0x8000'1000).kind == FaultOutcome::Kind::Emulate);
  g.vcpu->end_write_windows();
}
TEST_CASE("F10 a table let go unsync is found at a flush, at whichever entries of the levels above it hangs") {
  for (unsigned level = 2; level <= 4; ++level)
    for (const std::uint64_t i : {0U, 1U, 63U, 64U, 127U, 128U, 319U, 447U, 448U, 511U}) {
      CAPTURE(level);
      CAPTURE(i);
      Guest g;
      const std::uint64_t sign = level == 4 && i >= 256 ? 0xffff'0000'0000'0000 : 0;
      const std::uint64_t a = sign | i << Level{level}.shift() | 3 << 12;
      g.guest.map(Mode::Long4, kRoot, a, 600, 0x67);
      g.guest.mode = Mode::Long4;
      g.guest.cr3 = kRoot;
      const Gpa at = g.entry_of(a, 1);
      const std::uint64_t alias = std::uint64_t{0x1234} << 27;
      g.guest.map(Mode::Long4, kRoot, alias, frame_of(at).value(), 0x67);
      g.run(Mode::Long4, kRoot, cr0::kWp, 0, efer::kNxe);
      REQUIRE(g.access(a, kRead, kUserMode).ok);
      REQUIRE(g.access(alias, kWrite, kUserMode).ok);
      REQUIRE(g.mmu.stats().pages_unsynced == 1);
      static_cast<void>(g.host.write(at, 8, 601 << 12 | 0x67));
      g.vcpu->flush();
      REQUIRE(g.as_the_oracle(a, kRead, kUserMode));
      CHECK_FALSE(g.vcpu->lookup(Gva{alias}).rights.write());
      CHECK(test::unsound(g.mmu) == "");
    }
}

// --- tables in slots that go -------------------------------------------------------------------------------------
TEST_CASE("3.13 while a slot goes that holds a table of any level, nothing is shadowed by it, memory or MMIO") {
  for (unsigned level = 1; level <= 4; ++level)
    for (const bool device : {false, true}) {
      CAPTURE(level);
      CAPTURE(device);
      Guest g;
      const SlotId high = g.mmu.add_slot(Gfn{4000}, 100).value();
      REQUIRE(g.mmu.remove_slot(high).ok());
      REQUIRE(g.mmu.resize_slot(g.slot, Gfn{0}, 2048).ok());
      const SlotId going = g.mmu.add_slot(Gfn{2048}, 1024).value();
      // One table of the path lies in the second slot.
      for (unsigned l = 4; l >= 1; --l) {
        const auto frame = [&](unsigned of) { return of == level ? 2050 + of : 20 + of; };
        g.table(frame(l))[Level{l}.index(kAt)] = (l == 1 ? (device ? 5000 : 600) : frame(l - 1)) << 12 | 0x67;
      }
      g.run(Mode::Long4, (level == 4 ? 2054ULL : 24ULL) << 12, cr0::kWp, 0, efer::kNxe);
      unsigned asked = 0;
      g.host.at_kick = [&] {
        asked += 1;
        REQUIRE(g.vcpu->enter() == EnterOutcome::Enter);
        const Kind k = g.vcpu->handle_fault(Gva{kAt}, pferr::kUser, kUserMode).kind;
        CHECK(k == (device ? Kind::Mmio : Kind::Retry));
        CHECK_FALSE(g.vcpu->lookup(Gva{kAt}).present);
        CHECK(test::unsound(g.mmu) == "");
      };
      REQUIRE(g.mmu.remove_slot(going).ok());
      CHECK(asked == 1);
      REQUIRE(g.vcpu->enter() == EnterOutcome::Enter);
      CHECK(g.vcpu->handle_fault(Gva{kAt}, pferr::kUser | pferr::kReserved, kUserMode).kind == Kind::InjectPageFault);
      CHECK(g.mmu.stats().mmio_hits + g.mmu.stats().mmio_cached == 0);
      CHECK(test::unsound(g.mmu) == "");
    }
}
TEST_CASE("tables are read inside slots only: their first and last gfn, whichever was read before") {
  Guest g;
  REQUIRE(g.mmu.resize_slot(g.slot, Gfn{16}, 2032).ok());  // gfns 16 to 2047
  g.table(20)[0] = 21 << 12 | 0x67;
  g.table(21)[0] = 22 << 12 | 0x67;
  const std::uint64_t frames[] = {14, 15, 16, 2046, 2047, 2048, 2049};
  for (unsigned i = 0; i < 7; ++i) {
    g.table(22)[i] = frames[i] << 12 | 0x67;
    if (frames[i] < g.kPages) g.table(frames[i])[0] = 600 << 12 | 0x67;
  }
  g.run(Mode::Long4, 20 << 12, cr0::kWp, 0, 0);
  for (unsigned before = 0; before < 7; ++before)
    for (unsigned i = 0; i < 7; ++i) {
      CAPTURE(frames[i]);
      static_cast<void>(g.vcpu->translate(Gva{std::uint64_t{before} << 21}, kRead, kUserMode));
      const bool memory = frames[i] >= 16 && frames[i] < 2048;
      CHECK(g.vcpu->translate(Gva{std::uint64_t{i} << 21}, kRead, kUserMode).ok() == memory);
      CHECK(g.access(std::uint64_t{i} << 21, kRead, kUserMode).ok == memory);
    }
}
TEST_CASE("zap_slot takes the shadows of tables in the slot, its first and last frame, and of no other") {
  for (const std::uint64_t frame : {1999U, 2000U, 2001U, 2047U, 2048U, 2559U, 2560U, 2598U, 2599U, 2600U}) {
    CAPTURE(frame);
    Guest g;
    REQUIRE(g.mmu.resize_slot(g.slot, Gfn{0}, 2000).ok());
    const SlotId zapped = g.mmu.add_slot(Gfn{2000}, 600).value();
    REQUIRE(g.mmu.add_slot(Gfn{2600}, 100).ok());
    g.guest.map(Mode::Long4, kRoot, kAt, 600, 0x67);
    g.guest.mode = Mode::Long4;
    g.guest.cr3 = kRoot;
    static_cast<void>(g.host.write(g.entry_of(kAt, 2), 8, frame << 12 | 0x67));
    g.table(frame)[0] = 600 << 12 | 0x67;
    g.run(Mode::Long4, kRoot, cr0::kWp, 0, 0);
    REQUIRE(g.access(kAt, kRead, kUserMode).ok);
    REQUIRE(g.mmu.zap_slot(zapped).ok());
    CHECK(g.vcpu->lookup(Gva{kAt}).present == (frame < 2000 || frame >= 2600));
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE("F31 an eager split splits a 32-bit guest's page of 4 MiB, both halves, and drops none") {
  Guest g;
  g.host.use_large_pages(3);
  g.guest.map(Mode::Bits32, kRoot, 0x8000'0000, 1024, 0x67, 2);
  g.run(Mode::Bits32, kRoot, cr0::kWp, cr4::kPse, 0);
  for (const std::uint64_t half : {0U, 0x20'0000U}) {
    REQUIRE(g.as_the_oracle(0x8000'0000 + half, kWrite, kUserMode));
    REQUIRE(g.vcpu->lookup(Gva{0x8000'0000 + half}).level == Level{2});
  }
  REQUIRE(g.mmu.split_large_pages(g.slot).ok());
  CHECK(g.mmu.stats().splits >= 2);
  for (std::uint64_t i = 0; i < 1024; ++i) {
    const EntryInfo e = g.vcpu->lookup(Gva{0x8000'0000 + (i << 12)});
    REQUIRE(e.present);
    CHECK(e.level == Level{1});
    CHECK(e.rights.write());
    CHECK(e.pfn == g.host.backing(Gfn{1024 + i}, false).pfn);
  }
  CHECK(test::unsound(g.mmu) == "");
}
}  // namespace
