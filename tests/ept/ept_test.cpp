// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <map>
#include <memory>

#include "shadowmmu/shadowmmu.hpp"
#include "support/test_host.hpp"

/// Direct second-level tables: every guest frame in its place, with the Host's rights, at the largest size that fits.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Kind = FaultOutcome::Kind;

/// Blocks of 2 MiB keep together and aligned, others are scattered; some frames are read-only.
struct BlockHost : host::Arena {
  static constexpr std::uint64_t kPages = 4096;
  BlockHost() : Arena(kPages * 2, 4096) {}
  std::map<std::uint64_t, Backing::Kind> kinds;
  std::uint64_t moved[8] = {};  ///< where block b lies now, in blocks
  std::uint64_t allocations = 0;
  Result<Hpa> alloc_frame(FrameKind k) noexcept {
    allocations += 1;
    return Arena::alloc_frame(k);
  }
  [[nodiscard]] std::uint64_t place(std::uint64_t g) const noexcept {
    const std::uint64_t block = g >> 9;
    if (block % 4 == 3) return block * 512 + (g * 5 + 3) % 512;      // scattered inside
    if (block % 4 == 2) return block * 512 + ((g & 511) + 1) % 512;  // contiguous, but shifted by one
    return (block + moved[block]) * 512 + (g & 511);
  }
  Backing backing(Gfn g, bool write) noexcept {
    if (g.value() >= kPages) return {};
    Backing b = Arena::backing(Gfn{place(g.value())}, write);
    b.level = (g.value() >> 9) % 4 == 3 ? Level{1} : Level{2};  // of the shifted blocks alignment says no
    if (const auto k = kinds.find(g.value()); k != kinds.end()) b.kind = k->second;
    return b;
  }
};

template <class Lock>
struct Machine {
  using Mmu = ShadowMmu<arch::Ept, Lock, reclaim::Fifo, BlockHost>;
  explicit Machine(bool ad, bool exec_only = false) {
    caps.host_address_bits = 46;
    caps.accessed_dirty = ad;
    caps.exec_only = exec_only;
    sim::CpuConfig c;
    c.ept = true;
    c.ept_features.accessed_dirty = ad;
    c.ept_features.exec_only = exec_only;
    cpu = std::make_unique<sim::Cpu<BlockHost>>(host, c);
    listener.cpu = cpu.get();
    host.listen(listener);
    mmu = std::make_unique<Mmu>(host, caps);
    REQUIRE(mmu->add_slot(Gfn{0}, 3000).ok());
    vcpu = std::make_unique<typename Mmu::Vcpu>(*mmu);
  }
  struct Listener : host::FlushListener {
    sim::Cpu<BlockHost>* cpu = nullptr;
    void on_flush(const FlushRequest& r) noexcept override {
      if (r.scope == FlushRequest::Scope::Structures)
        cpu->flush_all();
      else
        cpu->flush_range(r.first << kPageShift, r.pages);
    }
  };
  /// Returns: where the access went, or nothing and the outcome that ended it.
  std::uint64_t access(std::uint64_t gpa, AccessRequest r) {
    for (int tries = 0; tries < 8; ++tries) {
      REQUIRE(vcpu->enter() == EnterOutcome::Enter);
      const HwState h = vcpu->hw_state();
      if (h.cr3 != eptp) REQUIRE(cpu->load(h) == sim::LoadOutcome::Ok);
      eptp = h.cr3;
      const auto got = cpu->access(gpa, r);
      if (got.ok()) return got.hpa.value();
      REQUIRE(got.kind == sim::AccessKind::EptViolation);
      last = vcpu->handle_fault(Gva{gpa}, r.error_bits());
      if (last.kind != Kind::Resume && last.kind != Kind::Retry) return 0;
    }
    FAIL("no progress");
    return 0;
  }
  [[nodiscard]] std::uint64_t expected(std::uint64_t gpa) const {
    return BlockHost::kGuestBase + (host.place(gpa >> 12) << 12 | (gpa & 0xfff));
  }
  BlockHost host;
  Listener listener;
  typename Mmu::Caps caps{};
  std::unique_ptr<sim::Cpu<BlockHost>> cpu;
  std::unique_ptr<Mmu> mmu;
  std::unique_ptr<typename Mmu::Vcpu> vcpu;
  std::uint64_t eptp = 0;
  FaultOutcome last{};
};

template <class Lock>
void everywhere(bool ad) {
  Machine<Lock> m(ad);
  sim::Random rng(5);
  for (int i = 0; i < 6000; ++i) {
    const std::uint64_t gpa = rng.below(3000 << 12);
    const AccessRequest r{rng.flip(), false, false};
    REQUIRE(m.access(gpa, r) == m.expected(gpa));
    if (i % 500 == 0) {
      const AuditReport a = m.mmu->audit();
      INFO(std::string(a.first == nullptr ? "" : a.first));
      REQUIRE(a.violations == 0);
    }
    if (i % 97 == 0) m.mmu->unmap(Gfn{rng.below(3000)}, 1 + rng.below(600));
    if (i % 701 == 0) m.mmu->zap_all_fast();
    if (i % 397 == 0) static_cast<void>(m.mmu->shrink(4));
  }
  CHECK(m.mmu->audit().violations == 0);
}
TEST_CASE("every frame in its place: A/D on, spin lock") { everywhere<lock::Checked<lock::Spin>>(true); }
TEST_CASE("every frame in its place: A/D off, no lock") { everywhere<lock::None>(false); }

TEST_CASE("2 MiB where the Host has it, gfn and frame are aligned alike and the slot holds it whole; else 4 KiB") {
  Machine<lock::None> m(true);
  const auto level = [&](std::uint64_t gfn) {
    REQUIRE(m.access(gfn << 12, {}) == m.expected(gfn << 12));
    return m.vcpu->lookup(Gva{gfn << 12}).level;
  };
  CHECK(level(5) == Level{2});          // block 0: aligned
  CHECK(level(1024 + 7) == Level{1});   // block 2: contiguous but shifted
  CHECK(level(1536 + 7) == Level{1});   // block 3: scattered
  CHECK(level(2048) == Level{2});       // block 4
  CHECK(level(2560 + 10) == Level{1});  // block 5: aligned, but the slot ends inside
  m.mmu->unmap(Gfn{5});
  CHECK_FALSE(m.vcpu->lookup(Gva{6 << 12}).present);  // the large page went whole
  CHECK(m.mmu->audit().violations == 0);
}
TEST_CASE("a re-backed block is seen after the invalidation, large pages included") {
  Machine<lock::None> m(true);
  REQUIRE(m.access(300 << 12, {true, false, false}) == m.expected(300 << 12));
  m.mmu->invalidate_begin(Gfn{0}, 512);
  m.host.moved[0] = 8;
  CHECK(m.vcpu->handle_fault(Gva{300 << 12}, pferr::kWrite).kind == Kind::Retry);
  m.mmu->invalidate_end();
  CHECK(m.access(300 << 12, {true, false, false}) == m.expected(300 << 12));
}
TEST_CASE("Host answers: read-only is readable, absent and beyond the slots is MMIO") {
  Machine<lock::None> m(true);
  m.host.kinds[1540] = Backing::Kind::ReadOnly;
  m.host.kinds[1541] = Backing::Kind::None;
  CHECK(m.access(1540 << 12, {}) == m.expected(1540 << 12));
  CHECK_FALSE(m.vcpu->lookup(Gva{1540 << 12}).rights.write());
  CHECK(m.access(1540 << 12, {true, false, false}) == 0);
  CHECK(m.last.kind == Kind::Mmio);
  CHECK(m.last.request.write);
  CHECK(m.access(1541 << 12, {}) == 0);
  CHECK(m.last.kind == Kind::Mmio);
  CHECK(m.access(3001ULL << 12, {}) == 0);
  CHECK(m.last.gpa == Gpa{3001ULL << 12});
  CHECK(m.access(0x0000'7fff'ffff'f000, {}) == 0);
  CHECK(m.mmu->audit().violations == 0);
}
TEST_CASE("format: A and D, memory type, EPTP") {
  Machine<lock::None> on(true);
  static_cast<void>(on.access(1537 << 12, {}));
  CHECK((on.vcpu->lookup(Gva{1537 << 12}).entry & (arch::Ept::kAccessed | arch::Ept::kDirty)) == arch::Ept::kAccessed);
  static_cast<void>(on.access(1537 << 12, {true, false, false}));
  CHECK((on.vcpu->lookup(Gva{1537 << 12}).entry & arch::Ept::kDirty) != 0);
  CHECK((on.vcpu->lookup(Gva{1537 << 12}).entry >> 3 & 7) == 6);
  CHECK((on.eptp & 0xfff) == (6 | 3 << 3 | 1 << 6));
  Machine<lock::None> off(false);
  static_cast<void>(off.access(1537 << 12, {true, false, false}));
  CHECK((off.vcpu->lookup(Gva{1537 << 12}).entry & (arch::Ept::kAccessed | arch::Ept::kDirty)) == 0);
  CHECK((off.eptp & 0xfff) == (6 | 3 << 3));
  using E = arch::Ept;
  CHECK((E::make_leaf({.exec_only = true}, {.rights = Access{Access::kExec}}) & 7) == 4);
  CHECK((E::make_leaf({.exec_only = false}, {.rights = Access{Access::kExec}}) & 7) == 5);
  CHECK((E::make_leaf({}, {.rights = Access{Access::kWrite}}) & 7) == 3);  // never write without read
}
TEST_CASE("all vCPUs share one root") {
  Machine<lock::Spin> m(true);
  decltype(m)::Mmu::Vcpu other(*m.mmu, VcpuId{1});
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  REQUIRE(other.enter() == EnterOutcome::Enter);
  CHECK(m.vcpu->hw_state().cr3 == other.hw_state().cr3);
  static_cast<void>(m.access(1537 << 12, {}));
  CHECK(other.lookup(Gva{1537 << 12}).present);
  CHECK(m.mmu->audit().violations == 0);
}
}  // namespace
