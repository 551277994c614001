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
inline constexpr unsigned kKinds = 12;

/// A guest on the library, on a simulated CPU, beside the oracle. After every action the outcome must be what the
/// architecture gives, or what a TLB may still hold; guest tables may have changed in A and D bits only, and the audit
/// must be clean. `failure` says what went wrong first.
template <class Mmu>
class World {
 public:
  explicit World(std::uint64_t seed)
      : host_(2048, 4096, seed), guest_(host_), tcpu_(host_, VcpuId{0}, config(seed)), mmu_(host_, caps()) {
    if (seed % 4 == 0) host_.use_large_pages(seed);
    build();
    slot_ = mmu_.add_slot(Gfn{0}, kSlotPages).value();
    vcpu_ = std::make_unique<typename Mmu::Vcpu>(mmu_, VcpuId{0});
    mirror_.resize((guest_.table_end - 16) * 512);
    remember();
    switch_mode(static_cast<Mode>(seed % 3), 0);
  }
  ~World() { vcpu_.reset(); }

  std::string failure;
  std::uint64_t accesses = 0, faults = 0, emulated = 0, stale = 0;

  [[nodiscard]] bool run(const std::vector<Action>& actions) {
    for (const Action& act : actions) {
      step(act);
      if (failure.empty()) check(act);
      if (!failure.empty()) return false;
    }
    return true;
  }

 private:
  static typename Mmu::Caps caps() {
    typename Mmu::Caps c;
    c.host_address_bits = 46;
    c.guest_address_bits = GuestModel::kMaxPhys;
    return c;
  }
  static sim::CpuConfig config(std::uint64_t seed) {
    sim::CpuConfig c;
    c.max_phys_addr = 46;
    c.seed = seed;
    return c;
  }

  void build() {
    for (unsigned r = 0; r < GuestModel::kRoots; ++r)
      for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
        const std::uint64_t root = guest_.next_frame++ << 12;
        guest_.roots[static_cast<unsigned>(m)][r] = root;
        if (m == Mode::Bits32)
          for (std::uint64_t f = 0; f < 1024; ++f) guest_.map(m, root, GuestModel::kLinear + (f << 12), f, 0x67);
        else
          for (std::uint64_t f = 0; f < 2048; f += 512)
            guest_.map(m, root, GuestModel::kLinear + (f << 12), f, 0x67, 2);
        for (const std::uint64_t a : universe(m)) guest_.map(m, root, a, 200 + (a >> 12) % 40 + r * 40, 7);
      }
    guest_.table_end = guest_.next_frame;
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
    if (guest_.mode == Mode::Flat) return (choice % 2060) << 12;
    const auto v = universe(guest_.mode);
    if (choice % 8 == 0) return GuestModel::kLinear + ((choice >> 8) % 2060 << 12);
    return v[(choice >> 8) % v.size()];
  }

  void fail(const std::string& what) {
    if (failure.empty()) failure = what;
  }

  // --- what a TLB may still hold -------------------------------------------------------------------------------
  struct Stale {
    bool wild = false;  ///< an upper entry changed: combinations of old and new are legal
    std::vector<sim::OracleVerdict> old;
  };
  void forget_all() { stale_.clear(); }
  void forget(std::uint64_t a) {
    const std::uint64_t page = a >> 12;
    if (a >= GuestModel::kLinear && a < GuestModel::kLinear + (1U << 23)) {
      std::erase_if(stale_, [&](const auto& s) { return s.first >> 9 == page >> 9; });
    }
    stale_.erase(page);
  }
  /// Effects: runs `change` on guest memory and notes which translations it outdates.
  template <class F>
  void changing(Gpa at, F&& change) {
    std::map<std::uint64_t, sim::OracleVerdict> before;
    std::set<std::uint64_t> pages;
    for (const std::uint64_t a : universe(guest_.mode == Mode::Flat ? Mode::Bits32 : guest_.mode))
      pages.insert(a >> 12);
    for (const std::uint64_t p : touched_) pages.insert(p);
    std::map<std::uint64_t, unsigned> hit;
    for (const std::uint64_t p : pages) {
      before[p] = guest_.raw(p << 12);
      for (const auto& s : guest_.path(p << 12))
        if ((s.at.value() ^ at.value()) < 8) hit[p] = std::max(hit[p], s.level);
    }
    change();
    for (const std::uint64_t p : pages) {
      for (const auto& s : guest_.path(p << 12))
        if ((s.at.value() ^ at.value()) < 8) hit[p] = std::max(hit[p], s.level);
      if (hit[p] == 0) continue;
      // A leaf edit outdates one translation; an edit above may be combined with anything below.
      if (hit[p] > 1) stale_[p].wild = true;
      if (!before[p].fault) stale_[p].old.push_back(before[p]);
    }
  }
  [[nodiscard]] bool allowed(Access rights, AccessRequest r, CpuMode m) const {
    const bool wp = (guest_.controls.cr0 & cr0::kWp) != 0;
    if (guest_.mode == Mode::Flat) return true;
    if (r.fetch && !rights.exec()) return false;
    if (r.user) return rights.user() && (!r.write || rights.write());
    if (r.write && !rights.write() && wp) return false;
    if (r.fetch && rights.user() && (guest_.controls.cr4 & cr4::kSmep) != 0) return false;
    return !(!r.fetch && rights.user() && (guest_.controls.cr4 & cr4::kSmap) != 0 && (m.cpl == 3 || !m.ac));
  }

  // --- the mirror of the guest's tables -----------------------------------------------------------------------
  void remember() {
    for (std::uint64_t f = 16; f < guest_.table_end; ++f)
      std::memcpy(&mirror_[(f - 16) * 512], host_.guest_page(Gfn{f}), kPageSize);
  }
  /// Tables may differ from the mirror only by `must` (if given, all of it) and `may`.
  void compare(const sim::EntryUpdates* must, const sim::EntryUpdates* may) {
    std::map<std::uint64_t, std::uint64_t> required;
    std::map<std::uint64_t, std::uint64_t> optional;
    const auto collect = [](const sim::EntryUpdates* list, std::map<std::uint64_t, std::uint64_t>& into) {
      if (list == nullptr) return;
      for (const auto& u : *list) into[u.gpa.value() & ~7ULL] |= u.value << (u.gpa.value() & 4 ? 32 : 0);
    };
    collect(must, required);
    collect(may, optional);
    for (std::uint64_t f = 16; f < guest_.table_end; ++f) {
      const auto* now = static_cast<const std::uint64_t*>(host_.guest_page(Gfn{f}));
      for (unsigned i = 0; i < 512; ++i) {
        const std::uint64_t was = mirror_[(f - 16) * 512 + i];
        const std::uint64_t at = f << 12 | i * 8;
        if (now[i] == was && required.empty()) continue;
        const std::uint64_t need = required.count(at) != 0 ? required[at] : 0;
        const std::uint64_t can = need | (optional.count(at) != 0 ? optional[at] : 0);
        if ((now[i] & ~(was | can)) != 0 || (was & ~now[i]) != 0) return fail("a guest table changed beyond A and D");
        if ((need & ~now[i]) != 0) return fail("an A or D bit that the access owes is missing");
      }
    }
    remember();
  }

  // --- accesses -----------------------------------------------------------------------------------------------
  void enter() {
    for (int i = 0;; ++i) {
      const EnterOutcome e = vcpu_->enter();
      if (e == EnterOutcome::Enter) break;
      if (host_.failures == seen_failures_ || i > 8) return fail("enter() failed without a reason");
      seen_failures_ = host_.failures;
    }
    const HwState h = vcpu_->hw_state();
    const bool same = h.cr0 == hw_.cr0 && h.cr3 == hw_.cr3 && h.cr4 == hw_.cr4 && h.efer == hw_.efer;
    if (same && !tcpu_.reload) return;
    hw_ = h;
    tcpu_.reload = false;
    if (tcpu_.cpu.load(h) != sim::LoadOutcome::Ok) fail("the CPU refuses the hardware state");
  }

  /// One access, retried as hardware would. Stores `value` where given.
  void access(std::uint64_t a, AccessRequest r, CpuMode m, const std::uint64_t* value, unsigned bytes = 8) {
    accesses += 1;
    bool window = false;
    for (int tries = 0; tries < 64; ++tries) {
      enter();
      if (!failure.empty()) return;
      const auto got = tcpu_.cpu.access(a, r, m);
      if (got.kind == sim::AccessKind::Bus) return fail("hardware walked a frame that is no table");
      if (got.ok()) {
        succeeded(a, r, m, got.hpa);
        if (value != nullptr && failure.empty()) store(a, got.hpa, *value, bytes);
        if (window) vcpu_->end_write_windows();
        touched_.insert(a >> 12);
        return;
      }
      if (faulted(a, r, m, got.error_code, window)) {
        if (window) vcpu_->end_write_windows();
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
  void succeeded(std::uint64_t a, AccessRequest r, CpuMode m, Hpa hpa) {
    const std::uint64_t gfn = host_.gfn_at(hpa);
    if (gfn >= kSlotPages) return fail("an access reached a frame that no slot owns");
    const auto now = guest_.oracle(a, r, m);
    const auto found = stale_.find(a >> 12);
    const bool current = !now.fault && now.gpa.value() >> 12 == gfn;
    if (current) {
      if (found == stale_.end())
        compare(&now.updates, nullptr);
      else
        compare(nullptr, &now.updates);
      if (failure.empty() && found == stale_.end() && !guest_.oracle(a, r, m).updates.empty())
        fail("the access succeeded without its A and D bits");
      return;
    }
    compare(nullptr, &now.may_update);
    if (found == stale_.end())
      return fail(now.fault ? "an access succeeded that must fault" : "an access went to the wrong page");
    stale += 1;
    if (found->second.wild) return;
    for (const auto& old : found->second.old)
      if (old.gpa.value() >> 12 == gfn && allowed(old.rights, r, m)) return;
    fail("a translation was used that no TLB may hold");
  }
  /// Returns: whether the access is over.
  bool faulted(std::uint64_t a, AccessRequest r, CpuMode m, std::uint32_t code, bool& window) {
    using Kind = FaultOutcome::Kind;
    faults += 1;
    const auto now = guest_.oracle(a, r, m);
    vcpu_->exit();
    const FaultOutcome o = vcpu_->handle_fault(Gva{a}, code, m);
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
        const bool rom = r.write && !now.fault && now.gpa.value() >> 12 < kSlotPages &&
                         host_.backing(frame_of(now.gpa), false).kind == Backing::Kind::ReadOnly;
        if (now.fault || (now.gpa.value() >> 12 < kSlotPages && !rom)) fail("memory was taken for MMIO");
        compare(nullptr, &now.updates);
        return true;
      }
      case Kind::Emulate: {
        emulated += 1;
        if (now.fault || o.gpa != Gpa{(now.gpa.value() & ~0xfffULL) | (a & 0xfff)})
          fail("an emulation was asked for the wrong place");
        compare(nullptr, &now.updates);
        const Status s = vcpu_->begin_write_window(o);
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
        if (guest_.mode != Mode::Flat)
          load_cr3(guest_.roots[static_cast<unsigned>(guest_.mode)][x.a % GuestModel::kRoots]);
        break;
      case 6:
        toggle(x.a);
        break;
      case 7:
        vcpu_->invlpg(Gva{some_address(x.a)});
        forget(some_address(x.a));
        break;
      case 8: {
        const Gfn g{x.b % 4 != 0 ? 200 + x.a % 120 : x.a % kSlotPages};  // mostly frames in use
        mmu_.invalidate_begin(g, 1 + x.b % 3);
        host_.rebase(g, x.c);
        mmu_.invalidate_end();
        break;
      }
      case 9:
        if (x.a % 8 == 0)
          mmu_.zap_all_fast();
        else if (x.a % 8 < 3)
          mmu_.shrink(static_cast<std::uint32_t>(x.b % 16));
        else
          mmu_.set_limit(static_cast<std::uint32_t>(12 + x.b % 64));
        break;
      case 10:
        if (x.a % 4 == 0)
          switch_mode(static_cast<Mode>(x.b % 4), x.c);
        else if (x.a % 4 == 1)
          slot_again();
        else
          host_.fail_in = 1 + x.b % 24;
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
  }

  void load_cr3(std::uint64_t root) {
    const auto fresh = sim::Oracle<TestHost>::read_pdptes(host_, root);
    const bool legal = guest_.mode != Mode::Pae || sim::Oracle<TestHost>::pdptes_loadable(fresh, GuestModel::kMaxPhys);
    const ControlOutcome o = vcpu_->set_cr3(root);
    if ((o == ControlOutcome::Done) != legal) return fail("MOV to CR3 and the PDPTEs disagree");
    if (!legal) return;
    guest_.cr3 = root;
    if (guest_.mode == Mode::Pae) guest_.pdptes = fresh;
    forget_all();
  }
  void apply(const Controls& c, Mode mode) {
    const bool mode_changes = mode != guest_.mode;
    const std::uint64_t flushing = cr4::kPge | cr4::kPse | cr4::kSmep;
    const bool reload = mode_changes || ((c.cr4 ^ guest_.controls.cr4) & flushing) != 0;
    const auto fresh = sim::Oracle<TestHost>::read_pdptes(host_, guest_.cr3);
    const bool legal =
        mode != Mode::Pae || !reload || sim::Oracle<TestHost>::pdptes_loadable(fresh, GuestModel::kMaxPhys);
    const ControlOutcome o = vcpu_->set_control(c);
    if ((o == ControlOutcome::Done) != legal) return fail("a control write and the PDPTEs disagree");
    if (!legal) return;
    if (mode == Mode::Pae && reload) guest_.pdptes = fresh;
    guest_.controls = c;
    guest_.mode = mode;
    if (mode_changes) touched_.clear();
    if (reload) forget_all();
  }
  void toggle(std::uint64_t which) {
    Controls c = guest_.controls;
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
    apply(c, guest_.mode);
    if (which == 4 || which == 2) {
      vcpu_->flush();
      forget_all();
    }
  }
  void switch_mode(Mode m, std::uint64_t root) {
    Controls c = guest_.controls;
    c.cr0 = (c.cr0 | cr0::kPe) & ~cr0::kPg;
    c.efer &= ~(efer::kLma | efer::kLme);
    apply(c, Mode::Flat);
    if (m == Mode::Flat || !failure.empty()) return;
    c.cr4 = m == Mode::Bits32 ? c.cr4 & ~cr4::kPae : c.cr4 | cr4::kPae;
    apply(c, Mode::Flat);
    load_cr3(guest_.roots[static_cast<unsigned>(m)][root % GuestModel::kRoots]);
    c.cr0 |= cr0::kPg;
    if (m == Mode::Long4) c.efer |= efer::kLme | efer::kLma;
    apply(c, m);
  }
  void slot_again() {
    // The whole memory goes and comes back: nothing may remember it.
    Status s = mmu_.remove_slot(slot_);
    if (!s.ok()) {
      if (s.error() != Error::OutOfMemory || host_.failures == seen_failures_) return fail("remove_slot failed");
      seen_failures_ = host_.failures;
      return;
    }
    for (int i = 0; i < 3; ++i) {
      const Result<SlotId> r = mmu_.add_slot(Gfn{0}, kSlotPages);
      if (r.ok()) {
        slot_ = r.value();
        return;
      }
      seen_failures_ = host_.failures;
    }
    fail("add_slot failed without a reason");
  }

  /// An edit of an entry on the path of some address, by a store through the linear map or behind the guest's back.
  void edit(const Action& x) {
    if (guest_.mode == Mode::Flat) return;
    const std::uint64_t a = some_address(x.a | 1);
    const auto steps = guest_.path(a);
    if (steps.empty()) return;
    const auto& s = (x.a >> 40) % 4 != 0 ? steps.back() : steps[(x.a >> 44) % steps.size()];
    if (frame_of(s.at).value() < 16 || frame_of(s.at).value() >= guest_.table_end) return;
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
        e ^= guest_.width() == 8 ? std::uint64_t{1} << 63 : 2;
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
        e = (e & ~frame_bits(guest_.mode)) | (200 + (x.b >> 8) % 60) << 12;
        break;
      case 9:
        e = (e & ~frame_bits(guest_.mode)) | (16 + (x.b >> 8) % (guest_.table_end - 16)) << 12;
        break;
      case 10:
        e ^= 0x80;
        break;
      case 11:
        e = (x.b >> 8) % 2 != 0 ? 0 : 7 | (200 + (x.b >> 8) % 60) << 12;
        break;
      case 12:
        e ^= std::uint64_t{1} << (12 + (x.b >> 8) % (guest_.width() == 8 ? 40 : 20));
        break;
      default:
        e |= 7;
        break;
    }
    if (x.c % 5 == 0) {
      changing(s.at, [&] { static_cast<void>(host_.write(s.at, guest_.width(), e)); });
      remember();
      mmu_.guest_wrote(s.at, guest_.width());
    } else {
      access(GuestModel::kLinear + s.at.value(), AccessRequest{true, false, false}, CpuMode{0, true}, &e,
             guest_.width());
    }
    if (!failure.empty()) return;
    switch (x.c >> 8 & 7) {
      case 0:
        break;  // the guest forgets to flush
      case 1:
      case 2:
        load_cr3(guest_.cr3);
        break;
      default:
        if (s.level == 1) {
          vcpu_->invlpg(Gva{a});
          forget(a);
        } else {
          vcpu_->flush();
          forget_all();
        }
    }
  }
  /// Bytes of a table written by a device: any width, any alignment.
  void dma(const Action& x) {
    const std::uint64_t span = guest_.table_end - 16;
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
  }
  void stale_all_wild() {
    for (const std::uint64_t p : touched_) stale_[p].wild = true;
    for (const std::uint64_t a : universe(guest_.mode)) stale_[a >> 12].wild = true;
  }

  TestHost host_;
  GuestModel guest_;
  TestCpu tcpu_;
  Mmu mmu_;
  std::unique_ptr<typename Mmu::Vcpu> vcpu_;
  SlotId slot_{};
  static constexpr std::uint64_t kSlotPages = 2000;
  std::vector<std::uint64_t> mirror_;
  std::map<std::uint64_t, Stale> stale_;
  std::set<std::uint64_t> touched_;
  HwState hw_{};
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
