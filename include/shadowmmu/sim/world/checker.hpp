// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "shadowmmu/result.hpp"
#include "shadowmmu/sim/world/model.hpp"

/// Compares what the MMU does with what the model knows. It looks at outcomes, at every compare-exchange on guest
/// memory, at what is freed, and at what a TLB that loses nothing might hold: a flush or kick that was owed and never
/// asked for shows there, before any access meets it.
namespace shadowmmu::sim::world {

class Checker final : public MachineObserver {
 public:
  explicit Checker(Model& m) : model_(m) { m.machine.observer = this; }
  Checker(const Checker&) = delete;
  ~Checker() override { model_.machine.observer = nullptr; }

  std::string failure;  ///< what went wrong first
  std::uint64_t faults = 0, emulated = 0, stale = 0, mmio = 0;

  [[nodiscard]] bool ok() const noexcept { return failure.empty(); }
  void fail(const std::string& what) {
    if (failure.empty()) failure = what;
  }
  void broken(const std::string& what) override { fail(what); }
  [[nodiscard]] bool changes(std::uint64_t gfn) override { return model_.changing_slot(gfn); }

  // --- one fault, from the hardware's exit to the MMU's answer -----------------------------------------------------
  /// The vCPU's fault goes to the MMU. Until fault_ends each change of guest memory counts: the answer may be right for
  /// what the tables said at any moment of it.
  void fault_begins(unsigned n, std::uint64_t a, const Reach& x) {
    faults += 1;
    Watch& w = watch_[n];
    w.active = true;
    w.address = a;
    w.reach = x;
    w.versions.clear();
    note_version(n);
    w.rom = changing_rom_;
    w.slots = 0;
    for (unsigned i = 0; i < Model::kSlots; ++i) w.slots |= model_.slots[i].changing ? 1U << i : 0U;
  }
  /// A slot begins to change: until it is settled it is memory or not, as the MMU pleases.
  void slot_changes(unsigned i) {
    model_.slots[i].changing = true;
    for (Watch& w : watch_) w.slots |= 1U << i;
  }
  /// A frame becomes read-only, or writable: until that is settled it is either.
  void rom_changes(std::uint64_t gfn) {
    changing_rom_ = gfn;
    for (Watch& w : watch_) w.rom = gfn;
  }
  void rom_settled() { changing_rom_ = GuestMap::kNone; }
  void memory_changed() {
    for (unsigned n = 0; n < Model::kVcpus; ++n)
      if (watch_[n].active) note_version(n);
  }
  void exchanged(Gpa at, unsigned bytes, std::uint64_t old, std::uint64_t now) override {
    model_.note_word(at);
    constexpr std::uint64_t kAccessed = 0x20, kDirty = 0x40;
    if (old == now) return;
    if ((old ^ now) & ~(kAccessed | kDirty) || (old & ~now) != 0) return fail("a guest table changed beyond A and D");
    for (Watch& w : watch_) {
      if (!w.active) continue;
      for (const OracleVerdict& v : w.versions)
        for (const EntryUpdates* list : {&v.updates, &v.may_update})
          for (const EntryUpdate& u : *list)
            if (u.gpa == at && u.bytes == bytes && (now & ~old & ~u.value) == 0) {
              w.writes.push_back(model_.write_begins(frame_of(at).value()));
              return memory_changed();
            }
    }
    fail("an A or D bit was set that no access owes");
  }
  void fault_ends(unsigned n) {
    for (const unsigned w : watch_[n].writes) model_.write_ends(w);
    watch_[n].writes.clear();
    watch_[n].active = false;
  }

  /// The MMU says that the vCPU may run on: at some moment of the fault the access was allowed.
  void resumed(unsigned n) {
    for (const OracleVerdict& v : watch_[n].versions)
      if (!v.fault) return;
    fail("a fault was hidden from the guest");
  }
  void injected(unsigned n, const FaultOutcome& o) {
    std::uint32_t other = 0;
    bool any = false;
    for (const OracleVerdict& v : watch_[n].versions) {
      if (!v.fault) continue;
      if (v.error_code == o.error_code) return o.address == watch_[n].address ? void() : fail("CR2 is wrong");
      any = true;
      other = v.error_code;
    }
    if (any) return fail("error code " + std::to_string(o.error_code) + " instead of " + std::to_string(other));
    fail("a fault was invented");
  }
  void answered_mmio(unsigned n, const FaultOutcome& o) {
    mmio += 1;
    const Watch& w = watch_[n];
    const std::uint64_t gfn = frame_of(o.gpa).value();
    for (const OracleVerdict& v : w.versions)
      if (!v.fault && v.gpa == o.gpa &&
          (!model_.memory(gfn) || (w.reach.request.write && (model_.machine.read_only(gfn) || w.rom == gfn))))
        return owes_nothing(n);
    if (slot_changed(n, gfn)) return;
    // An MMIO answer that the guest has not flushed holds as a TLB entry does; never for what is memory.
    if (!model_.memory(gfn) && model_.legally_stale(n, w.address, gfn, w.reach.request, w.reach.mode)) return;
    const OracleVerdict& now = w.versions.back();
    fail("memory was taken for MMIO: gpa " + hex(o.gpa.value()) +
         (now.fault ? ", a fault" : ", not " + hex(now.gpa.value())));
  }
  /// Returns: whether the slot of the frame has been changing since the vCPU's fault began.
  [[nodiscard]] bool slot_changed(unsigned n, std::uint64_t gfn) const {
    for (unsigned i = 0; i < Model::kSlots; ++i)
      if (const Model::Slot& s = model_.slots[i];
          (watch_[n].slots >> i & 1) != 0 && gfn - s.whole_first < s.whole_pages)
        return true;
    return false;
  }
  void answered_emulate(unsigned n, const FaultOutcome& o) {
    emulated += 1;
    const Watch& w = watch_[n];
    for (const OracleVerdict& v : w.versions)
      if (!v.fault && o.gpa == Gpa{(v.gpa.value() & ~kPageMask) | (w.address & kPageMask)}) return owes_nothing(n);
    fail("an emulation was asked for the wrong place");
  }

  // --- an access that the hardware lets through --------------------------------------------------------------------
  /// `alone`: no other operation is under way.
  void succeeded(unsigned n, std::uint64_t a, const Reach& x, const AccessResult& got, bool alone) {
    Machine& m = model_.machine;
    const std::uint64_t gfn = m.gfn_at(got.hpa);
    if (!model_.memory(gfn) && !model_.changing_slot(gfn)) return fail("an access reached a frame that no slot owns");
    model_.reached(gfn);
    if (x.request.write) {
      if (m.read_only(gfn) && !model_.changing_slot(gfn)) return fail("a write reached read-only memory");
      if (m.copy_on_write(gfn)) return fail("a write reached a frame that the host shares");
      model_.wrote(gfn);
      // What another operation tells before its flush covers what a TLB still writes until then.
      if (alone) static_cast<void>(m.take_told(gfn));
      model_.untold_writes.insert(gfn);
    }
    if (m.device(gfn) && !device_fits(got.caching)) return fail("a device's memory obeys the guest's PAT");
    if (!memory_type_fits(got.caching, m.type_of(gfn)))
      return fail("memory of type " + std::to_string(static_cast<unsigned>(m.type_of(gfn))) + " is mapped as " +
                  std::to_string(got.caching));
    const OracleVerdict now = verdict(n, a, x);
    if (!now.fault && now.gpa.value() >> 12 == gfn) {
      if (!model_.doubtful(n, a) && owes(now)) fail("the access succeeded without its A and D bits");
      return;
    }
    if (model_.legally_stale(n, a, gfn, x.request, x.mode)) {
      stale += 1;
      return;
    }
    if (model_.doubtful(n, a)) return fail("a translation was used that no TLB may hold");
    const WalkResult w = m.vcpu(n).cpu.peek(Gva{a});
    const bool held = w.ok() && frame_of(w.hpa) == frame_of(got.hpa) &&
                      m.vcpu(n).cpu.permits(w.rights, x.request, x.mode, x.implicit);
    fail((now.fault ? "an access succeeded that must fault"
                    : "an access went to gfn " + hex(gfn) + " instead of " + hex(now.gpa.value() >> 12)) +
         (held ? "" : ", by a translation that no flush has taken from its TLB"));
  }

  // --- what a TLB may hold -------------------------------------------------------------------------------------------
  /// Every translation that the vCPU's hardware finds now, or found since the last flush, must be one that the guest's
  /// tables allow, or a TLB may hold. Requires: no operation is under way.
  void check_owed(unsigned n) {
    Machine::Hardware& h = model_.machine.vcpu(n);
    const Model::Vcpu& c = model_.vcpu[n];
    if (!h.inside) return;
    for (const std::uint64_t a : model_.universe(c.guest.mode)) check_page(n, h, a >> 12);
    for (const std::uint64_t page : c.touched) check_page(n, h, page);
  }
  /// The log of the slot was just taken: no CPU may write one of its pages unseen from here on.
  void check_log_holes(const Model::Slot& s) {
    for (unsigned n = 0; n < Model::kVcpus; ++n)
      for (const auto& [page, held] : model_.machine.vcpu(n).may_hold)
        for (const CachedPage& e : held) {
          const std::uint64_t gfn = gfn_of(e, page);
          if (gfn - s.first < s.pages && writable(e) && e.dirty)
            return fail("a flush is owed: vCPU " + std::to_string(n) + " may write gfn " + hex(gfn) +
                        " without the log seeing it");
        }
  }
  void check_tables() {
    Gpa where;
    if (!model_.tables_intact(where))
      fail("guest memory was written behind everybody's back, at gpa " + hex(where.value()));
  }

  [[nodiscard]] static std::string hex(std::uint64_t v) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
    return text;
  }

 private:
  struct Watch {
    bool active = false;
    std::uint64_t address = 0;
    Reach reach{};
    std::vector<OracleVerdict> versions;
    std::vector<unsigned> writes;         ///< guest tables in which it set A or D
    std::uint64_t rom = GuestMap::kNone;  ///< a frame that was read-only meanwhile
    unsigned slots = 0;                   ///< bit i: slot i was changing meanwhile
  };
  /// The MMU is not told that an access is implicit: it may go by either reading, until the hardware refuses again.
  void note_version(unsigned n) {
    Watch& w = watch_[n];
    Reach x = w.reach;
    if (std::exchange(x.implicit, false)) w.versions.push_back(verdict(n, w.address, x));
    w.versions.push_back(verdict(n, w.address, w.reach));
  }
  [[nodiscard]] OracleVerdict verdict(unsigned n, std::uint64_t a, const Reach& x) const {
    if (!model_.second_level()) return model_.vcpu[n].guest.oracle(a, x.request, x.mode, x.implicit);
    OracleVerdict identity;
    identity.gpa = Gpa{a};
    identity.rights = Access::all();
    return identity;
  }
  /// Returns: whether the access still owes A or D; memory that takes no writes is owed nothing.
  [[nodiscard]] bool owes(const OracleVerdict& v) const {
    for (const EntryUpdate& u : v.updates)
      if (!model_.machine.read_only(frame_of(u.gpa).value())) return true;
    return false;
  }
  void owes_nothing(unsigned n) {
    const Watch& w = watch_[n];
    const OracleVerdict now = verdict(n, w.address, w.reach);
    if (!now.fault && owes(now) && !model_.doubtful(n, w.address) && w.versions.size() == 1)
      fail("an A or D bit that the access owes is missing");
  }
  /// What the CPU makes of a mapping must not be more than its memory bears: anything may become uncached.
  [[nodiscard]] bool memory_type_fits(std::uint8_t caching, MemoryType type) const {
    if (model_.second_level()) return (caching & 7U) == static_cast<unsigned>(type);
    constexpr MemoryType kPowerOnPat[] = {MemoryType::WriteBack, MemoryType::WriteThrough, MemoryType::Uncached,
                                          MemoryType::Uncached};
    const MemoryType is = kPowerOnPat[caching & 3U];
    return is == type || is == MemoryType::Uncached;
  }
  /// Second level: what the guest's PAT says of a device must count for nothing.
  [[nodiscard]] bool device_fits(std::uint8_t caching) const { return !model_.second_level() || (caching & 8U) != 0; }
  [[nodiscard]] bool writable(const CachedPage& e) const { return (e.rights & (model_.second_level() ? 2U : 1U)) != 0; }
  [[nodiscard]] std::uint64_t gfn_of(const CachedPage& e, std::uint64_t page) const {
    const std::uint64_t inside = (page << 12) & ((std::uint64_t{1} << e.shift) - 1);
    return model_.machine.gfn_at(Hpa{e.page.value() + inside});
  }
  [[nodiscard]] static bool same(const CachedPage& a, const CachedPage& b) {
    return a.page == b.page && a.shift == b.shift && a.rights == b.rights && a.dirty == b.dirty;
  }
  void check_page(unsigned n, Machine::Hardware& h, std::uint64_t page) {
    const WalkResult w = h.cpu.peek(Gva{page << 12});
    if (w.kind == AccessKind::Bus) return fail("hardware would walk a frame that is no table");
    const auto found = h.may_hold.find(page);
    if (!w.ok() && found == h.may_hold.end()) return;
    auto& held = found != h.may_hold.end() ? found->second : h.may_hold[page];
    CachedPage now;
    if (w.ok()) {
      const std::uint64_t offset = (std::uint64_t{1} << w.shift) - 1;
      now = {Hpa{w.hpa.value() & ~offset}, w.level, w.shift, w.rights, w.dirty, w.caching};
      bool known = false;
      for (const CachedPage& e : held) known = known || same(e, now);
      if (!known) held.push_back(now);
    }
    for (const CachedPage& e : held)
      if (const char* why = illegal(n, page, e, w.ok() && same(e, now)); why != nullptr)
        return fail("vCPU " + std::to_string(n) + " may go from " + hex(page << 12) + " to gfn " +
                    hex(gfn_of(e, page)) +
                    (w.ok() && same(e, now) ? " by what its tables hold now: "
                                            : " by a translation that no flush has taken from its TLB: ") +
                    why);
  }
  /// Returns: why the hardware must not have this translation; nullptr if it may. `current`: its tables say so now.
  [[nodiscard]] const char* illegal(unsigned n, std::uint64_t page, const CachedPage& e, bool current) const {
    const Model::Vcpu& c = model_.vcpu[n];
    const Machine& m = model_.machine;
    const std::uint64_t a = page << 12, gfn = gfn_of(e, page);
    if (!model_.memory(gfn)) return "no slot owns that frame";
    if (m.small_code && e.shift > kPageShift &&
        (e.rights & (model_.second_level() ? 4U : unsigned{Access::kExec})) != 0)
      return "code may run from a large page";
    if (writable(e) && m.read_only(gfn)) return "it is read-only memory, and may be written";
    if (writable(e) && m.copy_on_write(gfn)) return "the host shares that frame, and it may be written";
    if (model_.second_level()) return gfn == page ? nullptr : "that is another frame";
    const OracleVerdict raw = c.guest.raw(a, writable(e));
    const bool within = (e.rights & ~raw.rights.bits()) == 0;
    if (!raw.fault && raw.gpa.value() >> 12 == gfn && within && !owes(raw)) return nullptr;
    const auto& cpu = model_.machine.vcpu(n).cpu;
    for (const Reach& x : kEveryReach) {
      if (!cpu.permits(e.rights, x.request, x.mode, false)) continue;
      if (x.request.write && !e.dirty && !current) continue;  // hardware walks again to set D
      const OracleVerdict now = c.guest.oracle(a, x.request, x.mode);
      if (!now.fault && now.gpa.value() >> 12 == gfn && !owes(now)) continue;
      if (model_.legally_stale(n, a, gfn, x.request, x.mode)) continue;
      if (!now.fault && now.gpa.value() >> 12 == gfn && model_.doubtful(n, a)) continue;
      if (now.fault) return "the guest's tables forbid it";
      return now.gpa.value() >> 12 == gfn ? "the access would leave A or D clear" : "the guest's tables lead elsewhere";
    }
    return nullptr;
  }

  Model& model_;
  Watch watch_[Model::kVcpus];
  std::uint64_t changing_rom_ = GuestMap::kNone;
};

}  // namespace shadowmmu::sim::world
