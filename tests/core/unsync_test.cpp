// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Checked<TestLock>, test::AnyPolicy, TestHost>;

constexpr std::uint64_t kData = 0x40'0000, kAlias = 0x7f00'0000'0000;

/// One address space; kAlias maps the leaf table of kData writable, so that the guest can edit it.
struct Tables : Bench<Mmu> {
  Tables() {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    map(1, kData, 400);
    map(1, kData + 0x1000, 401);
    map(1, kData + 0x9000, 409);
    leaf = leaf_table(1, kData);
    map(1, kAlias, leaf);
    vcpu = std::make_unique<Mmu::Vcpu>(mmu);
    run_long(*vcpu, 1);
    REQUIRE(read_fault(*vcpu, kData).kind == Kind::Resume);
  }
  ~Tables() { vcpu.reset(); }
  /// The guest stores into the leaf table through the alias; no fault means that the shadow let it go.
  void store(unsigned i, std::uint64_t e) {
    if (!vcpu->lookup(Gva{kAlias}).rights.write()) REQUIRE(write_fault(*vcpu, kAlias).kind == Kind::Resume);
    REQUIRE(vcpu->lookup(Gva{kAlias}).rights.write());
    table(leaf)[i] = e;
  }
  void reload() {
    REQUIRE(vcpu->set_cr3(1 << 12) == ControlOutcome::Done);
    REQUIRE(vcpu->enter() == EnterOutcome::Enter);
    CHECK(test::unsound(mmu) == "");
  }
  std::uint64_t leaf = 0;
  std::unique_ptr<Mmu::Vcpu> vcpu;
};

TEST_CASE("a leaf table is let go on the first write and brought back by a CR3 load") {
  Tables t;
  t.store(0, 402 << 12 | kPage);
  CHECK(t.mmu.stats().pages_unsynced == 1);
  CHECK(t.vcpu->lookup(Gva{kData}).pfn == t.host.backing(Gfn{400}, false).pfn);  // still legal: no flush yet
  CHECK(test::unsound(t.mmu) == "");
  t.reload();
  CHECK_FALSE(t.vcpu->lookup(Gva{kData}).present);
  CHECK_FALSE(t.vcpu->lookup(Gva{kAlias}).rights.write());
  CHECK(t.mmu.stats().entries_resynced == 1);
  CHECK(write_fault(*t.vcpu, kData).kind == Kind::Resume);
  CHECK(t.vcpu->lookup(Gva{kData}).pfn == t.host.backing(Gfn{402}, false).pfn);
}
TEST_CASE("sync touches only what changed") {
  Tables t;
  REQUIRE(read_fault(*t.vcpu, kData + 0x9000).kind == Kind::Resume);
  t.store(0, 402 << 12 | kPage);
  const auto before = t.vcpu->lookup(Gva{kData + 0x9000});
  t.reload();
  const auto after = t.vcpu->lookup(Gva{kData + 0x9000});
  CHECK(after.present);
  CHECK(after.entry == before.entry);
  CHECK(t.mmu.stats().entries_resynced == 1);
}
TEST_CASE("INVLPG brings one entry up to date, and leaves the others as they were") {
  Tables t;
  REQUIRE(read_fault(*t.vcpu, kData + 0x9000).kind == Kind::Resume);
  t.store(0, 402 << 12 | kPage);
  t.store(9, 403 << 12 | kPage);
  t.vcpu->invlpg(Gva{kData});
  CHECK_FALSE(t.vcpu->lookup(Gva{kData}).present);
  CHECK(t.vcpu->lookup(Gva{kData + 0x9000}).pfn == t.host.backing(Gfn{409}, false).pfn);
  CHECK(t.vcpu->lookup(Gva{kAlias}).rights.write());
  CHECK(test::unsound(t.mmu) == "");
}
TEST_CASE("a cleared dirty bit takes write access, a cleared accessed bit the entry") {
  Tables t;
  REQUIRE(write_fault(*t.vcpu, kData).kind == Kind::Resume);
  REQUIRE(write_fault(*t.vcpu, kData + 0x1000).kind == Kind::Resume);
  t.store(0, 400 << 12 | (kPage & ~0x40ULL));
  t.store(1, 401 << 12 | (kPage & ~0x20ULL));
  t.reload();
  CHECK(t.vcpu->lookup(Gva{kData}).present);
  CHECK_FALSE(t.vcpu->lookup(Gva{kData}).rights.write());
  CHECK_FALSE(t.vcpu->lookup(Gva{kData + 0x1000}).present);
}
TEST_CASE("an unsync leaf table that becomes a directory is seen again") {
  Tables t;
  t.store(0, 402 << 12 | kPage);
  CHECK(t.mmu.stats().pages_unsynced == 1);
  // The same frame as page directory of another address: its entry 0 leads to frame 402 as a leaf table.
  const std::uint64_t other = 0x80'0000'0000;
  t.map(1, other, 405);
  std::uint64_t pdpt = t.table(1)[Level{4}.index(other)] >> 12 & 0xffff'ffff;
  t.table(pdpt)[0] = t.leaf << 12 | kPage;
  t.table(402)[0] = 406 << 12 | kPage;
  t.mmu.guest_wrote(Gpa{pdpt << 12}, 8);
  REQUIRE(write_fault(*t.vcpu, other).kind == Kind::Resume);
  CHECK(t.vcpu->lookup(Gva{other}).pfn == t.host.backing(Gfn{406}, false).pfn);
  CHECK(test::unsound(t.mmu) == "");
  CHECK_FALSE(t.vcpu->lookup(Gva{kAlias}).rights.write());
  CHECK(write_fault(*t.vcpu, kAlias, true).kind == Kind::Emulate);
}
TEST_CASE("an unsync table linked anew is brought up to date without a flush by the guest") {
  Tables t;
  t.store(0, 402 << 12 | kPage);
  // A second directory entry leads to the same leaf table: not present before, so the guest owes no flush.
  const std::uint64_t second = kData + (64ULL << 21);
  std::uint64_t pd = t.table(t.table(1)[0] >> 12 & 0xffff'ffff)[0] >> 12 & 0xffff'ffff;
  t.table(pd)[Level{2}.index(second)] = t.leaf << 12 | kPage;
  t.mmu.guest_wrote(Gpa{(pd << 12) + Level{2}.index(second) * 8}, 8);
  REQUIRE(read_fault(*t.vcpu, second + 0x9000).kind == Kind::Resume);
  CHECK_FALSE(t.vcpu->lookup(Gva{second}).present);
  REQUIRE(read_fault(*t.vcpu, second).kind == Kind::Resume);
  CHECK(t.vcpu->lookup(Gva{second}).pfn == t.host.backing(Gfn{402}, false).pfn);
  CHECK(test::unsound(t.mmu) == "");
  // Let go still: both parents know.
  t.store(0, 404 << 12 | kPage);
  t.reload();
  CHECK_FALSE(t.vcpu->lookup(Gva{second}).present);
}
TEST_CASE("a frame shadowed by two leaf pages: writable only when both are let go, synced one by one") {
  Tables t;
  // Reached through a read-only directory entry, the table has a second shadow page with other rights.
  const std::uint64_t narrow = kData + (65ULL << 21);
  std::uint64_t pd = t.table(t.table(1)[0] >> 12 & 0xffff'ffff)[0] >> 12 & 0xffff'ffff;
  t.table(pd)[Level{2}.index(narrow)] = t.leaf << 12 | (kPage & ~2ULL);
  t.mmu.guest_wrote(Gpa{(pd << 12) + Level{2}.index(narrow) * 8}, 8);
  REQUIRE(read_fault(*t.vcpu, narrow).kind == Kind::Resume);
  t.store(0, 402 << 12 | kPage);
  CHECK(t.mmu.stats().pages_unsynced == 2);
  CHECK(test::unsound(t.mmu) == "");
  t.reload();
  CHECK_FALSE(t.vcpu->lookup(Gva{kData}).present);
  CHECK_FALSE(t.vcpu->lookup(Gva{narrow}).present);
}
TEST_CASE("INVLPG under one role, then a MOV to CR0 that flushes nothing: the other role's tables are up to date too") {
  Tables t;
  Controls lax = kLongMode;
  lax.cr0 &= ~cr0::kWp;
  REQUIRE(t.vcpu->set_control(lax) == ControlOutcome::Done);
  REQUIRE(t.vcpu->enter() == EnterOutcome::Enter);
  REQUIRE(read_fault(*t.vcpu, kData).kind == Kind::Resume);
  t.store(0, 402 << 12 | kPage);
  CHECK(t.mmu.stats().pages_unsynced == 2);
  t.vcpu->invlpg(Gva{kData});
  CHECK_FALSE(t.vcpu->lookup(Gva{kData}).present);
  REQUIRE(t.vcpu->set_control(kLongMode) == ControlOutcome::Done);
  REQUIRE(t.vcpu->enter() == EnterOutcome::Enter);
  CHECK_FALSE(t.vcpu->lookup(Gva{kData}).present);
  CHECK(test::unsound(t.mmu) == "");
}
TEST_CASE("a directory that is unlinked while the guest flushes comes back with its tables up to date") {
  Tables t;
  const std::uint64_t pml4_entry = (1 << 12) + Level{4}.index(kData) * 8;
  t.mmu.guest_wrote(Gpa{pml4_entry}, 8);  // zaps the root's entry; the tree below is an orphan
  t.store(0, 402 << 12 | kPage);
  t.reload();
  REQUIRE(read_fault(*t.vcpu, kData + 0x9000).kind == Kind::Resume);  // links the orphan again
  CHECK_FALSE(t.vcpu->lookup(Gva{kData}).present);
  CHECK(test::unsound(t.mmu) == "");
}
TEST_CASE("write flooding: an upper table written again and again loses its shadow") {
  Tables t;
  std::uint64_t pdpt = t.table(1)[0] >> 12 & 0xffff'ffff;
  const std::uint64_t flooded = t.mmu.stats().pages_flooded;
  for (unsigned i = 100; i < 103; ++i) t.mmu.guest_wrote(Gpa{(pdpt << 12) + i * 8}, 8);
  CHECK(t.mmu.stats().pages_flooded == flooded + 1);
  CHECK(test::unsound(t.mmu) == "");
  REQUIRE(read_fault(*t.vcpu, kData).kind == Kind::Resume);
}
TEST_CASE("write flooding: a fault in between ends it, wherever it finds its way") {
  Tables t;
  const std::uint64_t pdpt = t.table(1)[0] >> 12 & 0xffff'ffff;
  const std::uint64_t flooded = t.mmu.stats().pages_flooded;
  for (unsigned i = 100; i < 110; ++i) {
    t.mmu.guest_wrote(Gpa{(pdpt << 12) + i * 8}, 8);
    REQUIRE(read_fault(*t.vcpu, kData).kind == Kind::Resume);  // by the directory that is remembered, it would be
  }
  CHECK(t.mmu.stats().pages_flooded == flooded);
}
TEST_CASE("an odd write means that the frame is no table any more; a byte of A and D does not") {
  Tables t;
  const std::uint64_t pages = t.mmu.audit().pages;
  t.mmu.guest_wrote(Gpa{t.leaf << 12}, 1);
  CHECK(t.mmu.audit().pages == pages);
  t.mmu.guest_wrote(Gpa{(t.leaf << 12) + 3}, 4);
  CHECK(t.mmu.audit().pages == pages - 1);
  CHECK(test::unsound(t.mmu) == "");
}
}  // namespace
