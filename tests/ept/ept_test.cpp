// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <set>

#include "shadowmmu/shadowmmu.hpp"
#include "support/any_policy.hpp"
#include "support/sound.hpp"
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
  std::set<std::uint64_t> told;
  void wrote(Gfn first, std::uint64_t pages) noexcept {
    for (std::uint64_t i = 0; i < pages; ++i) told.insert(first.value() + i);
  }
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
  using Mmu = ShadowMmu<arch::Ept, Lock, test::AnyPolicy, BlockHost>;
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
    slot = mmu->add_slot(Gfn{0}, 3000).value();
    vcpu = std::make_unique<typename Mmu::Vcpu>(*mmu);
  }
  struct Listener : host::FlushListener {
    sim::Cpu<BlockHost>* cpu = nullptr;
    void on_flush(const FlushRequest& r) noexcept override {
      if (r.scope == FlushRequest::Scope::Structures)
        cpu->flush_all();
      else
        cpu->flush_range(r.first << kPageShift, r.pages);
      ranges += r.scope == FlushRequest::Scope::Range ? 1U : 0U;
      last = r;
    }
    FlushRequest last{};
    std::uint64_t ranges = 0;
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
      const bool misconfigured = got.kind == sim::AccessKind::EptMisconfig;
      misconfigurations += misconfigured ? 1U : 0U;
      if (!misconfigured) REQUIRE(got.kind == sim::AccessKind::EptViolation);
      last = vcpu->handle_fault(Gva{gpa}, r.error_bits() | (misconfigured ? pferr::kReserved : 0U));
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
  std::uint64_t eptp = 0, misconfigurations = 0;
  FaultOutcome last{};
  SlotId slot{};
};

template <class Lock>
void everywhere(bool ad) {
  Machine<Lock> m(ad);
  sim::Random rng(5);
  std::set<std::uint64_t> written;
  bool logging = false;
  std::vector<std::uint64_t> words(47);
  for (int i = 0; i < 6000; ++i) {
    const std::uint64_t gpa = rng.below(3000 << 12);
    const AccessRequest r{rng.flip(), rng.chance(1, 5), false};
    REQUIRE(m.access(gpa, r) == m.expected(gpa));
    if (logging && r.write && !r.fetch) written.insert(gpa >> 12);
    if (i % 11 == 0) {
      CHECK(m.access((3000 + rng.below(9)) << 12, r) == 0);
      CHECK(m.last.kind == Kind::Mmio);
    }
    if (i % 53 == 0) m.mmu->clear_young(Gfn{rng.below(3000)}, rng.below(900));
    if (i % 83 == 0) m.mmu->invalidate_mmio();
    if (i % 211 == 0 && !logging) {
      const auto method = rng.flip() ? DirtyMethod::DirtyBit : DirtyMethod::WriteProtect;
      REQUIRE(m.mmu->start_dirty_log(m.slot, method).ok());
      logging = true;
      if (rng.flip()) REQUIRE(m.mmu->split_large_pages(m.slot).ok());
    } else if (i % 211 == 150 && logging) {
      logging = false;
      written.clear();
      REQUIRE(m.mmu->stop_dirty_log(m.slot).ok());
    } else if (i % 29 == 0 && logging) {
      REQUIRE(m.mmu->fetch_dirty_log(m.slot, 0, words.size(), words.data()).ok());
      for (const std::uint64_t g : written) REQUIRE((words[g / 64] >> (g % 64) & 1) == 1);
      written.clear();
    }
    if (i % 307 == 0) m.mmu->obsolete_all();
    if (i % 131 == 0) static_cast<void>(m.mmu->zap_slot(m.slot));
    if (i % 500 == 0) {
      const AuditReport a = m.mmu->audit();
      INFO(std::string(a.first == nullptr ? "" : a.first));
      REQUIRE(a.violations == 0);
    }
    if (i % 97 == 0) m.mmu->unmap(Gfn{rng.below(3000)}, 1 + rng.below(600));
    if (i % 701 == 0) m.mmu->zap_all_fast();
    if (i % 397 == 0) static_cast<void>(m.mmu->shrink(4));
  }
  CHECK(test::unsound(*m.mmu) == "");
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
  CHECK(test::unsound(*m.mmu) == "");
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
  CHECK(test::unsound(*m.mmu) == "");
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
  CHECK(test::unsound(*m.mmu) == "");
}
TEST_CASE("4.6 MMIO is a misconfiguration, which the entry answers; without one it is a violation") {
  Machine<lock::Spin> m(true);
  CHECK(m.access(3001ULL << 12 | 0x18, {true, false, false}) == 0);
  CHECK(m.misconfigurations == 0);
  CHECK(m.access(3001ULL << 12 | 0x20, {}) == 0);
  CHECK(m.misconfigurations == 1);
  CHECK(m.mmu->stats().mmio_cached == 1);
  CHECK(m.last.gpa == Gpa{3001ULL << 12 | 0x20});
  CHECK(m.access(3002ULL << 12, {}) == 0);
  CHECK(m.access(3001ULL << 12, {}) == 0);
  CHECK(m.mmu->stats().mmio_hits == 1);
  m.mmu->invalidate_mmio();
  CHECK(m.access(3001ULL << 12, {}) == 0);
  CHECK(m.mmu->stats().mmio_stale == 1);
  CHECK(test::unsound(*m.mmu) == "");
}
TEST_CASE("F19 without A bits an aged entry rests: its next use faults, finds it young, and no page is made") {
  Machine<lock::Spin> m(false);
  const std::uint64_t at = 1537 << 12;
  REQUIRE(m.access(at, {}) == m.expected(at));
  CHECK(m.mmu->clear_young(Gfn{1537}, 1));
  CHECK_FALSE(m.mmu->test_young(Gfn{1537}, 1));
  CHECK_FALSE(m.mmu->clear_young(Gfn{1537}, 1));
  CHECK(test::unsound(*m.mmu) == "");
  m.cpu->flush_all();
  const Counters before = m.mmu->stats();
  REQUIRE(m.access(at, {}) == m.expected(at));
  CHECK(m.mmu->stats().faults == before.faults + 1);
  CHECK(m.mmu->stats().pages_created == before.pages_created);
  CHECK(m.mmu->test_young(Gfn{1537}, 1));
}
TEST_CASE("8.1 an aged entry that TLBs may know as writable is flushed when it loses W, and was written when it goes") {
  Machine<lock::Spin> m(false);
  const std::uint64_t at = 1537 << 12;
  REQUIRE(m.access(at, {true, false, false}) == m.expected(at));
  m.mmu->clear_young(Gfn{1537}, 1);  // no flush: the CPU writes on
  REQUIRE(m.mmu->start_dirty_log(m.slot).ok());
  CHECK(m.host.told.count(1537) == 1);
  REQUIRE(m.access(at, {true, false, false}) == m.expected(at));
  std::vector<std::uint64_t> words(47);
  REQUIRE(m.mmu->fetch_dirty_log(m.slot, 0, 47, words.data()).ok());
  CHECK((words[1537 / 64] >> (1537 % 64) & 1) == 1);
  m.host.told.clear();
  REQUIRE(m.access(at, {true, false, false}) == m.expected(at));
  m.mmu->clear_young(Gfn{1537}, 1);
  m.mmu->unmap(Gfn{1537});
  CHECK(m.host.told.count(1537) == 1);
}
TEST_CASE("F30 one commit is one flush: a range where leaves of a direct map went, structures where tables did") {
  Machine<lock::Spin> m(true);
  for (std::uint64_t g = 1540; g < 1580; ++g) REQUIRE(m.access(g << 12, {}) == m.expected(g << 12));
  const std::uint64_t before = m.mmu->stats().flushes;
  m.mmu->unmap(Gfn{1545}, 10);
  CHECK(m.mmu->stats().flushes == before + 1);
  CHECK(m.listener.ranges == 1);
  CHECK(m.listener.last.scope == FlushRequest::Scope::Range);
  CHECK(m.listener.last.first == 1545);
  CHECK(m.listener.last.pages == 10);
  CHECK(m.mmu->shrink(1) == 1);
  CHECK(m.listener.last.scope == FlushRequest::Scope::Structures);
}
TEST_CASE("without A and D an entry that a window's end protects has been written, and the Host hears of it") {
  using M = ShadowMmu<arch::Ept, lock::Spin, AnyPolicy, BlockHost>;
  BlockHost host;
  M mmu(host, {.accessed_dirty = false});
  REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
  M::Vcpu v(mmu);
  REQUIRE(v.enter() == EnterOutcome::Enter);
  REQUIRE(v.handle_fault(Gva{700 << 12}, pferr::kWrite).kind == Kind::Resume);
  REQUIRE(host.told.count(700) == 0);
  // No fault of a direct map asks for a window; an embedder may open one all the same.
  const FaultOutcome o = FaultOutcome::at(Kind::Emulate, Gpa{700 << 12}, AccessRequest{.write = true});
  REQUIRE(v.begin_write_window(o).ok());
  v.end_write_windows();
  CHECK_FALSE(v.lookup(Gva{700 << 12}).rights.write());
  CHECK(host.told.count(700) == 1);
  CHECK(test::unsound(mmu) == "");
}
}  // namespace
