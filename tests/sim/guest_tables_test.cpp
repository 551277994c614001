// SPDX-License-Identifier: BSL-1.0
#include "shadowmmu/sim/guest_tables.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <stdexcept>

#include "shadowmmu/sim/oracle.hpp"
#include "sim/machine.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::sim_test;
namespace {

using sim::EntryWrite;
using sim::EntryWrites;
using sim::GuestFormat;
using sim::GuestFrames;
using Tables = sim::GuestTables<sim::FlatMemory>;
using Reference = sim::Oracle<sim::FlatMemory>;

constexpr std::uint64_t kFlags = sim::gpte::kPresent | sim::gpte::kWrite | sim::gpte::kUser;

Controls controls_for(GuestFormat format) {
  switch (format) {
    case GuestFormat::ThirtyTwoBit:
      return kLegacyPse;
    case GuestFormat::Pae:
      return kPaeNx;
    case GuestFormat::FourLevel:
      return kLong;
    case GuestFormat::FiveLevel:
      break;
  }
  return with_cr4(kLong, cr4::kLa57);
}

struct Guest : Machine {
  explicit Guest(GuestFormat format = GuestFormat::FourLevel, std::uint64_t frames = 40)
      : pool(Gfn{8}, frames), tables(memory, pool, format) {}
  sim::OracleVerdict look(std::uint64_t gva, AccessRequest request = kUserWrite) {
    sim::OracleCpu cpu{controls_for(tables.format()), tables.cr3(), {}, 40, true};
    if (tables.format() == GuestFormat::Pae) {
      cpu.pdptes = Reference::read_pdptes(memory, tables.cr3());
      REQUIRE(Reference::pdptes_loadable(cpu.pdptes, 40));
    }
    return Reference{memory, cpu}.translate(Gva{gva}, {request, mode_of(request), false});
  }

  GuestFrames pool;
  Tables tables;
};

constexpr GuestFormat kFormats[] = {GuestFormat::ThirtyTwoBit, GuestFormat::Pae, GuestFormat::FourLevel,
                                    GuestFormat::FiveLevel};

}  // namespace

TEST_CASE("guest tables: what is mapped translates so, in each format and at each level") {
  for (const GuestFormat format : kFormats) {
    CAPTURE(static_cast<int>(format));
    Guest guest{format};
    const std::uint64_t gva = 0x7fc0'0000;
    CHECK(guest.look(gva).error_code == (pferr::kUser | pferr::kWrite));
    guest.tables.map(Gva{gva}, Gfn{0x12345}, kFlags);
    CHECK(guest.look(gva + 0xabc).gpa == Gpa{0x1234'5abc});
    CHECK(guest.look(gva + kPageSize).fault);
    guest.tables.map(Gva{gva}, Gfn{0x40'0000}, kFlags, Level{2});
    CHECK(guest.look(gva + 0x12'3456).gpa == Gpa{0x4'0012'3456});
    CHECK(guest.look(gva).level == Level{2});
    if (format >= GuestFormat::FourLevel) {
      guest.tables.map(Gva{0x4000'0000}, Gfn{0x8'0000}, kFlags, Level{3});
      CHECK(guest.look(gva).gpa == Gpa{0x8000'0000 + (gva & 0x3fff'ffff)});
    }
  }
}

TEST_CASE("guest tables: flags reach the entry, rights of tables count too") {
  Guest guest;
  guest.tables.map(Gva{0x1000}, Gfn{5}, sim::gpte::kPresent | sim::gpte::kNoExec);
  CHECK(guest.tables.entry(Gva{0x1000}) == (0x5000 | sim::gpte::kPresent | sim::gpte::kNoExec));
  guest.tables.map(Gva{0x8000'0000}, Gfn{5}, kFlags, Level{1}, sim::gpte::kPresent | sim::gpte::kUser);
  CHECK(guest.look(0x8000'0000).error_code == 7);
  CHECK_FALSE(guest.look(0x8000'0000, kUserRead).fault);
}

TEST_CASE("guest tables: each written word is reported once, in order, the table before the leaf") {
  Guest guest;
  const EntryWrites first = guest.tables.map(Gva{0x1000}, Gfn{5}, kFlags);
  REQUIRE(first.size() == 4);
  CHECK(first[0].gpa == Gpa{guest.tables.cr3()});
  CHECK(first[3].gpa == *guest.tables.entry_gpa(Gva{0x1000}, Level{1}));
  CHECK(first[3].before == 0);
  CHECK(first[3].after == (0x5000 | kFlags));
  CHECK(first[3].bytes == 8);
  for (const EntryWrite& write : first) CHECK(guest.peek(write.gpa.value()) == write.after);

  CHECK(guest.tables.map(Gva{0x1000}, Gfn{5}, kFlags).empty());  // nothing changed
  const EntryWrites again = guest.tables.map(Gva{0x1000}, Gfn{6}, kFlags);
  REQUIRE(again.size() == 1);
  CHECK(again[0].before == (0x5000 | kFlags));

  Guest legacy{GuestFormat::ThirtyTwoBit};
  CHECK(legacy.tables.map(Gva{0x1000}, Gfn{5}, kFlags).back().bytes == 4);
}

TEST_CASE("guest tables: unmapping clears the entry and gives the tables below back, to be reused and cleared") {
  Guest guest;
  guest.tables.map(Gva{0x1000}, Gfn{5}, kFlags);
  guest.tables.map(Gva{0x2000}, Gfn{6}, kFlags);
  CHECK(guest.tables.tables().size() == 4);
  const std::uint64_t before = guest.pool.available();
  const EntryWrites one = guest.tables.unmap(Gva{0x1000});
  REQUIRE(one.size() == 1);
  CHECK(one[0].after == 0);
  CHECK(guest.look(0x1000).fault);
  CHECK_FALSE(guest.look(0x2000).fault);
  CHECK(guest.pool.available() == before);

  const EntryWrites all = guest.tables.unmap(Gva{0}, Level{4});
  REQUIRE(all.size() == 1);
  CHECK(all[0].gpa == Gpa{guest.tables.cr3()});
  CHECK(guest.pool.available() == before + 3);
  CHECK(guest.tables.tables().size() == 1);
  CHECK_FALSE(guest.tables.entry_gpa(Gva{0x1000}, Level{1}).has_value());
  CHECK(guest.tables.unmap(Gva{0x1000}).empty());

  // Reuse: the old content is wiped by reported writes, and cannot show through.
  const EntryWrites fresh = guest.tables.map(Gva{0x1000'0000}, Gfn{7}, kFlags);
  CHECK(fresh.size() > 4);
  CHECK(guest.look(0x1000'0000).gpa == Gpa{0x7000});
  CHECK(guest.look(0x2000).fault);
}

TEST_CASE("guest tables: entries may be set to anything, and tables linked by hand are not freed twice") {
  Guest guest;
  guest.tables.map(Gva{0x1000}, Gfn{5}, kFlags);
  const auto write = guest.tables.set_entry(Gva{0x1000}, Level{1}, 0x9000 | kFlags | sim::gpte::kAccessed);
  REQUIRE(write.has_value());
  CHECK(write->before == (0x5000 | kFlags));
  CHECK(guest.look(0x1000).gpa == Gpa{0x9000});
  CHECK_FALSE(guest.tables.set_entry(Gva{0x8000'0000}, Level{1}, 1).has_value());

  const std::uint64_t child = *guest.tables.entry(Gva{0}, Level{4});
  guest.tables.set_entry(Gva{1ULL << 39}, Level{4}, child);                          // shared
  guest.tables.set_entry(Gva{511ULL << 39}, Level{4}, guest.tables.cr3() | kFlags);  // self-map
  CHECK_FALSE(guest.look(1ULL << 39 | 0x1000).fault);
  guest.tables.unmap(Gva{511ULL << 39}, Level{4});
  guest.tables.unmap(Gva{0}, Level{4});
  const std::uint64_t freed = guest.pool.available();
  guest.tables.unmap(Gva{1ULL << 39}, Level{4});
  CHECK(guest.pool.available() == freed);
}

TEST_CASE("guest tables: address spaces share a pool, give frames back, and say when there are none") {
  Machine machine;
  GuestFrames pool{Gfn{8}, 5};
  {
    Tables first{machine.memory, pool, GuestFormat::FourLevel};
    first.map(Gva{0}, Gfn{1}, kFlags);
    CHECK(pool.available() == 1);
    Tables second{machine.memory, pool, GuestFormat::FourLevel};
    CHECK(second.cr3() != first.cr3());
    CHECK_THROWS_AS(second.map(Gva{0}, Gfn{1}, kFlags), std::runtime_error);
  }
  CHECK(pool.available() == 5);
}

TEST_CASE("guest tables: PSE-36 addresses and PAE tables without rights in the PDPTE") {
  Guest legacy{GuestFormat::ThirtyTwoBit};
  legacy.tables.map(Gva{0x80'0000}, Gfn{0xab'1234'0000 >> 12 & ~0x3ffULL}, kFlags, Level{2});
  CHECK(legacy.look(0x80'0000).gpa == Gpa{0xab'1200'0000});
  Guest pae{GuestFormat::Pae};
  pae.tables.map(Gva{0xc000'0000}, Gfn{3}, kFlags);
  CHECK((*pae.tables.entry(Gva{0xc000'0000}, Level{3}) & kPageMask) == sim::gpte::kPresent);
}

}  // namespace
