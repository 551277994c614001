// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "core/world.hpp"
#include "shadowmmu/sim/world/guest.hpp"

namespace shadowmmu::test {

using sim::world::frame_bits;
using sim::world::Mode;
using GuestModel = sim::world::Guest<TestHost>;

/// What an access by the simulated CPU came to.
struct Reached {
  bool ok = false;
  std::uint32_t error_code = 0;  ///< of the fault that the guest sees
  Hpa hpa{};                     ///< where it went
  unsigned faults = 0;           ///< that the Mmu answered on the way
  FaultOutcome last{};           ///< the last of them
};

/// A Host in whose answers another agent acts, once: as a table is read, or as it is asked what backs a page.
struct MeddledHost : TestHost {
  using TestHost::TestHost;
  void* guest_page(Gfn g) noexcept override {
    if (reads_until != 0 && --reads_until == 0)
      if (auto m = std::exchange(at_read, nullptr)) m();
    return TestHost::guest_page(g);
  }
  Backing backing(Gfn g, bool write) noexcept override {
    asked_to_write += write ? 1U : 0U;
    if (auto m = std::exchange(at_backing, nullptr)) m();
    Backing b = TestHost::backing(g, write);
    if (g == special) b = instead;
    return b;
  }
  void kick_and_wait(VcpuId v) noexcept override {
    TestHost::kick_and_wait(v);
    if (auto m = std::exchange(at_kick, nullptr)) m();
  }
  std::function<void()> at_read, at_backing, at_kick;
  unsigned reads_until = 0;  ///< the n-th read from now
  unsigned asked_to_write = 0;
  Gfn special{~std::uint64_t{0}};
  Backing instead{};
};

/// A guest in any mode, its vCPU on a simulated CPU, the oracle beside it. Tables from gfn 16 on.
template <class Mmu, class Host = TestHost>
struct Driven {
  static constexpr std::uint64_t kPages = 3072;
  explicit Driven(typename Mmu::Caps c = caps46())
      : caps(c), mmu(host, c), cpu(host, VcpuId{0}, config(c)), vcpu(std::make_unique<typename Mmu::Vcpu>(mmu)) {
    slot = mmu.add_slot(Gfn{0}, kPages).value();
    mmu.set_limit(3000);
  }
  static typename Mmu::Caps caps46() {
    typename Mmu::Caps c;
    c.host_address_bits = 46;
    c.guest_address_bits = 46;
    return c;
  }
  static sim::CpuConfig config(const typename Mmu::Caps& c) {
    sim::CpuConfig config;
    config.max_phys_addr = c.host_address_bits;
    return config;
  }
  /// Effects: the guest runs in mode m on the tables at `root`, with these further control bits.
  void run(Mode m, std::uint64_t root, std::uint64_t cr0_bits, std::uint64_t cr4_bits, std::uint64_t efer_bits) {
    Controls c{cr0::kPe | cr0_bits, cr4_bits | (m == Mode::Bits32 ? 0 : cr4::kPae), efer_bits};
    REQUIRE(vcpu->set_control(c) == ControlOutcome::Done);
    REQUIRE(vcpu->set_cr3(root) == ControlOutcome::Done);
    c.cr0 |= cr0::kPg;
    c.efer |= m == Mode::Long4 ? efer::kLme | efer::kLma : 0;
    set(m, c);
  }
  void set(Mode m, const Controls& c) {
    REQUIRE(vcpu->set_control(c) == ControlOutcome::Done);
    guest.mode = m;
    note_registers();
  }
  void load(std::uint64_t cr3) {
    REQUIRE(vcpu->set_cr3(cr3) == ControlOutcome::Done);
    note_registers();
  }
  /// Effects: the oracle goes by the registers that the vCPU has now, PDPTEs as memory has them.
  void note_registers() {
    guest.controls = vcpu->controls();
    guest.cr3 = vcpu->cr3();
    guest.pdptes = sim::Oracle<TestHost>::read_pdptes(host, guest.cr3);
  }
  void enter() {
    REQUIRE(vcpu->enter() == EnterOutcome::Enter);
    const HwState h = vcpu->hw_state();
    if (h.cr0 == hw.cr0 && h.cr3 == hw.cr3 && h.cr4 == hw.cr4 && h.efer == hw.efer && !cpu.reload) return;
    hw = h;
    cpu.reload = false;
    REQUIRE(cpu.cpu.load(h) == sim::LoadOutcome::Ok);
  }
  /// `store`: what the access writes, while its windows are open.
  Reached access(std::uint64_t a, AccessRequest r, CpuMode m, const std::function<void()>& store = nullptr) {
    Reached got;
    bool window = false;
    for (; got.faults < 16; ++got.faults) {
      enter();
      const auto x = cpu.cpu.access(a, r, m);
      REQUIRE(x.kind != sim::AccessKind::Bus);
      got.ok = x.ok();
      got.hpa = x.hpa;
      if (!got.ok) got.last = vcpu->handle_fault(Gva{a}, x.error_code, m);
      const Kind k = got.last.kind;
      if (!got.ok && k == Kind::Emulate && vcpu->begin_write_window(got.last).ok()) window = true;
      if (!got.ok && (k == Kind::Resume || k == Kind::Retry || k == Kind::Emulate)) continue;
      if (got.ok && store) store();
      if (window) vcpu->end_write_windows();
      got.error_code = got.last.error_code;
      return got;
    }
    FAIL("no progress");
    return got;
  }
  [[nodiscard]] sim::OracleVerdict oracle(std::uint64_t a, AccessRequest r, CpuMode m) {
    sim::OracleCpu o;
    o.controls = guest.controls;
    o.cr3 = guest.cr3;
    o.pdptes = guest.pdptes;
    o.max_phys_addr = caps.guest_address_bits;
    o.has_1g_pages = caps.guest_1g;
    return sim::Oracle<TestHost>(host, o).translate(Gva{a}, sim::OracleAccess{r, m, false});
  }
  /// Effects: one access. Returns: whether it came to what the architecture says.
  [[nodiscard]] bool as_the_oracle(std::uint64_t a, AccessRequest r, CpuMode m) {
    const auto want = oracle(a, r, m);
    const Reached got = access(a, r, m);
    if (want.fault) return !got.ok && got.last.kind == Kind::InjectPageFault && got.error_code == want.error_code;
    if (!oracle(a, r, m).updates.empty()) return false;  // A and D that the access owes
    const Gfn gfn = frame_of(want.gpa);
    if (gfn.value() >= kPages) return !got.ok && got.last.kind == Kind::Mmio && got.last.gpa == want.gpa;
    return got.ok && frame_of(got.hpa) == host.backing(gfn, false).pfn;
  }
  std::uint64_t* table(std::uint64_t gfn) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{gfn})); }
  /// Returns: where the guest's entry of that level for `a` lies.
  Gpa entry_of(std::uint64_t a, unsigned level) {
    for (const auto& s : guest.path(a))
      if (s.level == level) return s.at;
    FAIL("no such entry");
    return {};
  }

  typename Mmu::Caps caps;
  Host host{kPages, 8192};
  Mmu mmu;
  GuestModel guest{host};
  TestCpu cpu;
  HwState hw{};
  SlotId slot{};
  std::unique_ptr<typename Mmu::Vcpu> vcpu;
};

using EachAccess = sim::world::Reach;
inline constexpr auto& kAccesses = sim::world::kEveryReach;

}  // namespace shadowmmu::test
