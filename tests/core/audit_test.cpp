// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Checked<TestLock>, test::AnyPolicy, TestHost>;

/// The state of an Mmu, which is private: an explicit instantiation may name it all the same.
template <auto State>
struct Inside {
  friend Mmu::State& inside(Mmu& mmu) { return mmu.*State; }
};
template struct Inside<&Mmu::state_>;
Mmu::State& inside(Mmu& mmu);

/// An Mmu with all that the audit looks at: leaves, tables, a large guest page below CR0.WP = 1, a log, two vCPUs, of
/// which one has no root.
struct World : Bench<Mmu> {
  World() {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    table(1)[0] = 200 << 12 | kPage;
    table(200)[0] = 201 << 12 | kPage;
    table(201)[1] = 512 << 12 | kPage | 0x80;
    map(1, 0x8000'0000, 300);
    map(1, 0x8000'1000, 300);
    run_long(v, 1);
    for (const std::uint64_t a : {0x20'0000ULL, 0x20'1000ULL}) REQUIRE(write_fault(v, a).kind == Kind::Resume);
    for (const std::uint64_t a : {0x8000'0000ULL, 0x8000'1000ULL}) REQUIRE(write_fault(v, a).kind == Kind::Resume);
    REQUIRE(unsound(mmu) == "");
  }
  Mmu::State& s = inside(mmu);
  Mmu::Vcpu v{mmu, VcpuId{0}}, other{mmu, VcpuId{1}};

  auto& first() { return *s.vcpus.begin(); }
  auto& second() { return *std::next(s.vcpus.begin()); }
  Mmu::State::Page& root() { return *s.strong(first().root.page[0]); }
  /// The page that the tables have for the address at this level.
  Mmu::State::Page& page(std::uint64_t a, unsigned level) {
    auto* p = &root();
    while (p->role.level() > Level{level}) p = core::child_of(s, *p, p->role.level().index(a));
    return *p;
  }
  /// What the audit says where `field` has another value; it says nothing before and after.
  template <class T>
  void other_value(const char* what, T& field, T value) {
    INFO(std::string(what));
    const T before = field;
    REQUIRE(before != value);
    field = value;
    const auto told = mmu.audit();
    CHECK(std::string(told.first == nullptr ? "nothing" : told.first) == std::string(what));
    field = before;
    CHECK(unsound(mmu) == "");
  }
  template <class T>
  void one_more(const char* what, T& field) {
    other_value(what, field, static_cast<T>(field + 1));
  }
};

TEST_CASE("the audit tells each count that is off by one") {
  World w;
  auto& s = w.s;
  auto& leaf = w.page(0x8000'0000, 1);
  auto& slot = *s.snapshot->find_any(Gfn{300});
  w.one_more("dirty logs are miscounted", s.logs);
  w.one_more("generations are miscounted", s.generations);
  w.one_more("MMIO entries are miscounted", s.mmio_entries);
  w.one_more("vCPUs that hold pages are miscounted", s.holders);
  w.one_more("pages used are not live + obsolete + invalid + waiting", s.used);
  w.one_more("pages are held that no vCPU holds", leaf.held);
  w.one_more("root references differ from the vCPUs' roots", w.root().roots);
  w.one_more("live count differs from the entries", leaf.live);
  w.one_more("unsync count differs from the bitmap", w.root().unsync_children);
  w.one_more("tracking counts differ from the pages", slot.track_cell(leaf.gfn).leaf);
  w.one_more("tracking counts differ from the pages", slot.track_cell(Gfn{1}).upper);
  w.one_more("reasons against large pages are miscounted", slot.large(Gfn{1}, Level{2}).disallow);
  w.one_more("reasons against large pages are miscounted", slot.large(Gfn{1}, Level{3}).disallow);
  w.other_value("a page has seen a sync that has not begun", leaf.synced, s.last_sync + 1);
  w.other_value("generations are miscounted", s.covered, s.generations + 1);
  w.other_value("a page is kept for a fault that is over", leaf.walked, true);
  REQUIRE(s.cells.available() != 0);
  const std::uint32_t lost = s.cells.take<Mmu::State::Memory>();
  CHECK(std::string(w.mmu.audit().first) == "descriptors of lists are lost");
  s.cells.give<Mmu::State::Memory>(lost);
  CHECK(unsound(w.mmu) == "");
}

TEST_CASE("the audit tells what is kept for a vCPU and is not so") {
  World w;
  auto& s = w.s;
  auto& v = w.first();
  auto& idle = w.second();
  REQUIRE((v.root.loaded && !idle.root.loaded));
  w.other_value("hardware is given another root than the one that is loaded", v.top, Hpa{v.top.value() + kPageSize});
  w.one_more("readers are shown another root", v.shown_root[2]);
  w.other_value("readers are shown a root that is gone", idle.shown_root[0], v.shown_root[0]);
  REQUIRE(v.path.epoch == s.epoch);
  w.other_value("a path is remembered that is not there", v.path.page[0], w.page(0x8000'0000, 2).index);
  w.other_value("a path is remembered that is not there", v.path.page[1], w.page(0x8000'0000, 2).index);
  w.other_value("a path is remembered below a root that is gone", idle.path.epoch, s.epoch);
  s.holders += 1;
  idle.holding.on = true;
  CHECK(std::string(w.mmu.audit().first) == "a vCPU without a root holds pages");
  idle.holding.on = false;
  s.holders -= 1;
  CHECK(unsound(w.mmu) == "");
}

TEST_CASE("the audit looks at leaves of a slot again once its flags have settled") {
  World w;
  const auto& slot = *w.s.snapshot->find_any(Gfn{300});
  REQUIRE(w.mmu.set_slot_flags(slot.id(), {true}).ok());
  REQUIRE((slot.read_only() && !slot.settling()));
  REQUIRE(read_fault(w.v, 0x8000'0000).kind == Kind::Resume);
  std::uint64_t& e = w.page(0x8000'0000, 1).table[0];
  REQUIRE((arch::X86_64::present(e) && !arch::X86_64::writable(e)));
  w.other_value("a leaf lets read-only memory be written", e, e | arch::X86_64::kWrite);
}

TEST_CASE("the audit tells keys of direct pages that disagree with what is above them") {
  World w;
  auto& large = w.page(0x20'0000, 1);
  REQUIRE(large.role.direct());
  w.other_value("what is keyed as clean is keyed as writable, too", large.role, large.role.with_clean(true));
  w.other_value("a leaf of a direct page grants more than its key", large.role,
                large.role.with_access(large.role.access().without(Access::kWrite)));
}

TEST_CASE("a vCPU that leaves its root holds nothing any more") {
  World w;
  auto& s = w.s;
  auto& v = w.first();
  auto& leaf = w.page(0x8000'0000, 1);
  for (unsigned n = 0; n <= v.holding.kRepeats; ++n) core::note_making(s, v, 0x8000'0000);
  core::hold(s, v, leaf);
  REQUIRE((s.holders == 1 && leaf.held == 1));
  CHECK(unsound(w.mmu) == "");
  REQUIRE(w.v.set_cr3(1 << 12) == ControlOutcome::Done);
  REQUIRE(w.v.enter() == EnterOutcome::Enter);
  CHECK(s.holders == 0);
  CHECK(leaf.held == 0);
  CHECK(unsound(w.mmu) == "");
}
}  // namespace
