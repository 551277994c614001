// SPDX-License-Identifier: BSL-1.0
#include <functional>

#include "core/world.hpp"

/// Several vCPUs on one Mmu, interleaved by hand at the points where one CPU may act while another is in the library.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

struct LateHost : TestHost {
  using TestHost::TestHost;
  std::function<void()> before_flush;
  void flush(const FlushRequest& r) noexcept override {
    if (auto f = std::exchange(before_flush, nullptr)) f();
    TestHost::flush(r);
  }
};
using Mmu = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost, SmallLimit>;
constexpr std::uint64_t kAt = 0x40'0000, kWindow = 0x80'0000'0000;

TEST_CASE("a frame becomes a table: what a CPU with a stale writable TLB entry stores before the flush is seen") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, kAt, 300);
  const std::uint64_t pt = b.leaf_table(1, kAt);
  const std::uint64_t pd = pt - 1;
  bool upper = false;
  SUBCASE("leaf table") {}
  SUBCASE("page directory") { upper = true; }
  b.map(250, kWindow, upper ? pd : pt);
  b.table(120)[Level{1}.index(kAt)] = 302 << 12 | kPage;
  Mmu::Vcpu a(b.mmu, VcpuId{0});
  Mmu::Vcpu other(b.mmu, VcpuId{1});
  run_long(other, 250);
  REQUIRE(write_fault(other, kWindow).kind == Kind::Resume);
  REQUIRE(other.lookup(Gva{kWindow}).rights.write());
  run_long(a, 1);
  b.host.before_flush = [&] {
    if (upper)
      b.table(pd)[Level{2}.index(kAt)] = 120 << 12 | kPage;
    else
      b.table(pt)[Level{1}.index(kAt)] = 302 << 12 | kPage;
  };
  Kind k = Kind::Retry;
  for (int i = 0; i < 10 && k == Kind::Retry; ++i) k = read_fault(a, kAt).kind;
  CHECK(k == Kind::Resume);
  REQUIRE_FALSE(b.host.before_flush);
  a.invlpg(Gva{kAt});
  if (!a.lookup(Gva{kAt}).present) CHECK(read_fault(a, kAt).kind == Kind::Resume);
  CHECK(a.lookup(Gva{kAt}).pfn == b.host.backing(Gfn{302}, false).pfn);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("while one vCPU has a window open the others stay out; a vCPU that goes away closes its windows") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, kAt, 300);
  b.map(1, 0x60'0000, 2);  // frame 2 is the PDPT
  Mmu::Vcpu other(b.mmu, VcpuId{1});
  run_long(other, 1);
  {
    Mmu::Vcpu v(b.mmu, VcpuId{0});
    run_long(v, 1);
    const FaultOutcome o = write_fault(v, 0x60'0000);
    REQUIRE(o.kind == Kind::Emulate);
    REQUIRE(v.begin_write_window(o).ok());
    REQUIRE(write_fault(v, 0x60'0000).kind == Kind::Resume);
    CHECK(other.enter() == EnterOutcome::Retry);
    CHECK(other.begin_write_window(o).error() == Error::WindowBusy);
    CHECK(v.enter() == EnterOutcome::Enter);
  }
  CHECK(other.enter() == EnterOutcome::Enter);
  CHECK_FALSE(other.lookup(Gva{0x60'0000}).rights.write());
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE(
    "a window kicks the others out once, is for one frame, and sees what a stale TLB entry writes until its flush") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, 0, 301);
  b.map(1, kAt, 300);
  const std::uint64_t pd = b.leaf_table(1, 0) - 1;
  b.map(1, 0x60'0000, pd);
  b.map(1, 0x61'0000, 2);  // the PDPT
  b.table(120)[0] = 302 << 12 | kPage;
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  REQUIRE(read_fault(v, 0).kind == Kind::Resume);
  REQUIRE(read_fault(v, kAt).kind == Kind::Resume);
  const std::uint64_t kicks = b.host.kicks;
  const FaultOutcome o = write_fault(v, 0x60'0000 + Level{2}.index(kAt) * 8);
  REQUIRE(o.kind == Kind::Emulate);
  REQUIRE(v.begin_write_window(o).ok());
  CHECK(b.host.kicks == kicks + 1);
  REQUIRE(write_fault(v, o.address).kind == Kind::Resume);
  SUBCASE("of another tracked frame") {
    const FaultOutcome second = write_fault(v, 0x61'0000);
    REQUIRE(second.kind == Kind::Emulate);
    REQUIRE(v.begin_write_window(second).ok());
    CHECK(b.host.kicks == kicks + 1);
    CHECK(write_fault(v, 0x61'0000).kind == Kind::Resume);
    v.end_write_windows();
  }
  SUBCASE("a late write") {
    b.host.before_flush = [&] { b.table(pd)[0] = 120 << 12 | kPage; };
    v.end_write_windows();
    REQUIRE_FALSE(b.host.before_flush);
    CHECK_FALSE(v.lookup(Gva{0}).present);
    REQUIRE(read_fault(v, 0).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0}).pfn == b.host.backing(Gfn{302}, false).pfn);
  }
  SUBCASE("a write that changes nothing counts where it went") {
    v.end_write_windows();
    CHECK_FALSE(v.lookup(Gva{kAt}).present);
    CHECK(v.lookup(Gva{0}).present);
  }
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("the limit grows with the vCPUs, whatever was asked for") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.mmu.set_limit(1);
  std::vector<std::unique_ptr<Mmu::Vcpu>> vcpus;
  for (std::uint32_t i = 0; i < 5; ++i) {
    auto* pd = reinterpret_cast<std::uint32_t*>(b.table(10 + i));
    pd[1] = (60 + i) << 12 | 0x67;
    reinterpret_cast<std::uint32_t*>(b.table(60 + i))[0] = (300 + i) << 12 | 0x67;
    vcpus.push_back(std::make_unique<Mmu::Vcpu>(b.mmu, VcpuId{i}));
    REQUIRE(vcpus[i]->set_cr3((10 + i) << 12) == ControlOutcome::Done);
    REQUIRE(vcpus[i]->set_control({cr0::kPe | cr0::kPg | cr0::kWp, 0, 0}) == ControlOutcome::Done);
    REQUIRE(vcpus[i]->enter() == EnterOutcome::Enter);
  }
  for (auto& v : vcpus) {
    REQUIRE(v->enter() == EnterOutcome::Enter);
    CHECK(v->handle_fault(Gva{kAt}, 0).kind == Kind::Resume);
  }
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("PCID: a flush reaches the address spaces of its PCIDs that are not loaded") {
  Mmu::Caps caps;
  caps.pcid = true;
  Bench<Mmu, LateHost> b(caps);
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, kAt, 300);
  const std::uint64_t pt = b.leaf_table(1, kAt);
  b.map(1, kWindow, pt);
  b.map(250, kWindow, pt);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  Controls k = kLongMode;
  k.cr4 |= cr4::kPcide;
  REQUIRE(v.set_control(k) == ControlOutcome::Done);
  const auto load = [&](std::uint64_t cr3) {
    REQUIRE(v.set_cr3(cr3) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
  };
  load(1 << 12 | 1);
  REQUIRE(read_fault(v, kAt).kind == Kind::Resume);
  REQUIRE(write_fault(v, kWindow).kind == Kind::Resume);
  bool enters = true;
  SUBCASE("CR4.PGE toggled") {
    load(250 << 12 | 2);
    b.table(pt)[0] = 302 << 12 | kPage;
    k.cr4 |= cr4::kPge;
    REQUIRE(v.set_control(k) == ControlOutcome::Done);
  }
  SUBCASE("flush()") {
    load(250 << 12 | 2);
    b.table(pt)[0] = 302 << 12 | kPage;
    v.flush();
  }
  SUBCASE("flush(), then away before it was served") {
    b.table(pt)[0] = 302 << 12 | kPage;
    v.flush();
    enters = false;
    REQUIRE(v.set_cr3(1ULL << 63 | 250 << 12 | 2) == ControlOutcome::Done);
  }
  SUBCASE("another set of tables loaded under the same PCID") {
    b.table(pt)[0] = 302 << 12 | kPage;
    load(250 << 12 | 1);
  }
  SUBCASE("a flushing load that never entered") {
    load(250 << 12 | 2);
    b.table(pt)[0] = 302 << 12 | kPage;
    REQUIRE(v.set_cr3(1 << 12 | 1) == ControlOutcome::Done);
    REQUIRE(v.set_cr3(1ULL << 63 | 250 << 12 | 2) == ControlOutcome::Done);
  }
  if (enters) REQUIRE(v.enter() == EnterOutcome::Enter);
  load(1ULL << 63 | 1 << 12 | 1);
  const EntryInfo e = v.lookup(Gva{kAt});
  CHECK((!e.present || e.pfn == b.host.backing(Gfn{302}, false).pfn));
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("flush owed but not done when a table is read for the first time") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  constexpr std::uint64_t kTable = 120, kNew = 0x60'0000;
  b.map(1, kAt, kTable);  // leaf maps kTable writable
  const std::uint64_t leaf = b.leaf_table(1, kAt), pd = leaf - 1;
  b.map(1, kAt + 0x10000, leaf);  // leaf maps itself
  b.table(pd)[Level{2}.index(kNew)] = kTable << 12 | kPage;
  b.table(kTable)[0] = 301 << 12 | kPage;
  b.table(200)[0] = 201 << 12 | kPage;
  b.table(201)[0] = pd << 12 | kPage;
  Mmu::Vcpu a(b.mmu, VcpuId{0});
  Mmu::Vcpu other(b.mmu, VcpuId{1});
  run_long(other, 1);
  REQUIRE(write_fault(other, kAt).kind == Kind::Resume);
  REQUIRE(write_fault(other, kAt + 0x10000).kind == Kind::Resume);
  REQUIRE(other.lookup(Gva{kAt}).rights.write());
  b.table(leaf)[0] = 303 << 12 | kPage;            // guest edits leaf (unsync), no INVLPG yet
  b.mmu.unmap(Gfn{leaf});                          // host drops the writable mapping of leaf
  REQUIRE(other.lookup(Gva{kAt}).rights.write());  // a CPU may refill its TLB with kAt -> kTable, W
  run_long(a, 200);
  bool stored = false;
  b.host.before_flush = [&] {
    stored = true;
    b.table(kTable)[0] = 302 << 12 | kPage;
  };
  Kind k = Kind::Retry;
  for (int i = 0; i < 10 && k == Kind::Retry; ++i) k = read_fault(a, kNew).kind;
  CHECK(k == Kind::Resume);
  REQUIRE(stored);
  a.invlpg(Gva{kNew});
  a.flush();
  REQUIRE(a.enter() == EnterOutcome::Enter);
  if (!a.lookup(Gva{kNew}).present) CHECK(read_fault(a, kNew).kind == Kind::Resume);
  CHECK(a.lookup(Gva{kNew}).pfn == b.host.backing(Gfn{302}, false).pfn);
  CHECK(test::unsound(b.mmu) == "");
}

TEST_CASE("PAE root load: the second directory's tables are read with the first one's flush still owed") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.table(60)[0] = 61 << 12 | 1;
  b.table(60)[1] = 62 << 12 | 1;
  b.table(61)[0] = 63 << 12 | kPage;
  b.table(62)[0] = 64 << 12 | kPage;
  b.table(63)[0] = 64 << 12 | kPage;   // 0x0    -> T1
  b.table(63)[16] = 63 << 12 | kPage;  // 0x10000 -> T0 itself
  b.table(64)[0] = 301 << 12 | kPage;
  Mmu::Vcpu a(b.mmu, VcpuId{0}), other(b.mmu, VcpuId{1});
  const Controls pae{cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kNxe};
  const auto run = [&](Mmu::Vcpu& v) {
    REQUIRE(v.set_cr3(60 << 12) == ControlOutcome::Done);
    REQUIRE(v.set_control(pae) == ControlOutcome::Done);
    REQUIRE(v.enter() == EnterOutcome::Enter);
  };
  run(other);
  REQUIRE(read_fault(other, 1 << 30).kind == Kind::Resume);
  REQUIRE(write_fault(other, 0).kind == Kind::Resume);
  REQUIRE(write_fault(other, 0x10000).kind == Kind::Resume);
  REQUIRE(other.lookup(Gva{0}).rights.write());
  b.table(63)[0] = 303 << 12 | kPage;
  b.mmu.unmap(Gfn{63});
  REQUIRE(other.lookup(Gva{0}).rights.write());
  REQUIRE(a.set_cr3(60 << 12) == ControlOutcome::Done);
  REQUIRE(a.set_control(pae) == ControlOutcome::Done);
  bool stored = false;
  b.host.before_flush = [&] {
    stored = true;
    b.table(64)[0] = 302 << 12 | kPage;
  };
  REQUIRE(a.enter() == EnterOutcome::Enter);
  CHECK(stored);
  a.flush();
  other.flush();
  REQUIRE(other.enter() == EnterOutcome::Enter);
  REQUIRE(a.enter() == EnterOutcome::Enter);
  const EntryInfo e = a.lookup(Gva{1 << 30});
  CHECK((!e.present || e.pfn == b.host.backing(Gfn{302}, false).pfn));
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("ranges and counts at the edge of 64 and 32 bits") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, kAt, 300);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  REQUIRE(read_fault(v, kAt).kind == Kind::Resume);
  b.mmu.invalidate_begin(Gfn{1}, ~0ULL);
  CHECK_FALSE(v.lookup(Gva{kAt}).present);
  CHECK(read_fault(v, kAt).kind == Kind::Retry);
  b.mmu.invalidate_end();
  REQUIRE(read_fault(v, kAt).kind == Kind::Resume);
  CHECK(b.mmu.shrink(~0U) == 3);
}
TEST_CASE("a leaf table in ROM: writes go on without the dirty bit") {
  Bench<Mmu, LateHost> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 1024).ok());
  b.map(1, kAt, 300, 0x27);
  b.host.set_read_only(Gfn{b.leaf_table(1, kAt)}, true);
  Mmu::Vcpu v(b.mmu);
  run_long(v, 1);
  CHECK(write_fault(v, kAt).kind == Kind::Resume);
  CHECK(v.lookup(Gva{kAt}).rights.write());
  CHECK((b.table(b.leaf_table(1, kAt))[0] & 0x40) == 0);
  CHECK(test::unsound(b.mmu) == "");
}
}  // namespace
