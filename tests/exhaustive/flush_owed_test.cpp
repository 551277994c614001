// SPDX-License-Identifier: BSL-1.0
#include "exhaustive/driven.hpp"
#include "support/sound.hpp"

/// Who is flushed, of what; what an entry that changes must leave behind (D, a flush); MMIO entries under every change
/// of the guest's; and what is read late.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;
using Guest = Driven<Mmu, MeddledHost>;

constexpr std::uint64_t kNx = std::uint64_t{1} << 63;
constexpr std::uint64_t kRoot = 2 << 12, kAt = 0x40'0000, kAlias = 0x7000'0000;
constexpr std::uint64_t kDevice = 5000;
constexpr std::uint32_t kRsvd = pferr::kReserved | pferr::kPresent;

struct FlushLog : host::FlushListener {
  explicit FlushLog(host::Arena& h) : host(h) { host.listen(*this); }
  ~FlushLog() override { host.unlisten(*this); }
  void on_flush(const FlushRequest& r) noexcept override { seen.push_back(r); }
  [[nodiscard]] bool everyone() const {
    for (const FlushRequest& r : seen)
      if (r.vcpus == kAllVcpus && r.scope == FlushRequest::Scope::Structures) return true;
    return false;
  }
  host::Arena& host;
  std::vector<FlushRequest> seen;
};

/// A leaf table whose entries the guest edits through `kAlias`, unseen.
struct Edited : Guest {
  explicit Edited(Mode m = Mode::Long4, std::uint64_t gfn = 600) : mode(m) {
    guest.map(m, kRoot, kAt, gfn, 0x67);
    guest.mode = m;
    guest.cr3 = kRoot;
    guest.pdptes = sim::Oracle<TestHost>::read_pdptes(host, kRoot);
    leaf = entry_of(kAt, 1).value() & ~kPageMask;
    guest.map(m, kRoot, kAlias, leaf >> 12, 0x67);
    run(m, kRoot, cr0::kWp, cr4::kPse, m == Mode::Bits32 ? 0 : efer::kNxe);
  }
  void let_go() { REQUIRE(access(kAlias, {true, false, true}, {3, false}).ok); }
  void put(unsigned i, std::uint64_t e) {
    static_cast<void>(host.write(Gpa{leaf + i * guest.width()}, guest.width(), e));
  }
  /// Effects: entry 0 is `e`, and the Mmu knows; nothing of it is shadowed.
  void start(std::uint64_t e) {
    put(0, e);
    mmu.guest_wrote(Gpa{leaf}, 8);
    vcpu->flush();
    enter();
  }
  FaultOutcome fault(const EachAccess& x, std::uint32_t code = 0) {
    return vcpu->handle_fault(Gva{kAt}, x.request.error_bits() | code, x.mode);
  }
  Mode mode;
  std::uint64_t leaf = 0;
};

TEST_CASE("what a vCPU's own instruction flushes, that vCPU flushes and no other: CR3, control, all, one page") {
  Guest g;
  g.guest.map(Mode::Long4, kRoot, kAt, 600, 0x67);
  for (const unsigned id : {3U, 5U}) {
    Mmu::Vcpu v(g.mmu, VcpuId{id});
    run_long(v, kRoot >> 12);
    FlushLog log(g.host);
    const auto own = [&](FlushRequest::Scope scope) {
      REQUIRE(log.seen.size() == 1);
      CHECK(log.seen[0].vcpus == VcpuId{id});
      CHECK(log.seen[0].scope == scope);
    };
    REQUIRE(v.set_cr3(kRoot) == ControlOutcome::Done);
    own(FlushRequest::Scope::Structures);
    log.seen.clear();
    v.flush();
    own(FlushRequest::Scope::Structures);
    log.seen.clear();
    Controls c = v.controls();
    c.cr4 |= cr4::kPge;
    REQUIRE(v.set_control(c) == ControlOutcome::Done);
    own(FlushRequest::Scope::Structures);
    for (const std::uint64_t a : {kAt, kAt + 0xfff, kAt - kAt, kAt - kAt - 0x1000, kAt + 0x7fff'ff00'f123}) {
      log.seen.clear();
      v.invlpg(Gva{a});
      own(FlushRequest::Scope::Range);
      CHECK(log.seen[0].first == a >> 12);
      CHECK(log.seen[0].pages == 1);
    }
  }
}
TEST_CASE("what is taken from everybody is flushed for everybody, structures and all, under shadow paging") {
  for (unsigned what = 0; what < 10; ++what) {
    CAPTURE(what);
    Edited g;
    const EachAccess write{{true, false, true}, {3, false}};
    REQUIRE(g.fault(write).kind == Kind::Resume);
    FlushLog log(g.host);
    switch (what) {
      case 0:
        g.mmu.unmap(Gfn{600});
        break;
      case 1:
        g.mmu.guest_wrote(Gpa{g.leaf}, 8);
        break;
      case 2:
        REQUIRE(g.mmu.start_dirty_log(g.slot).ok());
        break;
      case 3:
        REQUIRE(g.mmu.set_slot_flags(g.slot, {true}).ok());
        break;
      case 4:
        REQUIRE(g.mmu.zap_slot(g.slot).ok());
        break;
      case 5:
        g.mmu.zap_all_fast();
        break;
      case 6:
        REQUIRE(g.mmu.shrink(1) == 1);
        break;
      case 7:  // frame 600 becomes a guest table
        g.guest.map(Mode::Long4, kRoot, 0x5000'0000, 601, 0x67);
        static_cast<void>(g.host.write(g.entry_of(0x5000'0000, 2), 8, 600 << 12 | 0x67));
        g.table(600)[0] = 601 << 12 | 0x67;
        REQUIRE(g.access(0x5000'0000, {}, {}).ok);
        CHECK_FALSE(g.vcpu->lookup(Gva{kAt}).rights.write());
        break;
      case 8:
        REQUIRE(g.mmu.remove_slot(g.slot).ok());
        break;
      default:  // no table any more, by the looks of it, but the root that the vCPU uses
        g.mmu.guest_wrote(Gpa{kRoot + 3}, 2);
        REQUIRE(g.mmu.audit().invalid == 1);
        break;
    }
    CHECK(log.everyone());
    for (const FlushRequest& r : log.seen) CHECK(r.vcpus == kAllVcpus);
  }
}
TEST_CASE("a flush that one vCPU is owed does not stand in for another's: each CPU forgets what was taken") {
  Guest g;
  for (std::uint64_t i = 0; i < 4; ++i) g.guest.map(Mode::Long4, kRoot, kAt + (i << 12), 600 + i, 0x67);
  g.run(Mode::Long4, kRoot, cr0::kWp, 0, efer::kNxe);
  Mmu::Vcpu other(g.mmu, VcpuId{1});
  run_long(other, kRoot >> 12);
  TestCpu cpu(g.host, VcpuId{1}, Guest::config(g.caps));
  REQUIRE(cpu.cpu.load(other.hw_state()) == sim::LoadOutcome::Ok);
  for (std::uint64_t i = 0; i < 4; ++i) {
    const std::uint64_t a = kAt + (i << 12);
    REQUIRE(g.access(a, {true, false, true}, {3, false}).ok);
    REQUIRE(cpu.cpu.access(a, {true, false, true}, {3, false}).ok());
    g.mmu.unmap(Gfn{600 + i});
    CHECK_FALSE(cpu.cpu.access(a, {false, false, true}, {3, false}).ok());
    CHECK_FALSE(g.cpu.cpu.access(a, {false, false, true}, {3, false}).ok());
  }
  // An INVLPG of the one leaves the other's TLB alone.
  REQUIRE(g.access(kAt, {}, {}).ok);
  REQUIRE(cpu.cpu.access(kAt, {}, {}).ok());
  const auto hits = cpu.cpu.stats().hits;
  g.vcpu->invlpg(Gva{kAt});
  g.vcpu->flush();
  REQUIRE(cpu.cpu.access(kAt, {}, {}).ok());
  CHECK(cpu.cpu.stats().hits == hits + 1);
}
TEST_CASE("an entry that is replaced: D is not lost whatever rights come and go, and rights that go are flushed") {
  for (const bool cpu_sets : {false, true}) {
    Edited g;
    for (unsigned old = 0; old < 8; ++old)
      for (unsigned now = 0; now < 8; ++now)
        for (const EachAccess& first : kAccesses)
          for (const EachAccess& then : kAccesses) {
            if (!first.request.write) continue;
            CAPTURE(old);
            CAPTURE(now);
            const auto flags = [](unsigned i) { return 600 << 12 | 0x61 | (i & 3) << 1 | (i & 4 ? kNx : 0); };
            g.start(flags(old));
            if (cpu_sets) {
              REQUIRE(g.fault({{false, false, first.request.user}, first.mode}).kind != Kind::Emulate);
              static_cast<void>(g.access(kAt, first.request, first.mode));
            } else {
              static_cast<void>(g.fault(first));
            }
            const EntryInfo was = g.vcpu->lookup(Gva{kAt});
            const bool dirty = was.present && (was.entry & arch::X86_64::kDirty) != 0;
            g.let_go();
            g.put(0, flags(now));
            g.host.told.clear();
            FlushLog log(g.host);
            const FaultOutcome o = g.fault(then, was.present ? pferr::kPresent : 0U);
            const EntryInfo is = g.vcpu->lookup(Gva{kAt});
            if (o.kind == Kind::Resume) REQUIRE(is.present);
            if (was.present && is.present && (was.rights.bits() & ~is.rights.bits()) != 0) REQUIRE(log.everyone());
            g.mmu.unmap(Gfn{600});
            REQUIRE(g.host.told.count(600) == (dirty || (is.entry & arch::X86_64::kDirty) != 0 ? 1 : 0));
            if (dirty) REQUIRE(g.host.told.count(600) == 1);
            if (!dirty && !then.request.write) REQUIRE(g.host.told.count(600) == 0);
          }
  }
}
TEST_CASE(
    "8.17 INVLPG that narrows or drops an entry flushes everybody: whoever may write the page by his TLB is stopped") {
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32})
    for (const std::uint64_t now : {0x65U, 0x63U, 0x27U, 0x47U, 0x66U, 0x67U}) {
      CAPTURE(now);
      Edited g(m);
      REQUIRE(g.fault({{true, false, true}, {3, false}}).kind == Kind::Resume);
      g.let_go();
      g.put(0, 600 << 12 | now);
      FlushLog log(g.host);
      g.vcpu->invlpg(Gva{kAt});
      CHECK(log.everyone() == (now != 0x67));
      CHECK(log.seen.back().vcpus == VcpuId{0});
      CHECK(log.seen.back().scope == FlushRequest::Scope::Range);
    }
}
TEST_CASE("a guest entry that names another frame, or another gfn of the same host frame, is mapped anew") {
  for (const bool shared : {false, true}) {
    Edited g;
    if (shared) {
      g.host.special = Gfn{601};
      g.host.instead = g.host.backing(Gfn{600}, true);
    }
    const EachAccess write{{true, false, true}, {3, false}};
    REQUIRE(g.fault(write).kind == Kind::Resume);
    g.let_go();
    g.put(0, 601 << 12 | 0x67);
    g.host.told.clear();
    FlushLog log(g.host);
    REQUIRE(g.fault(write).kind == Kind::Resume);
    CHECK(log.everyone());
    CHECK(g.host.told.count(600) == 1);
    CHECK(g.vcpu->lookup(Gva{kAt}).pfn == g.host.backing(Gfn{601}, true).pfn);
    g.mmu.unmap(Gfn{600});
    CHECK(g.vcpu->lookup(Gva{kAt}).present);
    g.mmu.unmap(Gfn{601});
    CHECK_FALSE(g.vcpu->lookup(Gva{kAt}).present);
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE("F18 a page that was only read is not told of as written; one that is written is, by fault or by the CPU") {
  for (const unsigned how : {0U, 1U, 2U}) {
    Edited g;
    REQUIRE(g.access(kAt, {how == 1, false, true}, {3, false}).ok);
    if (how == 2) REQUIRE(g.access(kAt, {true, false, true}, {3, false}).ok);
    g.mmu.unmap(Gfn{600});
    CHECK(g.host.told.count(600) == (how == 0 ? 0 : 1));
  }
}

// --- MMIO entries ------------------------------------------------------------------------------------------------
TEST_CASE("an MMIO entry answers what the guest's entry allows, one access after another, remembered or looked up") {
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
    Edited g(m, kDevice);
    for (unsigned set = 0; set < 16; ++set) {
      const std::uint64_t nx = m == Mode::Bits32 ? 0 : kNx;
      const std::uint64_t e = kDevice << 12 | 0x21 | (set & 3) << 1 | (set & 4 ? nx : 0) | (set & 8) << 3;
      for (const bool forget : {false, true})
        for (const EachAccess& first : kAccesses)
          for (const EachAccess& then : kAccesses) {
            g.start(e);
            CAPTURE(set);
            REQUIRE(g.as_the_oracle(kAt + 0x10, first.request, first.mode));
            if (forget) g.vcpu->invlpg(Gva{0x6000'0000});
            REQUIRE(g.as_the_oracle(kAt + 0x18, first.request, first.mode));
            REQUIRE(g.as_the_oracle(kAt + 0x123, then.request, then.mode));
            REQUIRE(g.as_the_oracle(kAt + 0xff8, first.request, first.mode));
          }
    }
    CHECK(test::unsound(g.mmu) == "");
    CHECK(g.mmu.stats().mmio_hits > 0);
    CHECK(g.mmu.stats().mmio_cached > 0);
  }
}
TEST_CASE("F11 an MMIO entry follows the guest's at a flush: each right, A, D, P, the frame, and reserved bits") {
  for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
    Edited g(m, kDevice);
    const unsigned width = 8 * g.guest.width();
    for (const EachAccess& first : kAccesses)
      for (unsigned bit = 0; bit < width; ++bit)
        for (const EachAccess& then : kAccesses) {
          if (bit >= 12 && bit < 46 && &then != kAccesses && &then != kAccesses + 1) continue;
          CAPTURE(bit);
          g.start(kDevice << 12 | 0x67);
          REQUIRE(g.as_the_oracle(kAt, first.request, first.mode));
          g.let_go();
          g.put(0, kDevice << 12 | (0x67 ^ (bit < 12 ? 1U << bit : 0U)) | (bit >= 12 ? std::uint64_t{1} << bit : 0));
          g.vcpu->flush();
          g.enter();
          REQUIRE(g.as_the_oracle(kAt + 8, then.request, then.mode));
        }
    CHECK(test::unsound(g.mmu) == "");
  }
}
TEST_CASE("F11 two pages of one device side by side are told apart, remembered or not") {
  Edited g(Mode::Long4, kDevice);
  for (const bool forget : {false, true})
    for (unsigned i = 0; i < 4; ++i) {
      for (unsigned n = 0; n < 4; ++n) g.put(n, (kDevice + n * 3) << 12 | 0x67);
      g.mmu.guest_wrote(Gpa{g.leaf}, 32);
      for (unsigned n = 0; n < 16; ++n) {
        if (forget) g.vcpu->invlpg(Gva{0x6000'0000});
        REQUIRE(g.as_the_oracle(kAt + ((n * (i + 1) % 4) << 12) + n * 8, {}, {}));
      }
    }
}
TEST_CASE("4.3 an entry of another generation is never believed, whichever bits tell them apart") {
  Edited g(Mode::Long4, kDevice);
  REQUIRE(g.as_the_oracle(kAt, {}, {}));
  std::uint64_t generation = 0;
  for (unsigned bit = 0; bit < 18; ++bit) {
    g.start(kDevice << 12 | 0x67);
    REQUIRE(g.as_the_oracle(kAt, {}, {}));
    for (std::uint64_t n = std::uint64_t{1} << bit; n != 0; --n) g.mmu.invalidate_mmio();
    generation += std::uint64_t{1} << bit;
    const Counters before = g.mmu.stats();
    REQUIRE(g.as_the_oracle(kAt, {}, {}));
    CHECK(g.mmu.stats().mmio_hits == before.mmio_hits);
    CHECK(g.mmu.stats().mmio_cached == before.mmio_cached);
    CHECK(g.mmu.stats().mmio_stale == before.mmio_stale + 1);
  }
  CHECK(generation == (1U << 18) - 1);
}
TEST_CASE("4.6 the greatest gfn that an entry can name, and the next") {
  Edited g(Mode::Long4, 0xffff'ffff);
  REQUIRE(g.as_the_oracle(kAt + 5, {}, {}));
  g.vcpu->invlpg(Gva{0x6000'0000});
  REQUIRE(g.as_the_oracle(kAt + 6, {}, {}));
  CHECK(g.mmu.stats().mmio_hits == 1);
  const Counters before = g.mmu.stats();
  for (const unsigned bit : {44U, 45U})
    for (unsigned i = 0; i < 4; ++i) {
      g.start(std::uint64_t{1} << bit | 0x67);
      REQUIRE(g.as_the_oracle(kAt, {}, {}));
      if (i % 2 == 1) g.vcpu->invlpg(Gva{0x6000'0000});
      REQUIRE(g.as_the_oracle(kAt + i, {}, {}));
    }
  CHECK(g.mmu.stats().mmio_hits == before.mmio_hits);
  CHECK(g.mmu.stats().mmio_cached == before.mmio_cached);
}

// --- what must be read before the walk ---------------------------------------------------------------------------
TEST_CASE("4.5 an invalidation of MMIO in the middle of a walk, at whichever table: what the walk leaves is stale") {
  for (unsigned n = 1; n <= 4; ++n) {
    CAPTURE(n);
    Edited g(Mode::Long4, kDevice);
    g.host.at_read = [&] { g.mmu.invalidate_mmio(); };
    g.host.reads_until = n;
    REQUIRE(g.fault(kAccesses[0]).kind == Kind::Mmio);
    REQUIRE(g.host.at_read == nullptr);
    CHECK(g.fault(kAccesses[0], kRsvd).kind == Kind::Mmio);
    CHECK(g.mmu.stats().mmio_cached == 0);
    CHECK(g.mmu.stats().mmio_hits == 0);
    CHECK(g.fault(kAccesses[0], kRsvd).kind == Kind::Mmio);
    CHECK(g.mmu.stats().mmio_cached == 1);
  }
}
TEST_CASE(
    "F27 an invalidation in the middle of a walk, at whichever table, or as the Host is asked: nothing is installed") {
  for (const std::uint64_t gfn : {std::uint64_t{600}, kDevice})
    for (unsigned n = 1; n <= 5; ++n) {
      CAPTURE(n);
      Edited g(Mode::Long4, gfn);
      const std::uint64_t table = g.leaf >> 12;
      const auto taken = [&] { g.mmu.unmap(Gfn{gfn == 600 ? 600 : table}); };
      if (n <= 4) {
        g.host.at_read = taken;
        g.host.reads_until = n;
      } else {
        g.host.at_backing = taken;
      }
      const Kind k = g.fault(kAccesses[0]).kind;
      if (gfn == 600) CHECK(k == Kind::Retry);
      CHECK_FALSE(g.vcpu->lookup(Gva{kAt}).present);
      if (gfn != kDevice || n == 5) continue;
      CHECK(k == Kind::Mmio);
      CHECK(g.fault(kAccesses[0], kRsvd).kind == Kind::Mmio);
      CHECK(g.mmu.stats().mmio_hits + g.mmu.stats().mmio_cached == 0);
    }
}
TEST_CASE("a slot that becomes read-only in the middle of a fault is not written by it") {
  for (unsigned n = 1; n <= 5; ++n) {
    Edited g;
    const auto protect = [&] { REQUIRE(g.mmu.set_slot_flags(g.slot, {true}).ok()); };
    if (n <= 4) {
      g.host.at_read = protect;
      g.host.reads_until = n;
    } else {
      g.host.at_backing = protect;
    }
    const Kind k = g.fault(kAccesses[1]).kind;
    CHECK((k == Kind::Retry || k == Kind::Mmio));
    CHECK_FALSE(g.vcpu->lookup(Gva{kAt}).rights.write());
  }
}
TEST_CASE("tables in a slot that may be written from now on, in the middle of a fault, get their A and D bits") {
  for (const bool large : {false, true})
    for (const bool write : {false, true}) {
      CAPTURE(large);
      CAPTURE(write);
      MeddledHost host(2048, 4096);
      Mmu mmu(host);
      REQUIRE(mmu.add_slot(Gfn{0}, 256).ok());
      const SlotId rom = mmu.add_slot(Gfn{256}, 256, SlotFlags{true}).value();
      REQUIRE(mmu.add_slot(Gfn{1024}, 1024).ok());
      const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
      table(1)[0] = 2 << 12 | kPage;
      table(2)[0] = 300 << 12 | kPage;
      table(300)[2] = large ? 1024 << 12 | 0x87 : 301 << 12 | kPage;
      table(301)[0] = 1024 << 12 | 7;
      Mmu::Vcpu v(mmu);
      run_long(v, 1);
      host.at_backing = [&] { REQUIRE(mmu.set_slot_flags(rom, {false}).ok()); };
      const auto fault = [&] { return (write ? write_fault(v, kAt) : read_fault(v, kAt)).kind; };
      CHECK(fault() == Kind::Retry);
      REQUIRE(v.enter() == EnterOutcome::Enter);
      CHECK(fault() == Kind::Resume);
      CHECK((table(large ? 300 : 301)[large ? 2 : 0] & 0x60) == (write ? 0x60 : 0x20));
      CHECK(test::unsound(mmu) == "");
    }
}
}  // namespace
