// SPDX-License-Identifier: BSL-1.0
// This suite is a release build whatever the preset is.
#ifndef NDEBUG
#define NDEBUG 1
#endif
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <memory>
#include <optional>

#include "shadowmmu/shadowmmu.hpp"
#include "support/test_host.hpp"

/// What an embedder can do wrong with the interface, in a release build: defined, and without an effect on anything
/// else. What a debug build says stands in tests/exhaustive/misuse_test.cpp.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::Ept, lock::Spin, reclaim::Default, TestHost>;
using Kind = FaultOutcome::Kind;

TEST_CASE("what nobody has said anything of yet says nothing") {
  const auto words = std::bit_cast<std::array<std::uint64_t, sizeof(Counters) / sizeof(std::uint64_t)>>(Counters{});
  for (const std::uint64_t w : words) CHECK(w == 0);
  CHECK(PageFault{}.error_code == 0);
  CHECK(FaultOutcome{}.error_code == 0);
  CHECK(FlushRequest{}.scope == FlushRequest::Scope::Structures);
  CHECK((FlushRequest{}.first == 0 && FlushRequest{}.pages == 0));
  CHECK(AuditReport{}.violations == 0);
}
TEST_CASE("release: the value of an error names nothing") {
  TestHost host(1024, 4096);
  Mmu mmu(host);
  const Result<SlotId> a = mmu.add_slot(Gfn{0}, 100);
  const Result<SlotId> b = mmu.add_slot(Gfn{50}, 100);
  REQUIRE(a.ok());
  REQUIRE_FALSE(b.ok());
  CHECK_FALSE(mmu.remove_slot(b.value()).ok());
  CHECK(mmu.remove_slot(a.value()).ok());
}
TEST_CASE("release: an invalidate_end too many takes nothing from the next invalidation") {
  TestHost host(1024, 4096);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  Mmu::Vcpu v(mmu);
  mmu.invalidate_end();
  mmu.invalidate_begin(Gfn{0}, 1);
  CHECK(v.handle_fault(Gva{0}, 0).kind == Kind::Retry);
  mmu.invalidate_end();
  CHECK(v.handle_fault(Gva{0}, 0).kind == Kind::Resume);
}
TEST_CASE("release: two vCPUs of one id are two vCPUs") {
  TestHost host(1024, 4096);
  Mmu mmu(host);
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  Mmu::Vcpu one(mmu, VcpuId{1});
  Mmu::Vcpu two(mmu, VcpuId{1});
  REQUIRE(one.handle_fault(Gva{0}, 0).kind == Kind::Resume);
  REQUIRE(two.handle_fault(Gva{0}, 0).kind == Kind::Resume);
  FaultOutcome emulate;
  emulate.kind = Kind::Emulate;
  emulate.gpa = Gpa{0x3000};
  REQUIRE(one.begin_write_window(emulate).ok());
  CHECK(two.enter() == EnterOutcome::Retry);
  one.end_write_windows();
  CHECK(two.enter() == EnterOutcome::Enter);
}
TEST_CASE("release: an Mmu that ends before its vCPU takes it along, frames and all") {
  TestHost host(1024, 4096);
  const auto used = host.frames_used();
  {
    std::optional<Mmu> mmu(std::in_place, host);
    REQUIRE(mmu->add_slot(Gfn{0}, 1024).ok());
    Mmu::Vcpu one(*mmu, VcpuId{0});
    Mmu::Vcpu two(*mmu, VcpuId{1});
    for (std::uint64_t g = 0; g < 50; ++g) REQUIRE(one.handle_fault(Gva{g << 12}, 0).kind == Kind::Resume);
    REQUIRE(two.handle_fault(Gva{0}, 0).kind == Kind::Resume);
    mmu.reset();
    CHECK(host.frames_used() == used);
  }
  CHECK(host.frames_used() == used);
}
}  // namespace
