// SPDX-License-Identifier: BSL-1.0
#include <functional>

#include "core/world.hpp"

/// Memslots that change. Cases named 3.11 and 3.13 show those rules on generations; F24 is the slot-scoped zap.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;

struct Targeted : config::Default {
  static constexpr config::SlotRemoval kSlotRemoval = config::SlotRemoval::Targeted;
};

/// Tables in gfns 1 to 255 (low), data of the low slot above; a high slot [512, 1024).
template <class C>
struct Two : Bench<ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost, C>> {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost, C>;
  Two() {
    low = this->mmu.add_slot(Gfn{0}, 512).value();
    high = this->mmu.add_slot(Gfn{512}, 512).value();
    for (std::uint64_t i = 0; i < 20; ++i) {
      this->map(1, 0x40'0000 + (i << 16), 300 + i);
      this->map(1, 0x80'0000 + (i << 16), 600 + i);
    }
    v = std::make_unique<typename M::Vcpu>(this->mmu);
    run_long(*v, 1);
    touch();
  }
  void touch() {
    REQUIRE(v->enter() == EnterOutcome::Enter);
    for (std::uint64_t i = 0; i < 20; ++i) {
      REQUIRE(write_fault(*v, 0x40'0000 + (i << 16)).kind == Kind::Resume);
      REQUIRE(write_fault(*v, 0x80'0000 + (i << 16)).kind == Kind::Resume);
    }
  }
  unsigned present(std::uint64_t base) {
    unsigned n = 0;
    for (std::uint64_t i = 0; i < 20; ++i) n += v->lookup(Gva{base + (i << 16)}).present ? 1U : 0U;
    return n;
  }
  SlotId low{}, high{};
  std::unique_ptr<typename M::Vcpu> v;
};

TEST_CASE("F24 a removed slot takes its own entries only, under Targeted; all of them, under All") {
  Two<Targeted> t;
  const std::uint64_t pages = t.mmu.stats().pages_used;
  REQUIRE(t.mmu.remove_slot(t.high).ok());
  CHECK(t.present(0x40'0000) == 20);
  CHECK(t.present(0x80'0000) == 0);
  CHECK(t.mmu.stats().pages_used == pages);  // no table lies in it
  CHECK(test::unsound(t.mmu) == "");
  Two<config::Default> a;
  REQUIRE(a.mmu.remove_slot(a.high).ok());
  REQUIRE(a.v->enter() == EnterOutcome::Enter);
  CHECK(a.present(0x40'0000) == 0);
  CHECK(test::unsound(a.mmu) == "");
}
TEST_CASE("3.11 a targeted removal takes the shadow pages of guest tables that live in the slot") {
  Two<Targeted> b;
  // A leaf table in the high slot, mapping low memory.
  b.table(700)[0] = 310 << 12 | kPage;
  std::uint64_t pd = 1;
  for (unsigned l = 4; l >= 3; --l) pd = b.table(pd)[Level{l}.index(0xa0'0000)] >> 12 & 0xffff'ffff;
  b.table(pd)[Level{2}.index(0xa0'0000)] = 700 << 12 | kPage;
  REQUIRE(write_fault(*b.v, 0xa0'0000).kind == Kind::Resume);
  const std::uint64_t pages = b.mmu.stats().pages_used;
  REQUIRE(b.mmu.remove_slot(b.high).ok());
  CHECK(b.mmu.stats().pages_used == pages - 1);
  CHECK_FALSE(b.v->lookup(Gva{0xa0'0000}).present);
  CHECK(b.present(0x40'0000) == 20);
  CHECK(test::unsound(b.mmu) == "");
  // And a root: the vCPU is left with a dummy one.
  REQUIRE(b.mmu.remove_slot(b.low).ok());
  CHECK(test::unsound(b.mmu) == "");
  CHECK(b.mmu.stats().pages_used == 1);
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  CHECK(b.mmu.stats().pages_used == 0);
  CHECK(write_fault(*b.v, 0x40'0000).kind == Kind::InjectPageFault);
}
TEST_CASE("3.11 a direct directory whose rounded gfn lies in the slot is no table of the slot") {
  using M = ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost, Targeted>;
  Bench<M> b;
  const SlotId low = b.mmu.add_slot(Gfn{0}, 100).value();
  REQUIRE(b.mmu.add_slot(Gfn{100}, 900).ok());
  M::Vcpu v(b.mmu);  // paging is off: directories of gfn 0, 0x40000, ... and leaf tables of gfn 0 and 512
  REQUIRE(v.enter() == EnterOutcome::Enter);
  for (std::uint64_t g = 0; g < 900; ++g) REQUIRE(v.handle_fault(Gva{g << 12}, pferr::kWrite).kind == Kind::Resume);
  const std::uint64_t pages = b.mmu.stats().pages_used;
  REQUIRE(b.mmu.remove_slot(low).ok());
  CHECK(b.mmu.stats().pages_used == pages);
  for (std::uint64_t g = 0; g < 900; ++g) CHECK(v.lookup(Gva{g << 12}).present == (g >= 100));
  CHECK(test::unsound(b.mmu) == "");
}
template <class C>
void faults_during_removal() {
  const Crowd crowd;
  Two<C> b;
  std::uint64_t retries = 0, others = 0, turns = 0;
  // The vCPU runs on meanwhile: it must neither get the slot's memory back nor take it for MMIO.
  b.host.yield_at_once = true;
  const std::uint64_t frames = b.host.frames_used();
  TestLock::turn = [&] {
    turns += 1;
    if (b.v->enter() != EnterOutcome::Enter) return;
    switch (write_fault(*b.v, 0x80'0000 + (turns % 20 << 16)).kind) {
      case Kind::Retry:
        retries += 1;
        break;
      case Kind::Resume:
      case Kind::Mmio:
        others += 1;  // before the slot went, or after
        break;
      default:
        FAIL("an outcome that cannot be");
    }
    REQUIRE(write_fault(*b.v, 0x40'0000 + (turns % 20 << 16)).kind != Kind::Mmio);
  };
  REQUIRE(b.mmu.remove_slot(b.high).ok());
  TestLock::turn = nullptr;
  CHECK(retries >= 1);
  CHECK(others <= 2);
  CHECK(test::unsound(b.mmu) == "");
  CHECK(b.host.frames_used() < frames);
  CHECK(b.v->enter() == EnterOutcome::Enter);
  CHECK(write_fault(*b.v, 0x80'0000).kind == Kind::Mmio);
}
TEST_CASE("3.13 while a slot goes its faults are retried; its arrays go when no entry is on them") {
  faults_during_removal<config::Default>();
  faults_during_removal<Targeted>();
}
TEST_CASE("3.13 a table in a slot that goes is not shadowed any more, though it can be read until the end") {
  const Crowd crowd;
  Two<Targeted> b;
  std::uint64_t turns = 0;
  // A second tree whose directory lies in the low slot, its root and leaves in the high one.
  b.table(900)[5] = 250 << 12 | kPage;
  b.table(250)[0] = 251 << 12 | kPage;
  b.table(251)[0] = 901 << 12 | kPage;
  for (std::uint64_t i = 0; i < 512; ++i) b.table(901)[i] = (600 + i % 100) << 12 | kPage;
  REQUIRE(b.v->set_cr3(900 << 12) == ControlOutcome::Done);
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  b.host.yield_at_once = true;
  const std::uint64_t at = std::uint64_t{5} << 39;
  TestLock::turn = [&] {
    turns += 1;
    if (b.v->enter() != EnterOutcome::Enter) return;
    const Kind k = write_fault(*b.v, at + (turns % 512 << 12)).kind;
    CHECK((k == Kind::Retry || turns <= 3));
  };
  for (std::uint64_t i = 0; i < 30; ++i) b.map(1, 0x8000'0000 + (i << 21), 300);
  REQUIRE(b.mmu.remove_slot(b.low).ok());
  TestLock::turn = nullptr;
  CHECK(turns > 3);
  CHECK(test::unsound(b.mmu) == "");
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  CHECK(write_fault(*b.v, at).kind == Kind::InjectPageFault);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("F24 zap_slot leaves the slot in place: the next faults map it again") {
  Two<config::Default> b;
  REQUIRE(b.mmu.zap_slot(b.high).ok());
  CHECK(b.present(0x80'0000) == 0);
  CHECK(b.present(0x40'0000) == 20);
  b.touch();
  CHECK(b.present(0x80'0000) == 20);
  CHECK(b.mmu.zap_slot(SlotId{77}).error() == Error::NoSuchSlot);
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("a slot that moves is memory at its new place, and MMIO at the old one") {
  Two<Targeted> b;
  REQUIRE(b.mmu.move_slot(b.high, Gfn{1024}).ok());
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  CHECK(write_fault(*b.v, 0x80'0000).kind == Kind::Mmio);
  REQUIRE(b.mmu.move_slot(b.high, Gfn{512}).ok());
  b.touch();
  CHECK(test::unsound(b.mmu) == "");
  CHECK(b.mmu.remove_slot(b.high).ok());  // the id stays the same
}
TEST_CASE("a slot shrinks and grows, at either end, and keeps its flags") {
  Two<config::Default> b;
  REQUIRE(b.mmu.set_slot_flags(b.high, SlotFlags{true}).ok());
  REQUIRE(b.mmu.resize_slot(b.high, Gfn{605}, 10).ok());
  REQUIRE(b.v->enter() == EnterOutcome::Enter);
  CHECK(read_fault(*b.v, 0x80'0000).kind == Kind::Mmio);
  CHECK(read_fault(*b.v, 0x80'0000 + (5 << 16)).kind == Kind::Resume);
  CHECK(write_fault(*b.v, 0x80'0000 + (5 << 16)).kind == Kind::Mmio);
  CHECK(read_fault(*b.v, 0x80'0000 + (15 << 16)).kind == Kind::Mmio);
  REQUIRE(b.mmu.set_slot_flags(b.high, SlotFlags{}).ok());
  REQUIRE(b.mmu.resize_slot(b.high, Gfn{512}, 512).ok());
  b.touch();
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("flags: what was mapped writable is so no more, and is again") {
  Two<config::Default> b;
  REQUIRE(b.mmu.set_slot_flags(b.high, SlotFlags{true}).ok());
  CHECK(b.present(0x80'0000) == 0);
  CHECK(b.present(0x40'0000) == 20);
  REQUIRE(read_fault(*b.v, 0x80'0000).kind == Kind::Resume);
  CHECK_FALSE(b.v->lookup(Gva{0x80'0000}).rights.write());
  REQUIRE(b.mmu.set_slot_flags(b.high, SlotFlags{}).ok());
  b.touch();
  CHECK(b.v->lookup(Gva{0x80'0000}).rights.write());
  CHECK(test::unsound(b.mmu) == "");
}
TEST_CASE("ranges that overlap, wrap, are empty or beyond 2^32 gfns are refused, and nothing changes") {
  Two<config::Default> b;
  auto& m = b.mmu;
  const std::uint64_t frames = b.host.frames_used();
  const std::uint64_t end = std::uint64_t{1} << 32;
  CHECK(m.add_slot(Gfn{511}, 1).error() == Error::Overlap);
  CHECK(m.add_slot(Gfn{0}, end).error() == Error::Overlap);
  CHECK(m.add_slot(Gfn{2000}, 0).error() == Error::BadRange);
  CHECK(m.add_slot(Gfn{end - 1}, 2).error() == Error::BadRange);
  CHECK(m.add_slot(Gfn{~std::uint64_t{0}}, 2).error() == Error::BadRange);
  CHECK(m.add_slot(Gfn{2}, ~std::uint64_t{0}).error() == Error::BadRange);
  CHECK(m.move_slot(b.high, Gfn{511}).error() == Error::Overlap);
  CHECK(m.move_slot(b.high, Gfn{end - 511}).error() == Error::BadRange);
  CHECK(m.resize_slot(b.low, Gfn{0}, 513).error() == Error::Overlap);
  CHECK(m.resize_slot(b.low, Gfn{0}, 0).error() == Error::BadRange);
  CHECK(m.resize_slot(SlotId{9}, Gfn{5000}, 1).error() == Error::NoSuchSlot);
  CHECK(m.move_slot(SlotId{9}, Gfn{5000}).error() == Error::NoSuchSlot);
  CHECK(m.set_slot_flags(SlotId{9}, {}).error() == Error::NoSuchSlot);
  CHECK(m.remove_slot(SlotId{9}).error() == Error::NoSuchSlot);
  CHECK(b.host.frames_used() == frames);
  CHECK(b.present(0x40'0000) == 20);
  CHECK(b.present(0x80'0000) == 20);
  // Onto a part of its own old place it may go.
  CHECK(m.move_slot(b.high, Gfn{600}).ok());
  CHECK(test::unsound(m) == "");
}
TEST_CASE("every allocation of a slot change fails in turn: an error, nothing changed, nothing leaked") {
  for (std::uint64_t n = 1; n < 40; ++n) {
    Two<config::Default> b;
    const std::uint64_t frames = b.host.frames_used();
    b.host.fail_in = n;
    const Status s = b.mmu.move_slot(b.high, Gfn{2048});
    if (b.host.failures == 0) {
      CHECK(s.ok());
      break;
    }
    CHECK(s.error() == Error::OutOfMemory);
    CHECK(b.host.frames_used() == frames);
    CHECK(b.present(0x80'0000) == 20);
    b.host.fail_in = n;
    const Status log = b.mmu.start_dirty_log(b.high);
    if (b.host.fail_in == 0 && b.host.failures == 2) {
      CHECK(log.error() == Error::OutOfMemory);
      CHECK(b.host.frames_used() == frames);
    }
    CHECK(test::unsound(b.mmu) == "");
  }
}
TEST_CASE("more slots than the directory holds are refused") {
  TestHost host(1024, 16384);
  ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost> mmu(host);
  unsigned n = 0;
  Result<SlotId> last = Error::OutOfMemory;
  for (; n < 1000; ++n) {
    last = mmu.add_slot(Gfn{n * 2}, 1);
    if (!last.ok()) break;
  }
  CHECK(last.error() == Error::TooManySlots);
  CHECK(n == core::kMaxSlots);
}

TEST_CASE("a slot flagged read-only keeps A and D of the tables in it, whatever the Host would allow") {
  Bench<ShadowMmu<arch::X86_64, TestLock, test::AnyPolicy, TestHost>> b;
  REQUIRE(b.mmu.add_slot(Gfn{0}, 64, SlotFlags{true}).ok());
  REQUIRE(b.mmu.add_slot(Gfn{64}, 900).ok());
  b.map(1, 0x40'0000, 400, 7);
  const std::uint64_t leaf = b.leaf_table(1, 0x40'0000);
  decltype(b.mmu)::Vcpu v(b.mmu);
  run_long(v, 1);
  REQUIRE(read_fault(v, 0x40'0000).kind == Kind::Resume);
  REQUIRE(write_fault(v, 0x40'0000).kind == Kind::Resume);
  REQUIRE(v.translate(Gva{0x40'0000}, AccessRequest{true, false, true}, CpuMode{3, false}).ok());
  CHECK(b.table(leaf)[0] == (400 << 12 | 7));
  CHECK(v.lookup(Gva{0x40'0000}).rights.write());
  CHECK(test::unsound(b.mmu) == "");
}
}  // namespace
