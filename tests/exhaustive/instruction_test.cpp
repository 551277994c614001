// SPDX-License-Identifier: BSL-1.0
#include <memory>
#include <vector>

#include "core/world.hpp"

/// Whatever one x86 instruction with the event that it delivers needs at once can be mapped at once: its faults do not
/// evict one another for ever, at the least limit, under every policy, whatever other vCPUs do.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;
constexpr unsigned kAddresses = 16;

/// Effects: v runs one instruction: whenever a translation is missing it faults and starts over. Between two faults
/// `meanwhile` runs. Returns: whether all translations stood at the same time within so many faults.
template <class Vcpu, class F>
bool completes(Vcpu& v, const std::vector<std::uint64_t>& addresses, unsigned faults, F&& meanwhile) {
  for (unsigned n = 0; n <= faults; ++n) {
    if (v.enter() != EnterOutcome::Enter) FAIL("no entry");
    const std::uint64_t* missing = nullptr;
    for (const std::uint64_t& a : addresses)
      if (missing == nullptr && !v.lookup(Gva{a}).present) missing = &a;
    if (missing == nullptr) return true;
    const Kind k = read_fault(v, *missing).kind;
    if (k != Kind::Resume && k != Kind::Retry) FAIL("fault on " << *missing);
    meanwhile();
  }
  return false;
}

struct WideHost : TestHost {
  WideHost(std::uint64_t, std::uint64_t) : TestHost(4096, 8192) {}
};
using WideMmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;

/// A guest whose two instructions need sixteen paths each with nothing in common but the root.
struct Far : Bench<WideMmu, WideHost> {
  Far() {
    next = 10;
    REQUIRE(mmu.add_slot(Gfn{0}, 4096).ok());
    for (unsigned set = 0; set < 2; ++set)
      for (unsigned i = 0; i < kAddresses; ++i) {
        const std::uint64_t a = (std::uint64_t{set * 32 + i + 1} << 39) + (std::uint64_t{i} << 30);
        map(1 + set, a, 3000 + i);
        far[set].push_back(a);
      }
  }
  std::vector<std::uint64_t> far[2];
};

TEST_CASE("the least limit is what one instruction of each vCPU may need: 49 pages, 98 for two, 392 for eight") {
  TestHost host(64, 512);
  Mmu mmu(host);
  std::vector<std::unique_ptr<Mmu::Vcpu>> v;
  for (std::uint32_t n = 1; n <= 8; ++n) {
    v.push_back(std::make_unique<Mmu::Vcpu>(mmu, VcpuId{n}));
    CHECK(mmu.set_limit(1) == 49 * n);
    CHECK(mmu.limit() == 49 * n);
  }
}

TEST_CASE("sixteen addresses under sixteen top entries at the least limit, under every policy") {
  each_policy([] {
    Far f;
    WideMmu::Vcpu v(f.mmu);
    CHECK(f.mmu.set_limit(1) == 49);
    run_long(v, 1);
    CHECK(completes(v, f.far[0], 4000, [] {}));
    CHECK(f.mmu.stats().pages_used <= 49);
    // Another instruction in the same tables' place, and back.
    REQUIRE(v.set_cr3(2 << 12) == ControlOutcome::Done);
    CHECK(completes(v, f.far[1], 4000, [] {}));
    REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
    CHECK(completes(v, f.far[0], 4000, [] {}));
    CHECK(test::unsound(f.mmu) == "");
  });
}

TEST_CASE("another vCPU that makes pages without end does not keep an instruction from its end, under every policy") {
  each_policy([] {
    Far f;
    WideMmu::Vcpu v(f.mmu, VcpuId{0});
    WideMmu::Vcpu other(f.mmu, VcpuId{1});
    const std::uint32_t least = f.mmu.set_limit(1);
    CHECK(least == 98);
    run_long(v, 1);
    run_long(other, 2);
    for (std::uint64_t i = 0; i < 400; ++i) f.map(2, std::uint64_t{200} << 39 | i << 21, 3100 + i);
    std::uint64_t i = 0;
    const auto churn = [&] {
      for (unsigned n = 0; n < 8; ++n) {  // enough that every policy lets go of what the instruction needs
        const bool entered = other.enter() == EnterOutcome::Enter;
        const Kind k = read_fault(other, std::uint64_t{200} << 39 | (i++ % 400) << 21).kind;
        if (!entered || (k != Kind::Resume && k != Kind::Retry)) FAIL("fault " << i << " of the other vCPU");
      }
    };
    CHECK(completes(v, f.far[0], 8000, churn));
    CHECK(f.mmu.stats().holdings > 0);  // it did not get on without
    CHECK(f.mmu.stats().pages_used <= least);
    CHECK(test::unsound(f.mmu) == "");
  });
}

TEST_CASE("what a guest replaced of held paths makes room: tables changed one by one, and whole subtrees") {
  each_policy([] {
    for (const std::uint32_t limit : {49U, 64U, 80U}) {
      CAPTURE(limit);
      Far f;
      WideMmu::Vcpu v(f.mmu);
      f.mmu.set_limit(limit);
      run_long(v, 1);
      CHECK(completes(v, f.far[0], 4000, [] {}));
      for (unsigned round = 0; round < 8; ++round) {
        for (unsigned i = 0; i < kAddresses; ++i) {
          const std::uint64_t a = f.far[0][i];
          const unsigned l = round % 2 == 0 ? 3 : 2;  // the guest replaces a directory and its table, or a table alone
          std::uint64_t t = 1;
          for (unsigned k = 4; k > l; --k) t = f.table(t)[Level{k}.index(a)] >> 12 & 0xffff'ffff;
          f.table(t)[Level{l}.index(a)] = 0;
          f.map(1, a, 3100 + round * 16 + i);
          f.mmu.guest_wrote(Gpa{(t << 12) + Level{l}.index(a) * 8}, 8);
        }
        CHECK(completes(v, f.far[0], 4000, [] {}));
      }
      CHECK(test::unsound(f.mmu) == "");
    }
  });
}

TEST_CASE("a vCPU that gets on holds nothing, and lets go what it held") {
  Far f;
  WideMmu::Vcpu v(f.mmu);
  f.mmu.set_limit(1);
  run_long(v, 1);
  for (std::uint64_t i = 0; i < 400; ++i) f.map(1, std::uint64_t{300} << 39 | i << 21, 3100 + i);
  for (unsigned round = 0; round < 3; ++round)
    for (std::uint64_t i = 0; i < 400; ++i)
      REQUIRE(read_fault(v, std::uint64_t{300} << 39 | i << 21).kind == Kind::Resume);
  CHECK(f.mmu.stats().holdings == 0);
}

TEST_CASE("the PAE shape: four directories and sixteen leaf tables at the least limit, under every policy") {
  each_policy([] {
    TestHost host(1024, 4096);
    Mmu mmu(host);
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
    std::vector<std::uint64_t> addresses;
    for (std::uint64_t i = 0; i < 4; ++i) table(1)[i] = (2 + i) << 12 | 1;
    for (std::uint64_t i = 0; i < kAddresses; ++i) {
      const std::uint64_t a = (i % 4) << 30 | (i * 8 + 1) << 21;
      table(2 + i % 4)[Level{2}.index(a)] = (10 + i) << 12 | kPage;
      table(10 + i)[0] = (300 + i) << 12 | kPage;
      addresses.push_back(a);
    }
    Mmu::Vcpu v(mmu);
    mmu.set_limit(1);
    REQUIRE(v.set_cr3(1 << 12) == ControlOutcome::Done);
    REQUIRE(v.set_control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kNxe}) == ControlOutcome::Done);
    CHECK(completes(v, addresses, 4000, [] {}));
    CHECK(test::unsound(mmu) == "");
  });
}

TEST_CASE("tables in ROM, D clear: one instruction reads one part of a large page and writes another") {
  for (const bool flagged : {true, false}) {
    CAPTURE(flagged);
    TestHost host(2048, 4096);
    Mmu mmu(host);
    REQUIRE(mmu.add_slot(Gfn{0}, 256, SlotFlags{flagged}).ok());
    REQUIRE(mmu.add_slot(Gfn{512}, 512).ok());
    const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
    table(1)[0] = 2 << 12 | 7;
    table(2)[0] = 3 << 12 | 7;
    table(3)[0] = 512 << 12 | 0x87;
    if (!flagged)
      for (std::uint64_t g = 0; g < 256; ++g) host.set_read_only(Gfn{g}, true);
    Mmu::Vcpu v(mmu);
    run_long(v, 1);
    REQUIRE(read_fault(v, 0x5000).kind == Kind::Resume);
    REQUIRE(write_fault(v, 0x9000).kind == Kind::Resume);
    CHECK(v.lookup(Gva{0x5000}).present);
    CHECK(v.lookup(Gva{0x9000}).rights.write());
    CHECK((table(3)[0] & 0x60) == 0);
    CHECK(test::unsound(mmu) == "");
  }
}

TEST_CASE("CR0.WP = 0: the user fetches from one part of a read-only large page, its event is pushed to another") {
  TestHost host(1024, 4096);
  host.use_large_pages(3);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
  table(1)[0] = 2 << 12 | kPage;
  table(2)[0] = 3 << 12 | kPage;
  table(3)[0] = 512 << 12 | 0xe5;  // a 2 MiB page, the user's, read-only
  Mmu::Vcpu v(mmu);
  run_long(v, 1);
  Controls c = kLongMode;
  c.cr0 &= ~cr0::kWp;
  REQUIRE(v.set_control(c) == ControlOutcome::Done);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  REQUIRE(v.handle_fault(Gva{0x5000}, pferr::kUser | pferr::kFetch, CpuMode{3, false}).kind == Kind::Resume);
  REQUIRE(v.handle_fault(Gva{0x9000}, pferr::kWrite, CpuMode{0, false}).kind == Kind::Resume);
  CHECK(v.lookup(Gva{0x5000}).rights.user());
  CHECK(v.lookup(Gva{0x9000}).rights.write());
  CHECK_FALSE(v.lookup(Gva{0x9000}).rights.user());
  CHECK(test::unsound(mmu) == "");
}
}  // namespace
