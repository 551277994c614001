// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::None, test::AnyPolicy, host::Arena>;

std::uint64_t* table(host::Arena& h, std::uint64_t g) { return static_cast<std::uint64_t*>(h.guest_page(Gfn{g})); }

TEST_CASE("no large mapping over tables that the same fault begins to shadow") {
  host::Arena host(1024, 4096);
  host.set_backing_level(Level{2});
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  // PDPT (frame 2) and PD (frame 3) lie inside the 2 MiB page that they map.
  table(host, 600)[0] = 2 << 12 | kPage;
  table(host, 2)[0] = 3 << 12 | kPage;
  table(host, 3)[0] = 0xe7;
  {
    Mmu::Vcpu v(mmu);
    run_long(v, 600);
    CHECK(write_fault(v, 0x3000).kind == Kind::Emulate);
    CHECK(test::unsound(mmu) == "");
    CHECK_FALSE(v.lookup(Gva{0x3000}).rights.write());
    CHECK(write_fault(v, 0x5000).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0x5000}).level == Level{1});
  }
}
TEST_CASE("a large mapping makes way when a frame inside becomes a table") {
  host::Arena host(2048, 4096);
  host.set_backing_level(Level{2});
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 2048).ok());
  table(host, 1)[0] = 2 << 12 | kPage;
  table(host, 2)[0] = 3 << 12 | kPage;
  table(host, 3)[8] = 1024 << 12 | kPage | 0x80;  // 0x100'0000: frames 1024 .. 1535
  table(host, 3)[9] = 1030 << 12 | kPage;         // 0x120'0000: a leaf table inside them
  table(host, 1030)[0] = 700 << 12 | kPage;
  {
    Mmu::Vcpu v(mmu);
    run_long(v, 1);
    REQUIRE(write_fault(v, 0x100'0000).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0x100'0000}).level == Level{2});
    REQUIRE(read_fault(v, 0x120'0000).kind == Kind::Resume);
    CHECK_FALSE(v.lookup(Gva{0x100'0000}).present);
    REQUIRE(write_fault(v, 0x100'0000).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0x100'0000}).level == Level{1});
    CHECK(test::unsound(mmu) == "");
  }
}
TEST_CASE(
    "F7 a table inside forbids large mappings of each size over it, beside it none, and for as long as it is one") {
  constexpr std::uint64_t kGib = 262144;
  for (const std::uint64_t inside : {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{512}, kGib - 1}) {
    host::Arena host(3 * kGib, 4096);
    host.set_backing_level(Level{3});
    Mmu mmu(host);
    REQUIRE(mmu.add_slot(Gfn{0}, 3 * kGib).ok());
    mmu.set_limit(1000);
    const std::uint64_t frame = kGib + inside;
    table(host, 1)[0] = 2 << 12 | kPage;
    table(host, 2)[0] = 3 << 12 | kPage;
    table(host, 2)[4] = kGib << 12 | kPage | 0x80;      // 4 GiB: guest page of 1 GiB, the table's frame in it
    table(host, 2)[5] = 2 * kGib << 12 | kPage | 0x80;  // 5 GiB: another, without
    table(host, 3)[1] = frame << 12 | kPage;            // 2 MiB: what the table maps
    table(host, frame)[0] = 700 << 12 | kPage;
    Mmu::Vcpu v(mmu);
    run_long(v, 1);
    const std::uint64_t base = std::uint64_t{4} << 30;
    const auto level = [&](std::uint64_t gfn) {
      REQUIRE(write_fault(v, base + (gfn << 12)).kind == Kind::Resume);
      return v.lookup(Gva{base + (gfn << 12)}).level;
    };
    const std::uint64_t region = inside / 512 * 512;
    const std::uint64_t elsewhere = region == 0 ? 1024 : 0;
    for (unsigned round = 0; round < 3; ++round) {
      CHECK(level(elsewhere) == Level{3});
      CHECK(level(kGib) == Level{3});
      REQUIRE(read_fault(v, 0x20'0000).kind == Kind::Resume);  // the table is shadowed from here on
      CHECK_FALSE(v.lookup(Gva{base + (elsewhere << 12)}).present);
      CHECK(v.lookup(Gva{base + (kGib << 12)}).level == Level{3});
      CHECK(level(elsewhere) == Level{2});
      CHECK(level(region + (inside == region ? 1 : 0)) == Level{1});
      CHECK(level(kGib) == Level{3});
      CHECK(test::unsound(mmu) == "");
      switch (round) {  // and no longer
        case 0:
          mmu.zap_all_fast();
          break;
        case 1:
          mmu.guest_wrote(address_of(Gfn{frame}) + 1, 2);
          break;
        default:
          CHECK(mmu.shrink(1000) > 0);
          break;
      }
      mmu.unmap(Gfn{0}, 3 * kGib);
      REQUIRE(v.enter() == EnterOutcome::Enter);
    }
    CHECK(level(elsewhere) == Level{3});
  }
}
TEST_CASE("a guest's large page with D clear is read-only below, and gets other children once it is written") {
  host::Arena host(2048, 4096);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 2048).ok());
  table(host, 1)[0] = 2 << 12 | kPage;
  table(host, 2)[0] = 3 << 12 | kPage;
  table(host, 3)[8] = 1024 << 12 | 0xa7;  // D clear
  {
    Mmu::Vcpu v(mmu);
    run_long(v, 1);
    REQUIRE(read_fault(v, 0x100'5000).kind == Kind::Resume);
    CHECK_FALSE(v.lookup(Gva{0x100'5000}).rights.write());
    CHECK((table(host, 3)[8] & 0x40) == 0);
    REQUIRE(write_fault(v, 0x100'6000, true).kind == Kind::Resume);
    CHECK((table(host, 3)[8] & 0x40) != 0);
    CHECK(v.lookup(Gva{0x100'6000}).rights.write());
    CHECK_FALSE(v.lookup(Gva{0x100'5000}).present);  // a child of other rights took the place
    CHECK(test::unsound(mmu) == "");
  }
}
TEST_CASE("CR0.WP = 0: code and the data that it writes may share one read-only large page") {
  for (const std::uint64_t user : {0ULL, 4ULL}) {
    host::Arena host(2048, 4096);
    Mmu mmu(host);
    REQUIRE(mmu.add_slot(Gfn{0}, 2048).ok());
    table(host, 1)[0] = 2 << 12 | kPage;
    table(host, 2)[0] = 3 << 12 | kPage;
    table(host, 3)[8] = 1024 << 12 | 0xe1 | user;
    Mmu::Vcpu v(mmu);
    run_long(v, 1);
    Controls c = kLongMode;
    c.cr0 &= ~cr0::kWp;
    REQUIRE(v.set_control(c) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    REQUIRE(v.handle_fault(Gva{0x100'0000}, pferr::kFetch).kind == Kind::Resume);
    REQUIRE(v.handle_fault(Gva{0x102'1000}, pferr::kWrite).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0x100'0000}).present);
    CHECK(v.lookup(Gva{0x102'1000}).rights.write());
    REQUIRE(v.handle_fault(Gva{0x100'3000}, 0).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0x102'1000}).rights.write());
    CHECK(test::unsound(mmu) == "");
  }
}
TEST_CASE("a guest without paging: 2 MiB at most, in the right place, and unmapped again") {
  host::Arena host(2 * 262144, 4096);
  host.set_backing_level(Level{3});
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 2 * 262144).ok());
  {
    Mmu::Vcpu v(mmu);
    REQUIRE(v.enter() == EnterOutcome::Enter);
    REQUIRE(v.handle_fault(Gva{0x4040'0000}, pferr::kWrite).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0x4040'0000}).pfn == Pfn{(host::Arena::kGuestBase >> 12) + 0x40400});
    CHECK(v.lookup(Gva{0x4040'0000}).level == Level{2});
    CHECK_FALSE(v.lookup(Gva{0x4020'0000}).present);
    CHECK(test::unsound(mmu) == "");
    mmu.unmap(Gfn{0x40400}, 1);
    CHECK_FALSE(v.lookup(Gva{0x4040'0000}).present);
  }
}
TEST_CASE("guest pages of 1 GiB over backing of every size") {
  for (const unsigned level : {1U, 2U, 3U}) {
    host::Arena host(2 * 262144, 4096);
    host.set_backing_level(Level{level});
    Mmu mmu(host);
    REQUIRE(mmu.add_slot(Gfn{0}, 2 * 262144).ok());
    table(host, 1)[0] = 2 << 12 | kPage;
    table(host, 2)[5] = 262144ULL << 12 | kPage | 0x80;
    Mmu::Vcpu v(mmu);
    run_long(v, 1);
    const std::uint64_t a = (5ULL << 30) + 0x1234'5000;
    REQUIRE(write_fault(v, a).kind == Kind::Resume);
    CHECK(v.lookup(Gva{a}).level == Level{level});
    CHECK(v.lookup(Gva{a}).pfn == Pfn{(host::Arena::kGuestBase >> 12) + 262144 + 0x12345});
    CHECK(test::unsound(mmu) == "");
  }
}
TEST_CASE("a frame that hardware cannot name is the Host's error, not an entry") {
  struct Liar : TestHost {
    using TestHost::TestHost;
    Backing backing(Gfn g, bool w) noexcept override {
      Backing b = TestHost::backing(g, w);
      if (g == Gfn{401}) b.pfn = Pfn{std::uint64_t{1} << 38};
      return b;
    }
  };
  using M = ShadowMmu<arch::X86_64, lock::Checked<TestLock>, test::AnyPolicy, TestHost>;
  M::Caps caps;
  caps.host_address_bits = 46;
  Bench<M, Liar> b(caps);
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, 0x40'0000, 400);
  b.map(1, 0x40'1000, 401);
  M::Vcpu v(b.mmu);
  run_long(v, 1);
  CHECK(write_fault(v, 0x40'0000).kind == Kind::Resume);
  CHECK_FALSE(v.lookup(Gva{0x40'1000}).present);  // not by prefetch either
  CHECK(write_fault(v, 0x40'1000).kind == Kind::HostError);
}
}  // namespace
