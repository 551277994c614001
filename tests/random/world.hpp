// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>

#include "random/guest_model.hpp"
#include "shadowmmu/shadowmmu.hpp"

namespace shadowmmu::test {

/// One guest or host action; what the numbers mean depends on the state when it runs, so that any subset of a sequence
/// is a sequence too and failures can be shrunk.
struct Action {
  unsigned kind = 0;
  std::uint64_t a = 0, b = 0, c = 0;
};
inline constexpr unsigned kKinds = 14;

/// A guest on the library, on a simulated CPU, beside the oracle. After every action the outcome must be what the
/// architecture gives, or what a TLB may still hold; guest tables may have changed in A and D bits only, and the audit
/// must be clean. `failure` says what went wrong first.
template <class Mmu>
class World {
 public:
  explicit World(std::uint64_t seed)
      : host_(2048, 4096, seed),
        mmu_(host_, caps(seed)),
        one_{{host_, mmu_, VcpuId{0}, config(seed)}, {host_, mmu_, VcpuId{1}, config(seed)}} {
    if (seed % 4 == 0) host_.use_large_pages(seed);
    host_.yield_at_once = seed % 2 == 0;
    build();
    for (SlotPlace& s : slots_) s.id = mmu_.add_slot(Gfn{s.first}, s.pages).value();
    mirror_.resize((me_->guest.table_end - 16) * 512);
    remember();
    for (One& c : one_) {
      me_ = &c;
      switch_mode(static_cast<Mode>(seed % 3), 0);
    }
    me_ = one_;
  }

  std::string failure;
  std::uint64_t accesses = 0, faults = 0, emulated = 0, stale = 0, mmio = 0;

  [[nodiscard]] bool run(const std::vector<Action>& actions) {
    for (const Action& act : actions) {
      step(act);
      if (failure.empty()) check(act);
      if (!failure.empty()) return false;
    }
    return true;
  }

 private:
  /// What a vCPU's TLB may hold of a page beside what the tables say now.
  struct Stale {
    bool wild = false;  ///< an upper entry changed: combinations of old and new are legal
    std::vector<sim::OracleVerdict> old;
  };
  /// One vCPU: registers, hardware, and what its TLB may hold.
  struct One {
    One(TestHost& h, Mmu& m, VcpuId id, const sim::CpuConfig& c)
        : guest(h), tcpu(h, id, c), vcpu(std::make_unique<typename Mmu::Vcpu>(m, id)) {}
    GuestModel guest;
    TestCpu tcpu;
    std::unique_ptr<typename Mmu::Vcpu> vcpu;
    std::map<std::uint64_t, Stale> stale;
    std::set<std::uint64_t> touched;
    HwState hw{};
    bool inside = false;  ///< in guest mode: it may go on without enter() until it exits or is kicked
    std::uint64_t kicks = 0;
  };
  struct SlotPlace {
    std::uint64_t first, pages;
    SlotId id{};
    bool gone = false;
    bool log = false;
  };
  static typename Mmu::Caps caps(std::uint64_t seed) {
    typename Mmu::Caps c;
    c.host_address_bits = seed % 5 == 0 ? 52 : 46;
    c.nx_huge = seed % 3 == 0;
    c.guest_address_bits = GuestModel::kMaxPhys;
    return c;
  }
  static sim::CpuConfig config(std::uint64_t seed) {
    sim::CpuConfig c;
    c.max_phys_addr = seed % 5 == 0 ? 52 : 46;
    c.seed = seed;
    return c;
  }

  void build() {
    for (unsigned r = 0; r < GuestModel::kRoots; ++r)
      for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
        const std::uint64_t root = me_->guest.next_frame++ << 12;
        me_->guest.roots[static_cast<unsigned>(m)][r] = root;
        if (m == Mode::Bits32)
          for (std::uint64_t f = 0; f < 1024; ++f) me_->guest.map(m, root, GuestModel::kLinear + (f << 12), f, 0x67);
        else
          for (std::uint64_t f = 0; f < 2048; f += 512)
            me_->guest.map(m, root, GuestModel::kLinear + (f << 12), f, 0x67, 2);
        for (const std::uint64_t a : universe(m)) me_->guest.map(m, root, a, 200 + (a >> 12) % 40 + r * 40, 7);
      }
    me_->guest.table_end = me_->guest.next_frame;
    one_[1].guest.table_end = me_->guest.table_end;
    std::memcpy(one_[1].guest.roots, me_->guest.roots, sizeof me_->guest.roots);
  }
  /// Addresses that the guest plays with: some share leaf tables, some whole directories, some nothing.
  static std::vector<std::uint64_t> universe(Mode m) {
    std::vector<std::uint64_t> v;
    for (std::uint64_t i = 0; i < 6; ++i) v.push_back(0x0040'0000 + i * 0x1000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x0060'0000 + i * 0x3000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x8000'0000 + i * 0x1000);
    if (m == Mode::Long4)
      for (std::uint64_t i = 0; i < 4; ++i) v.push_back(0xffff'8000'0000'0000 + i * 0x2000);
    return v;
  }
  [[nodiscard]] std::uint64_t some_address(std::uint64_t choice) const {
    if (me_->guest.mode == Mode::Flat) return (choice % 2060) << 12;
    const auto v = universe(me_->guest.mode);
    if (choice % 8 == 0) return GuestModel::kLinear + ((choice >> 8) % 2060 << 12);
    return v[(choice >> 8) % v.size()];
  }

  void fail(const std::string& what) {
    if (failure.empty()) failure = what;
  }

  // --- what a TLB may still hold -------------------------------------------------------------------------------
  void forget_all() { me_->stale.clear(); }
  void forget(std::uint64_t a) {
    const std::uint64_t page = a >> 12;
    if (a >= GuestModel::kLinear && a < GuestModel::kLinear + (1U << 23)) {
      std::erase_if(me_->stale, [&](const auto& s) { return s.first >> 9 == page >> 9; });
    }
    me_->stale.erase(page);
  }
  /// What a vCPU's translations were before a change of guest memory.
  struct Before {
    std::map<std::uint64_t, sim::OracleVerdict> verdict;
    std::map<std::uint64_t, unsigned> hit;  ///< page -> highest level of an entry that the change touches
  };
  static void note_hits(One& c, Before& b, Gpa at) {
    for (const auto& v : b.verdict)
      for (const auto& s : c.guest.path(v.first << 12))
        if ((s.at.value() ^ at.value()) < 8) b.hit[v.first] = std::max(b.hit[v.first], s.level);
  }
  /// Effects: runs `change` on guest memory and notes which translations of which vCPU it outdates.
  template <class F>
  void changing(Gpa at, F&& change) {
    Before before[2];
    for (unsigned n = 0; n < 2; ++n) {
      One& c = one_[n];
      for (const std::uint64_t a : universe(c.guest.mode == Mode::Flat ? Mode::Bits32 : c.guest.mode))
        before[n].verdict[a >> 12] = c.guest.raw(a);
      for (const std::uint64_t p : c.touched) before[n].verdict[p] = c.guest.raw(p << 12);
      note_hits(c, before[n], at);
    }
    change();
    for (unsigned n = 0; n < 2; ++n) {
      One& c = one_[n];
      note_hits(c, before[n], at);
      for (const auto& [page, level] : before[n].hit) {
        if (level == 0) continue;
        // A leaf edit outdates one translation; an edit above may be combined with anything below.
        if (level > 1) c.stale[page].wild = true;
        if (!before[n].verdict[page].fault) c.stale[page].old.push_back(before[n].verdict[page]);
      }
    }
  }
  [[nodiscard]] bool allowed(Access rights, AccessRequest r, CpuMode m) const {
    const bool wp = (me_->guest.controls.cr0 & cr0::kWp) != 0;
    if (me_->guest.mode == Mode::Flat) return true;
    if (r.fetch && !rights.exec()) return false;
    if (r.user) return rights.user() && (!r.write || rights.write());
    if (r.write && !rights.write() && wp) return false;
    if (r.fetch && rights.user() && (me_->guest.controls.cr4 & cr4::kSmep) != 0) return false;
    return !(!r.fetch && rights.user() && (me_->guest.controls.cr4 & cr4::kSmap) != 0 && (m.cpl == 3 || !m.ac));
  }

  // --- the mirror of the guest's tables -----------------------------------------------------------------------
  [[nodiscard]] std::uint64_t* mirror(std::uint64_t gfn) { return &mirror_[(gfn - 16) * 512]; }
  void remember() {
    for (std::uint64_t f = 16; f < me_->guest.table_end; ++f)
      std::memcpy(mirror(f), host_.guest_page(Gfn{f}), kPageSize);
  }
  /// Tables may differ from the mirror only by `must` (if given, all of it) and `may`.
  void compare(const sim::EntryUpdates* must, const sim::EntryUpdates* may) {
    std::map<std::uint64_t, std::uint64_t> allowed_bits;
    const auto each = [&](const sim::EntryUpdates* list, auto&& f) {
      if (list == nullptr) return;
      for (const auto& u : *list) {
        const std::uint64_t at = u.gpa.value() & ~7ULL, gfn = at >> 12;
        if (gfn >= 16 && gfn < me_->guest.table_end) f(at, u.value << (u.gpa.value() & 4 ? 32 : 0));
      }
    };
    for (const auto* list : {must, may}) each(list, [&](std::uint64_t at, std::uint64_t v) { allowed_bits[at] |= v; });
    for (std::uint64_t f = 16; f < me_->guest.table_end; ++f) {
      const auto* now = static_cast<const std::uint64_t*>(host_.guest_page(Gfn{f}));
      if (std::memcmp(now, mirror(f), kPageSize) == 0) continue;
      for (unsigned i = 0; i < 512; ++i) {
        const std::uint64_t was = mirror(f)[i];
        if (now[i] == was) continue;
        const auto can = allowed_bits.find(f << 12 | i * 8);
        if ((now[i] & ~(was | (can != allowed_bits.end() ? can->second : 0))) != 0 || (was & ~now[i]) != 0)
          return fail("a guest table changed beyond A and D");
        mirror(f)[i] = now[i];
        wrote(f);
      }
    }
    each(must, [&](std::uint64_t at, std::uint64_t v) {
      if ((v & ~mirror(at >> 12)[(at & kPageMask) / 8]) != 0) fail("an A or D bit that the access owes is missing");
    });
  }

  /// The vCPU, out of the guest: its next access comes after enter().
  typename Mmu::Vcpu& exited() {
    me_->inside = false;
    return *me_->vcpu;
  }

  // --- accesses -----------------------------------------------------------------------------------------------
  void enter() {
    if (me_->inside && me_->kicks == host_.kicks) return;
    me_->inside = false;
    me_->kicks = host_.kicks;
    for (int i = 0;; ++i) {
      const EnterOutcome e = me_->vcpu->enter();
      if (e == EnterOutcome::Enter) break;
      if (host_.failures == seen_failures_ || i > 8) return fail("enter() failed without a reason");
      seen_failures_ = host_.failures;
    }
    const HwState h = me_->vcpu->hw_state();
    const bool same = h.cr0 == me_->hw.cr0 && h.cr3 == me_->hw.cr3 && h.cr4 == me_->hw.cr4 && h.efer == me_->hw.efer;
    me_->inside = true;
    if (same && !me_->tcpu.reload) return;
    me_->hw = h;
    me_->tcpu.reload = false;
    if (me_->tcpu.cpu.load(h) != sim::LoadOutcome::Ok) fail("the CPU refuses the hardware state");
  }

  /// One access, retried as hardware would. Stores `value` where given.
  void access(std::uint64_t a, AccessRequest r, CpuMode m, const std::uint64_t* value, unsigned bytes = 8) {
    accesses += 1;
    bool window = false;
    for (int tries = 0; tries < 64; ++tries) {
      enter();
      if (!failure.empty()) return;
      const auto got = me_->tcpu.cpu.access(a, r, m);
      if (got.kind == sim::AccessKind::Bus) return fail("hardware walked a frame that is no table");
      if (got.ok()) {
        succeeded(a, r, m, got.hpa);
        if (value != nullptr && failure.empty()) store(a, got.hpa, *value, bytes);
        if (window) me_->vcpu->end_write_windows();
        me_->touched.insert(a >> 12);
        return;
      }
      if (faulted(a, r, m, got.error_code, window)) {
        if (window) me_->vcpu->end_write_windows();
        return;
      }
      if (!failure.empty()) return;
    }
    fail("an access made no progress");
  }
  void store(std::uint64_t a, Hpa hpa, std::uint64_t value, unsigned bytes) {
    const std::uint64_t gfn = host_.gfn_at(hpa);
    const Gpa at{gfn << 12 | (a & 0xfff)};
    const auto write = [&] { static_cast<void>(host_.write(at, bytes, value)); };
    changing(at, write);
    remember();
  }
  [[nodiscard]] bool memory(std::uint64_t gfn) const { return gfn < kSlotPages && !host_.hidden(gfn); }
  void wrote(std::uint64_t gfn) {
    for (const SlotPlace& s : slots_)
      if (s.log && gfn >= s.first && gfn < s.first + s.pages) logged_writes_.insert(gfn);
  }
  void succeeded(std::uint64_t a, AccessRequest r, CpuMode m, Hpa hpa) {
    const std::uint64_t gfn = host_.gfn_at(hpa);
    if (!memory(gfn)) return fail("an access reached a frame that no slot owns");
    if (r.write) {
      wrote(gfn);
      host_.told.erase(gfn);
      untold_writes_.insert(gfn);
    }
    const auto now = me_->guest.oracle(a, r, m);
    const auto found = me_->stale.find(a >> 12);
    const bool current = !now.fault && now.gpa.value() >> 12 == gfn;
    if (current) {
      if (found == me_->stale.end())
        compare(&now.updates, nullptr);
      else
        compare(nullptr, &now.updates);
      if (failure.empty() && found == me_->stale.end() && !me_->guest.oracle(a, r, m).updates.empty())
        fail("the access succeeded without its A and D bits");
      return;
    }
    compare(nullptr, &now.may_update);
    if (found == me_->stale.end())
      return fail(now.fault ? "an access succeeded that must fault" : "an access went to the wrong page");
    stale += 1;
    if (!legally_stale(a, gfn, r, m)) fail("a translation was used that no TLB may hold");
  }
  /// Returns: whether the vCPU's TLB may still say that `a` leads to gfn.
  [[nodiscard]] bool legally_stale(std::uint64_t a, std::uint64_t gfn, AccessRequest r, CpuMode m) const {
    const auto found = me_->stale.find(a >> 12);
    if (found == me_->stale.end()) return false;
    if (found->second.wild) return true;
    for (const auto& old : found->second.old)
      if (old.gpa.value() >> 12 == gfn && allowed(old.rights, r, m)) return true;
    return false;
  }
  /// Returns: whether the access is over.
  bool faulted(std::uint64_t a, AccessRequest r, CpuMode m, std::uint32_t code, bool& window) {
    using Kind = FaultOutcome::Kind;
    faults += 1;
    const auto now = me_->guest.oracle(a, r, m);
    me_->vcpu->exit();
    me_->inside = false;
    const FaultOutcome o = me_->vcpu->handle_fault(Gva{a}, code, m);
    switch (o.kind) {
      case Kind::Resume:
      case Kind::Retry:
        if (now.fault) fail("a fault was hidden from the guest");
        compare(nullptr, &now.updates);
        return false;
      case Kind::InjectPageFault:
        compare(nullptr, &now.may_update);
        if (!now.fault)
          fail("a fault was invented");
        else if (o.error_code != now.error_code)
          fail("error code " + std::to_string(o.error_code) + " instead of " + std::to_string(now.error_code));
        else if (o.address != a)
          fail("CR2 is wrong");
        return true;
      case Kind::Mmio: {
        const bool rom = r.write && !now.fault && memory(now.gpa.value() >> 12) &&
                         (host_.backing(frame_of(now.gpa), false).kind == Backing::Kind::ReadOnly);
        const bool current = !now.fault && now.gpa == o.gpa && (!memory(now.gpa.value() >> 12) || rom);
        // An MMIO answer that the guest has not flushed holds as a TLB entry does; never for what is memory.
        if (!current && (memory(o.gpa.value() >> 12) || !legally_stale(a, o.gpa.value() >> 12, r, m)))
          fail("memory was taken for MMIO: " + std::to_string(o.gpa.value()) +
               (now.fault ? ", a fault" : ", not " + std::to_string(now.gpa.value())));
        mmio += 1;
        compare(nullptr, now.fault ? &now.may_update : &now.updates);
        return true;
      }
      case Kind::Emulate: {
        emulated += 1;
        if (now.fault || o.gpa != Gpa{(now.gpa.value() & ~0xfffULL) | (a & 0xfff)})
          fail("an emulation was asked for the wrong place");
        compare(nullptr, &now.updates);
        const Status s = me_->vcpu->begin_write_window(o);
        if (s.ok())
          window = true;
        else if (s.error() != Error::OutOfMemory)
          fail("a write window was refused");
        return false;
      }
      case Kind::OutOfMemory:
        if (host_.failures == seen_failures_) fail("out of memory without a failed allocation");
        seen_failures_ = host_.failures;
        return false;
      default:
        fail("an outcome that cannot be");
        return true;
    }
  }

  // --- actions ------------------------------------------------------------------------------------------------
  void step(const Action& x) {
    me_ = one_ + (x.c >> 60 & 1);
    if ((x.c >> 56 & 3) != 0) me_->inside = false;  // something made it exit
    switch (x.kind) {
      case 0:
      case 1:
      case 2: {
        const AccessRequest r{(x.b & 1) != 0, (x.b & 3) == 2, (x.b & 4) != 0};
        const CpuMode m{static_cast<std::uint8_t>(r.user ? 3 : 0), (x.b & 8) != 0};
        const std::uint64_t a = some_address(x.a) + ((x.b >> 8 & 0x1ff) << 3);
        // Never store rubbish over a table by chance: accesses to them only touch; edits do the writing.
        access(a, r, m, nullptr);
        // The same address again, asked otherwise: what one access leaves behind must not serve another.
        for (unsigned n = 0; n < (x.b >> 20 & 3) && failure.empty(); ++n) {
          const std::uint64_t b = x.b >> (24 + 4 * n);
          const AccessRequest again{(b & 1) != 0, (b & 3) == 2, (b & 4) != 0};
          access(a, again, CpuMode{static_cast<std::uint8_t>(again.user ? 3 : 0), (b & 8) != 0}, nullptr);
        }
        break;
      }
      case 3:
      case 4:
        edit(x);
        break;
      case 5:
        if (me_->guest.mode != Mode::Flat)
          load_cr3(me_->guest.roots[static_cast<unsigned>(me_->guest.mode)][x.a % GuestModel::kRoots]);
        break;
      case 6:
        toggle(x.a);
        break;
      case 7:
        exited().invlpg(Gva{some_address(x.a)});
        forget(some_address(x.a));
        break;
      case 8:
        rebase(x);
        break;
      case 9:
        zap(x);
        break;
      case 10:
        if (x.a % 4 == 0)
          switch_mode(static_cast<Mode>(x.b % 4), x.c);
        else if (x.a % 4 == 1)
          change_slot(slots_[x.b % 3], x);
        else
          host_.fail_in = 1 + x.b % 24;
        break;
      case 12:
        log(slots_[x.b % 3], x);
        break;
      case 13:
        look_after(x);
        break;
      default:
        if (x.a % 3 == 0)
          host_.set_read_only(Gfn{240 + x.b % 4}, (x.c & 1) != 0), mmu_.unmap(Gfn{240}, 4);
        else
          dma(x);
        break;
    }
  }
  void check(const Action& x) {
    const AuditReport r = mmu_.audit();
    if (r.violations != 0)
      fail(std::string("audit: ") + r.first + " (at " + std::to_string(r.at) + ", action " + std::to_string(x.kind) +
           ")");
    if (mmu_.stats().pages_used > mmu_.limit() + 4U) fail("more shadow pages than the limit");
    // Another thread finds what the tables say now, for either vCPU: memory of a slot, or nothing.
    for (One& c : one_) {
      if (c.touched.empty()) continue;
      auto at = c.touched.begin();
      std::advance(at, static_cast<std::ptrdiff_t>(x.b % c.touched.size()));
      const EntryInfo e = reader_.lookup(*c.vcpu, Gva{*at << 12});
      if (e.present && !memory(host_.gfn_at(address_of(e.pfn)))) fail("a reader found a frame that no slot owns");
    }
  }

  void load_cr3(std::uint64_t root) {
    const auto fresh = sim::Oracle<TestHost>::read_pdptes(host_, root);
    const bool legal =
        me_->guest.mode != Mode::Pae || sim::Oracle<TestHost>::pdptes_loadable(fresh, GuestModel::kMaxPhys);
    const ControlOutcome o = exited().set_cr3(root);
    if ((o == ControlOutcome::Done) != legal) return fail("MOV to CR3 and the PDPTEs disagree");
    if (!legal) return;
    me_->guest.cr3 = root;
    if (me_->guest.mode == Mode::Pae) me_->guest.pdptes = fresh;
    forget_all();
  }
  void apply(const Controls& c, Mode mode) {
    const bool mode_changes = mode != me_->guest.mode;
    const std::uint64_t flushing = cr4::kPge | cr4::kPse | cr4::kSmep;
    const bool reload = mode_changes || ((c.cr4 ^ me_->guest.controls.cr4) & flushing) != 0;
    const auto fresh = sim::Oracle<TestHost>::read_pdptes(host_, me_->guest.cr3);
    const bool legal =
        mode != Mode::Pae || !reload || sim::Oracle<TestHost>::pdptes_loadable(fresh, GuestModel::kMaxPhys);
    const ControlOutcome o = exited().set_control(c);
    if ((o == ControlOutcome::Done) != legal) return fail("a control write and the PDPTEs disagree");
    if (!legal) return;
    if (mode == Mode::Pae && reload) me_->guest.pdptes = fresh;
    me_->guest.controls = c;
    me_->guest.mode = mode;
    if (mode_changes) me_->touched.clear();
    if (reload) forget_all();
  }
  void toggle(std::uint64_t which) {
    Controls c = me_->guest.controls;
    which = which % 9 < 6 ? which % 9 : 0;  // WP most often: it flushes nothing
    switch (which) {
      case 0:
        c.cr0 ^= cr0::kWp;
        break;
      case 1:
        c.cr4 ^= cr4::kSmep;
        break;
      case 2:
        c.cr4 ^= cr4::kSmap;
        break;
      case 3:
        c.cr4 ^= cr4::kPge;
        break;
      case 4:
        c.efer ^= efer::kNxe;
        break;
      default:
        c.cr4 ^= cr4::kPse;
        break;
    }
    // NXE and SMAP changes without a flush would make cached rights ambiguous: the guest flushes, as kernels do.
    apply(c, me_->guest.mode);
    if (which == 4 || which == 2) {
      exited().flush();
      forget_all();
    }
  }
  void switch_mode(Mode m, std::uint64_t root) {
    Controls c = me_->guest.controls;
    c.cr0 = (c.cr0 | cr0::kPe) & ~cr0::kPg;
    c.efer &= ~(efer::kLma | efer::kLme);
    apply(c, Mode::Flat);
    if (m == Mode::Flat || !failure.empty()) return;
    c.cr4 = m == Mode::Bits32 ? c.cr4 & ~cr4::kPae : c.cr4 | cr4::kPae;
    apply(c, Mode::Flat);
    load_cr3(me_->guest.roots[static_cast<unsigned>(m)][root % GuestModel::kRoots]);
    c.cr0 |= cr0::kPg;
    if (m == Mode::Long4) c.efer |= efer::kLme | efer::kLma;
    apply(c, m);
  }
  /// Frames move under the guest, and the Host must have been told of every write to what it moves.
  void rebase(const Action& x) {
    const Gfn g{x.b % 4 != 0 ? 200 + x.a % 120 : x.a % kSlotPages};  // mostly frames in use
    const std::uint64_t pages = 1 + x.b % 3;
    mmu_.invalidate_begin(g, pages);
    for (std::uint64_t f = g.value(); f < g.value() + pages; ++f) {
      if (untold_writes_.erase(f) != 0 && host_.told.count(f) == 0) fail("the Host was not told of a write");
      host_.told.erase(f);
    }
    host_.rebase(g, x.c);
    mmu_.invalidate_end();
  }
  void zap(const Action& x) {
    switch (x.a % 12) {
      case 0:
        mmu_.zap_all_fast();
        break;
      case 1:
        mmu_.obsolete_all();
        mmu_.reclaim_obsolete(static_cast<std::uint32_t>(x.b % 9));
        break;
      case 2:
        mmu_.reclaim_obsolete(static_cast<std::uint32_t>(x.b % 9));
        break;
      case 3:
        static_cast<void>(mmu_.zap_slot(slots_[x.b % 3].id));
        break;
      case 4:
        mmu_.shrink(static_cast<std::uint32_t>(x.b % 16));
        break;
      case 5:
      case 6:
      case 7:
        mmu_.invalidate_mmio();
        break;
      case 8:
        if (x.b % 8 == 0) mmu_.release();
        kick_all();
        break;
      default:
        mmu_.set_limit(static_cast<std::uint32_t>(16 + x.b % 64));
        break;
    }
  }
  void kick_all() {
    for (One& c : one_) c.inside = false;
  }
  /// Returns: whether it went well; else it must have been for want of memory.
  bool went(Status s) {
    if (s.ok()) return true;
    if (s.error() != Error::OutOfMemory || host_.failures == seen_failures_) fail("a slot operation failed");
    seen_failures_ = host_.failures;
    return false;
  }
  /// A slot goes and comes back, at once or later; is moved away and back; shrinks and grows; changes its flags.
  /// Nothing may remember what it was.
  void change_slot(SlotPlace& s, const Action& x) {
    if (s.gone) return add_again(s);
    const std::uint64_t away = std::uint64_t{1} << 20;
    switch (x.b >> 8 & 3) {
      case 0:
        if (!went(mmu_.remove_slot(s.id))) return;
        s.log = false;
        forget_log(s);
        s.gone = true;
        hide_gone();
        if (&s != slots_ + 1 || (x.b >> 16 & 1) == 0) add_again(s);  // only the second stays away
        return;
      case 1:
        if (s.log || !went(mmu_.move_slot(s.id, Gfn{away}))) return;
        while (!went(mmu_.move_slot(s.id, Gfn{s.first})) && failure.empty()) {
        }
        return;
      case 2:
        if (s.log || !went(mmu_.resize_slot(s.id, Gfn{s.first}, s.pages - 7))) return;
        while (!went(mmu_.resize_slot(s.id, Gfn{s.first}, s.pages)) && failure.empty()) {
        }
        return;
      default:
        static_cast<void>(went(mmu_.set_slot_flags(s.id, SlotFlags{true})));
        static_cast<void>(went(mmu_.set_slot_flags(s.id, SlotFlags{false})));
    }
  }
  /// Only the second slot is away while the guest runs.
  void hide_gone() { host_.hide(slots_[1].first, slots_[1].first + (slots_[1].gone ? slots_[1].pages : 0)); }
  void add_again(SlotPlace& s) {
    for (int i = 0; i < 3; ++i) {
      const Result<SlotId> r = mmu_.add_slot(Gfn{s.first}, s.pages);
      if (r.ok()) {
        s.id = r.value();
        s.gone = false;
        hide_gone();
        return;
      }
      seen_failures_ = host_.failures;
    }
    fail("add_slot failed without a reason");
  }
  void forget_log(const SlotPlace& s) {
    for (std::uint64_t f = s.first; f < s.first + s.pages; ++f) logged_writes_.erase(f);
  }
  /// The dirty log starts, is fetched (each page written since must be in it), or stops.
  void log(SlotPlace& s, const Action& x) {
    if (s.gone) return;
    if (!s.log) {
      s.log = went(mmu_.start_dirty_log(s.id, x.a % 2 == 0 ? DirtyMethod::WriteProtect : DirtyMethod::DirtyBit));
      if (s.log && x.a % 3 == 0) {
        const Status split = mmu_.split_large_pages(s.id);
        if (!split.ok()) seen_failures_ = host_.failures;
      }
      return;
    }
    if (x.a % 4 == 0) {
      s.log = false;
      forget_log(s);
      if (!mmu_.stop_dirty_log(s.id).ok()) fail("stop_dirty_log failed");
      return;
    }
    const std::uint64_t words = Mmu::dirty_log_words(s.pages);
    std::vector<std::uint64_t> bits(words);
    const Status got = x.a % 4 == 1   ? reader_.read_dirty_log(s.id, 0, words, bits.data())
                       : x.a % 4 == 2 ? reader_.fetch_dirty_log(s.id, 0, words, bits.data())
                                      : mmu_.fetch_dirty_log(s.id, 0, words, bits.data());
    if (!got.ok()) return fail("the dirty log cannot be read");
    for (const std::uint64_t f : logged_writes_)
      if (f >= s.first && f < s.first + s.pages && (bits[(f - s.first) / 64] >> ((f - s.first) % 64) & 1) == 0)
        return fail("a written page is not in the dirty log");
    if (x.a % 4 == 1)
      for (std::uint64_t i = 0; i < words; ++i)
        if (!reader_.clear_dirty_log(s.id, i, bits[i]).ok()) fail("the dirty log cannot be cleared");
    forget_log(s);
  }
  void look_after(const Action& x) {
    const Gfn g{x.a % kSlotPages};
    if (x.b % 3 == 0) {
      if (mmu_.test_young(g, x.c % 600) != reader_.test_young(g, x.c % 600)) fail("a reader finds another age");
    } else if (x.b % 3 == 1) {
      mmu_.clear_young(g, x.c % 600);
    } else {
      mmu_.recover_exec_splits(static_cast<std::uint32_t>(x.c % 3));
    }
  }

  /// An edit of an entry on the path of some address, by a store through the linear map or behind the guest's back.
  void edit(const Action& x) {
    if (me_->guest.mode == Mode::Flat) return;
    const std::uint64_t a = some_address(x.a | 1);
    const auto steps = me_->guest.path(a);
    if (steps.empty()) return;
    const auto& s = (x.a >> 40) % 4 != 0 ? steps.back() : steps[(x.a >> 44) % steps.size()];
    if (frame_of(s.at).value() < 16 || frame_of(s.at).value() >= me_->guest.table_end) return;
    std::uint64_t e = s.entry;
    switch (x.b % 14) {
      case 0:
        e ^= 1;
        break;
      case 1:
        e ^= 2;
        break;
      case 2:
        e ^= 4;
        break;
      case 3:
        e ^= me_->guest.width() == 8 ? std::uint64_t{1} << 63 : 2;
        break;
      case 4:
        e &= ~0x20ULL;
        break;
      case 5:
        e &= ~0x40ULL;
        break;
      case 6:
        e &= ~0x60ULL;
        break;
      case 7:
      case 8:
        e = (e & ~frame_bits(me_->guest.mode)) | (200 + (x.b >> 8) % 60) << 12;
        break;
      case 9:
        e = (e & ~frame_bits(me_->guest.mode)) | (16 + (x.b >> 8) % (me_->guest.table_end - 16)) << 12;
        break;
      case 10:
        e ^= 0x80;
        break;
      case 11:
        e = (x.b >> 8) % 2 != 0 ? 0 : 7 | (200 + (x.b >> 8) % 60) << 12;
        break;
      case 12:
        e ^= std::uint64_t{1} << (12 + (x.b >> 8) % (me_->guest.width() == 8 ? 40 : 20));
        break;
      default:
        e |= 7;
        break;
    }
    if (x.c % 5 == 0) {
      changing(s.at, [&] { static_cast<void>(host_.write(s.at, me_->guest.width(), e)); });
      remember();
      mmu_.guest_wrote(s.at, me_->guest.width());
    } else {
      access(GuestModel::kLinear + s.at.value(), AccessRequest{true, false, false}, CpuMode{0, true}, &e,
             me_->guest.width());
    }
    if (!failure.empty()) return;
    switch (x.c >> 8 & 7) {
      case 0:
        break;  // the guest forgets to flush
      case 1:
      case 2:
        load_cr3(me_->guest.cr3);
        break;
      default:
        if (s.level == 1) {
          exited().invlpg(Gva{a});
          forget(a);
        } else {
          exited().flush();
          forget_all();
        }
    }
  }
  /// Bytes of a table written by a device: any width, any alignment.
  void dma(const Action& x) {
    const std::uint64_t span = me_->guest.table_end - 16;
    const Gpa at{(16 + x.a % span) << 12 | ((x.b & 0xff8) + (x.c % 3 == 0 ? x.b >> 20 & 7 : 0))};
    const unsigned bytes = 1U << (x.b >> 32 & 3);
    if ((at.value() & 0xfff) + bytes > 4096) return;
    std::uint64_t v = 0;
    static_cast<void>(host_.read(at, bytes, v));
    v ^= x.c & 0x67;
    changing(Gpa{at.value() & ~7ULL}, [&] { static_cast<void>(host_.write(at, bytes, v)); });
    if ((at.value() & 7) + bytes > 8) stale_all_wild();
    remember();
    mmu_.guest_wrote(at, bytes);
    wrote(frame_of(at).value());
  }
  void stale_all_wild() {
    for (One& c : one_) {
      for (const std::uint64_t p : c.touched) c.stale[p].wild = true;
      for (const std::uint64_t a : universe(c.guest.mode)) c.stale[a >> 12].wild = true;
    }
  }

  TestHost host_;
  Mmu mmu_;
  typename Mmu::Reader reader_{mmu_};
  One one_[2];
  One* me_ = one_;
  static constexpr std::uint64_t kSlotPages = 2000;
  /// Tables and some data; data that may go away for a while; the rest.
  SlotPlace slots_[3] = {{0, 260}, {260, 30}, {290, kSlotPages - 290}};
  std::vector<std::uint64_t> mirror_;
  std::set<std::uint64_t> logged_writes_;  ///< gfns written since their slot's log was last fetched
  std::set<std::uint64_t> untold_writes_;  ///< gfns written by a CPU of which the Host was not told yet
  std::uint64_t seen_failures_ = 0;
};

/// Runs one seed; on failure shrinks the sequence and says how to replay it. Returns: the report, empty if all is well.
template <class Mmu>
std::string run_seed(std::uint64_t seed, unsigned length) {
  sim::Random rng(seed);
  std::vector<Action> actions;
  for (unsigned i = 0; i < length; ++i)
    actions.push_back({static_cast<unsigned>(rng.below(kKinds)), rng.next(), rng.next(), rng.next()});
  const auto attempt = [&](const std::vector<Action>& list) {
    World<Mmu> w(seed);
    static_cast<void>(w.run(list));
    return w.failure;
  };
  std::string why = attempt(actions);
  if (why.empty()) return why;
  for (std::size_t chunk = actions.size() / 2; chunk > 0; chunk /= 2) {
    for (std::size_t at = 0; at + chunk <= actions.size();) {
      std::vector<Action> less = actions;
      less.erase(less.begin() + static_cast<std::ptrdiff_t>(at),
                 less.begin() + static_cast<std::ptrdiff_t>(at + chunk));
      const std::string w = attempt(less);
      if (w.empty()) {
        at += chunk;
      } else {
        actions = less;
        why = w;
      }
    }
  }
  std::string report =
      "seed " + std::to_string(seed) + ": " + why + "; " + std::to_string(actions.size()) + " actions:";
  char line[128];
  for (const Action& x : actions) {
    std::snprintf(line, sizeof line, "\n  {%u, 0x%llx, 0x%llx, 0x%llx}", x.kind, static_cast<unsigned long long>(x.a),
                  static_cast<unsigned long long>(x.b), static_cast<unsigned long long>(x.c));
    report += line;
  }
  return report;
}

}  // namespace shadowmmu::test
