// SPDX-License-Identifier: BSL-1.0
#include "torture.hpp"

#include <new>

#include "cpu.hpp"
#include "cpu_ops.hpp"
#include "decode.hpp"
#include "migration.hpp"
#include "mmio.hpp"
#include "ports.hpp"
#include "report.hpp"
#include "serial.hpp"

namespace hv {
namespace {

using shadowmmu::DirtyMethod;
using shadowmmu::Error;
using shadowmmu::Gfn;
using shadowmmu::SlotFlags;

struct KindInfo {
  const char* name;
  unsigned weight;  ///< of a hundred, about
};
// What makes every shadow page again is rare, or the guest would do nothing else.
constexpr KindInfo kKindInfo[Torture::kKinds] = {
    {"remove", 2},   {"move", 1},       {"resize", 1},   {"read_only", 3},   {"zap_all", 1},
    {"obsolete", 2}, {"reclaim", 6},    {"zap_slot", 4}, {"log_writes", 4},  {"log_dirty_bits", 4},
    {"fetch", 14},   {"read_clear", 8}, {"log_stop", 4}, {"move_pages", 20}, {"move_block", 2},
    {"mmio", 6},     {"young", 8},      {"shrink", 4},   {"limit", 2},       {"split", 4},
};
constexpr unsigned total_weight() noexcept {
  unsigned n = 0;
  for (const KindInfo& k : kKindInfo) n += k.weight;
  return n;
}

constexpr std::uint64_t kVga = 0xA0, kRom = 0xC0, kHigh = 0x100;
// I/O APIC, HPET and local APIC, in ascending order.
constexpr std::uint64_t kDevices[] = {0xFEC00, 0xFED00, 0xFEE00};
constexpr unsigned kFirstMain = 3;  // slots of low memory, VGA and ROM come first
constexpr std::uint64_t kAuditEvery = 64, kProgressSeconds = 5, kLogsAtOnce = 3;

std::uint64_t measure_tsc() noexcept {
  constexpr std::uint32_t kMask = 0xFFFFFF, kTicks = 71591;  // 24 bits at least; 20 ms of 3.579545 MHz
  constexpr std::uint64_t kGuess = 1'000'000'000;
  const std::uint16_t port = find_timer_port();
  if (port == 0) return kGuess;
  const std::uint64_t began = read_tsc();
  const std::uint32_t from = in32(port);
  std::uint32_t passed = 0;
  for (unsigned i = 0; i < 10'000'000 && passed < kTicks; ++i) passed = (in32(port) - from) & kMask;
  return passed < kTicks ? kGuess : (read_tsc() - began) * 50;
}

// A slot that is elsewhere for a while. Its log may be begun by the migration nevertheless, if that looked a moment
// before: it ends it at once, and until then the slot cannot come back.
class Absence {
 public:
  Absence(Cpu& cpu, unsigned slot, shadowmmu::SlotId id) noexcept : cpu_(cpu), slot_(slot), id_(id) {
    if (slot_ != Migration::kNoSlot) cpu_.migration->goes(slot_);
  }
  ~Absence() {
    if (slot_ != Migration::kNoSlot) cpu_.migration->is_back(slot_, id_);
  }
  Absence(const Absence&) = delete;
  Absence& operator=(const Absence&) = delete;

 private:
  Cpu& cpu_;
  unsigned slot_;
  shadowmmu::SlotId id_;
};

alignas(Torture) std::byte torture_storage[sizeof(Torture)];

}  // namespace

Torture* start_torture(Cpu& cpu, const Torture::Options& options, std::uint64_t end) noexcept {
  return new (torture_storage) Torture(cpu, options, end);
}

Torture::Torture(Cpu& cpu, const Options& options, std::uint64_t end) noexcept
    : cpu_(cpu),
      random_(options.seed != 0 ? options.seed : read_tsc()),
      mover_(cpu, random_, options.spare),
      seed_(options.seed),
      rate_(options.rate) {
  if (seed_ == 0) {
    seed_ = random_.next() & 0xFFFFFFFF;
    random_ = Random(seed_);
  }
  ticks_a_second_ = measure_tsc();
  period_ = ticks_a_second_ / rate_;
  add_slots(end);
  began_ = last_ = due_ = read_tsc();
  next_progress_ = began_ + kProgressSeconds * ticks_a_second_;
  say("torture: seed=", seed_, " rate=", rate_, " slots=", slot_count_, " TSC of ", ticks_a_second_ / 1'000'000,
      " MHz");
}

// ---------------------------------------------------------------------------------------------------------- memslots

void Torture::add(std::uint64_t first, std::uint64_t end, bool loggable) noexcept {
  if (first >= end) return;
  if (slot_count_ == kMaxSlots) fail(cpu_, "torture: too many slots at guest frame ", first);
  Slot& s = slots_[slot_count_++];
  s = {};
  s.first = first;
  s.pages = end - first;
  s.loggable = loggable && s.pages <= LogCheck::kMaxPages;
  s.rom = first == kRom;
  add_back(s);
  s.log = LogCheck(s.id, s.first, s.loggable ? s.pages : 0);
  // Every other one is for the migration to log.
  if (s.loggable && slot_count_ % 2 == 0 && cpu_.migration != nullptr) {
    s.migrates = cpu_.migration->adopt(s.id, s.first, s.pages);
    s.loggable = s.migrates == Migration::kNoSlot;
  }
}

void Torture::add_back(Slot& s) noexcept {
  const auto id = cpu_.mmu.add_slot(Gfn{s.first}, s.pages, SlotFlags{.read_only = s.read_only});
  if (!id.ok()) fail(cpu_, "torture: add_slot: error ", static_cast<std::uint64_t>(id.error()));
  s.id = id.value();
  s.log.renamed(s.id);
  if (s.migrates != Migration::kNoSlot) cpu_.migration->is_back(s.migrates, s.id);
}

// Returns: whether the slot's log is on, here or with the migration: then it cannot be moved now.
bool Torture::held_by_log(const Slot& s, const shadowmmu::Status& moved) noexcept {
  if (s.migrates != Migration::kNoSlot && !moved.ok() && moved.error() == Error::LogActive) return true;
  demand(moved);
  return false;
}

// Borders anywhere but on 2 MiB: no large page may reach across one.
void Torture::add_main_memory(std::uint64_t first, std::uint64_t end) noexcept {
  constexpr std::uint64_t kPieces = 8, kMostPages = 49152, kJitter = 300;
  const std::uint64_t frames = end - first;
  std::uint64_t pieces = frames / kMostPages + 1;
  if (pieces < kPieces) pieces = kPieces;
  for (std::uint64_t i = 0, at = first; i < pieces; ++i) {
    std::uint64_t next = first + frames / pieces * (i + 1) + random_.below(kJitter);
    if (i + 1 == pieces || next > end) next = end;
    add(at, next, true);
    main_slots_ += 1;
    at = next;
  }
}

void Torture::add_slots(std::uint64_t end) noexcept {
  const std::uint64_t main_end = cpu_.vm.memory.main_end() >> 12;
  add(0, kVga, true);
  add(kVga, kRom);
  add(kRom, kHigh);
  add_main_memory(kHigh, main_end);
  std::uint64_t at = main_end;
  for (const std::uint64_t device : kDevices) {
    add(at, device);
    kept_out_[kept_out_count_++] = device;
    at = device + 1;
  }
  add(at, end);
}

Torture::Slot* Torture::find_log(bool on) noexcept {
  const std::uint64_t from = random_.below(slot_count_);
  for (unsigned i = 0; i < slot_count_; ++i) {
    Slot& s = slots_[(from + i) % slot_count_];
    if (s.loggable && s.log.on() == on) return &s;
  }
  return nullptr;
}

void Torture::demand(const shadowmmu::Status& s) noexcept {
  if (s.ok()) return;
  say("error: torture: action ", kKindInfo[now_].name, " was refused");
  fail(cpu_, "torture: error ", static_cast<std::uint64_t>(s.error()));
}

void Torture::demand_refusal(const shadowmmu::Status& s, Error e) noexcept {
  if (!s.ok() && s.error() == e) return;
  say("error: torture: action ", kKindInfo[now_].name, " was to be refused with ", static_cast<unsigned>(e));
  fail(cpu_, "torture: but came to ", s.ok() ? 0xFF : static_cast<std::uint64_t>(s.error()));
}

// Effects: something small and harmless, to be done while a slot is away.
void Torture::quick() noexcept {
  switch (random_.below(6)) {
    case 0:
      cpu_.mmu.invalidate_mmio();
      break;
    case 1:
      static_cast<void>(cpu_.mmu.shrink(static_cast<std::uint32_t>(1 + random_.below(8))));
      break;
    case 2:
      cpu_.mmu.obsolete_all();
      break;
    case 3:
      cpu_.mmu.unmap(Gfn{random_.below(cpu_.vm.memory.frames())}, 1 + random_.below(1024));
      break;
    default:
      break;
  }
}

// Returns: a slot to be taken away: now and then the one that the guest's next instruction or its top table lies in.
Torture::Slot& Torture::victim() noexcept {
  const std::uint64_t which = random_.below(6);
  std::uint64_t gfn = cpu_.cr3 >> 12;
  if (which == 0) {
    const shadowmmu::AccessRequest fetch{.write = false, .fetch = true, .user = cpu_.vmcb->cpl == 3};
    const auto t = cpu_.vcpu.translate(shadowmmu::Gva{linear_rip(cpu_)}, fetch, cpu_.mode());
    if (!t.ok()) return any_slot();
    gfn = t.to.gpa.value() >> 12;
  }
  for (unsigned i = 0; which < 2 && i < slot_count_; ++i)
    if (gfn - slots_[i].first < slots_[i].pages) return slots_[i];
  return any_slot();
}

// Effects: faults on the guest's next instruction, while slots are away. What becomes an MMIO entry of it must be gone
// when the slot is back: the guest runs into it at once.
void Torture::poke() noexcept {
  if (cpu_.step.kind != Step::Kind::Idle || (cpu_.vmcb->event_injection & event::kValid) != 0) return;
  const std::uint32_t code = shadowmmu::pferr::kFetch | (cpu_.vmcb->cpl == 3 ? shadowmmu::pferr::kUser : 0U);
  using OutcomeKind = shadowmmu::FaultOutcome::Kind;
  const auto o = cpu_.vcpu.handle_fault(shadowmmu::Gva{linear_rip(cpu_)}, code, cpu_.mode());
  pokes_ += o.kind == OutcomeKind::Mmio ? 1U : 0U;
}

// The PCI ROM case: a slot, or several at once, goes and comes back.
void Torture::remove() noexcept {
  constexpr unsigned kMost = 3;
  Slot* gone[kMost] = {};
  const std::uint64_t wanted = 1 + random_.below(kMost);
  unsigned n = 0;
  while (n < wanted) {
    Slot& s = victim();
    bool again = false;
    for (unsigned i = 0; i < n; ++i) again = again || gone[i] == &s;
    if (again) break;
    if (s.migrates != Migration::kNoSlot) cpu_.migration->goes(s.migrates);
    demand(cpu_.mmu.remove_slot(s.id));
    demand_refusal(cpu_.mmu.zap_slot(s.id), Error::NoSuchSlot);
    gone[n++] = &s;
    quick();
  }
  poke();
  for (unsigned i = 0; i < n; ++i) add_back(*gone[i]);
}

// There and back again, beyond all that the guest can name.
void Torture::move() noexcept {
  constexpr std::uint64_t kAway = 1ULL << 28;
  Slot& s = victim();
  const Gfn away{kAway + random_.below(1U << 20)};
  if (s.log.on()) return demand_refusal(cpu_.mmu.move_slot(s.id, away), Error::LogActive);
  const Slot& other = any_slot();
  if (&other != &s && s.migrates == Migration::kNoSlot)
    demand_refusal(cpu_.mmu.move_slot(s.id, Gfn{other.first}), Error::Overlap);
  const Absence absence(cpu_, s.migrates, s.id);
  if (held_by_log(s, cpu_.mmu.move_slot(s.id, away))) return;
  quick();
  poke();
  while (held_by_log(s, cpu_.mmu.move_slot(s.id, Gfn{s.first}))) give_way();
}

void Torture::resize() noexcept {
  Slot& s = victim();
  const std::uint64_t cut = random_.below(s.pages / 2), pages = 1 + random_.below(s.pages - cut);
  const Gfn first{s.first + cut};
  if (s.log.on()) return demand_refusal(cpu_.mmu.resize_slot(s.id, first, pages), Error::LogActive);
  const Absence absence(cpu_, s.migrates, s.id);
  if (held_by_log(s, cpu_.mmu.resize_slot(s.id, first, pages))) return;
  quick();
  poke();
  while (held_by_log(s, cpu_.mmu.resize_slot(s.id, Gfn{s.first}, s.pages))) give_way();
}

void Torture::set_read_only(Slot& s, bool on) noexcept {
  demand(cpu_.mmu.set_slot_flags(s.id, SlotFlags{.read_only = on}));
  s.read_only = on;
}

// ROM stays read-only until the next time, as long as the guest does not write to it.
void Torture::read_only() noexcept {
  for (unsigned i = 0; i < slot_count_; ++i)
    if (slots_[i].rom && !rom_was_written_) set_read_only(slots_[i], !slots_[i].read_only);
  Slot& s = any_slot();
  const bool was = s.read_only;
  set_read_only(s, !was);
  set_read_only(s, was);
}

// --------------------------------------------------------------------------------------------------------- the rest

void Torture::log(DirtyMethod method) noexcept {
  unsigned on = 0;
  for (unsigned i = 0; i < slot_count_; ++i) on += slots_[i].log.on() ? 1U : 0U;
  if (on >= kLogsAtOnce) find_log(true)->log.stop(cpu_, random_, logs_);
  if (Slot* s = find_log(false); s != nullptr) {
    s->log.start(cpu_, random_, method);
    if (s->log.on()) demand_refusal(cpu_.mmu.start_dirty_log(s->id, method), Error::LogActive);
  }
}

void Torture::mmio() noexcept {
  // Now and then so many that the generation that entries bear starts over.
  const std::uint64_t n = random_.one_in(2) ? 1 : random_.one_in(4) ? 1 + random_.below(1U << 16) : 4096;
  for (std::uint64_t i = 0; i < n; ++i) cpu_.mmu.invalidate_mmio();
  mmio_invalidations_ += n;
}

// Nobody runs, so what was found must be found again, and nothing after it was cleared.
void Torture::young() noexcept {
  // Mostly where there is something to be found.
  const Slot& s = random_.one_in(4) ? any_slot() : slots_[kFirstMain + random_.below(main_slots_)];
  const std::uint64_t from = random_.below(s.pages), most = s.pages - from;
  const Gfn first{s.first + from};
  const std::uint64_t pages = 1 + random_.below(most < 4096 ? most : 4096);
  const bool found = cpu_.mmu.test_young(first, pages);
  if (cpu_.mmu.clear_young(first, pages) != found)
    fail(cpu_, "torture: test_young and clear_young differ at guest frame ", first.value());
  if (cpu_.mmu.test_young(first, pages)) fail(cpu_, "torture: young after clear_young at guest frame ", first.value());
  young_checks_ += found ? 1U : 0U;
}

void Torture::limit() noexcept {
  const std::uint32_t lower = (limit_ >> random_.below(6)) + 1;
  static_cast<void>(cpu_.mmu.set_limit(static_cast<std::uint32_t>(1 + random_.below(lower < limit_ ? lower : limit_))));
  lowered_for_ = 1 + static_cast<unsigned>(random_.below(8));
}

void Torture::split() noexcept {
  const shadowmmu::Status s = cpu_.mmu.split_large_pages(any_slot().id);
  // It evicts nobody: where pages end, it stops.
  if (!s.ok() && s.error() != Error::OutOfMemory) demand(s);
  static_cast<void>(cpu_.mmu.recover_exec_splits(static_cast<std::uint32_t>(random_.below(16))));
}

Torture::Kind Torture::choose() noexcept {
  std::uint64_t at = random_.below(total_weight());
  for (unsigned k = 0; k < kKinds; ++k) {
    if (at < kKindInfo[k].weight) return static_cast<Kind>(k);
    at -= kKindInfo[k].weight;
  }
  return kZapAll;
}

void Torture::act(Kind kind) noexcept {
  Slot* const logged = find_log(true);
  switch (kind) {
    case kRemove:
      return remove();
    case kMove:
      return move();
    case kResize:
      return resize();
    case kReadOnly:
      return read_only();
    case kZapAll:
      return cpu_.mmu.zap_all_fast();
    case kObsolete:
      return cpu_.mmu.obsolete_all();
    case kReclaim:
      reclaimed_ += cpu_.mmu.reclaim_obsolete(static_cast<std::uint32_t>(1 + random_.below(8)));
      return;
    case kZapSlot:
      return demand(cpu_.mmu.zap_slot(any_slot().id));
    case kLogWrites:
      return log(DirtyMethod::WriteProtect);
    case kLogDirtyBits:
      return log(DirtyMethod::DirtyBit);
    case kFetch:
      return logged == nullptr ? log(DirtyMethod::DirtyBit) : logged->log.fetch(cpu_, random_, logs_);
    case kReadClear:
      return logged == nullptr ? log(DirtyMethod::WriteProtect) : logged->log.read_and_clear(cpu_, random_, logs_);
    case kLogStop:
      return logged == nullptr ? log(DirtyMethod::DirtyBit) : logged->log.stop(cpu_, random_, logs_);
    case kMovePages:
      return mover_.move_pages();
    case kMoveBlock:
      return mover_.move_block();
    case kMmio:
      return mmio();
    case kYoung:
      return young();
    case kShrink:
      static_cast<void>(cpu_.mmu.shrink(static_cast<std::uint32_t>(1 + random_.below(32))));
      return;
    case kLimit:
      return limit();
    case kSplit:
      return split();
    case kKinds:
      return;
  }
}

// Effects: gives back a lowered limit in time, and looks at the MMU's books now and then.
void Torture::check_up() noexcept {
  if (lowered_for_ != 0 && --lowered_for_ == 0) static_cast<void>(cpu_.mmu.set_limit(limit_));
  if (actions_ % kAuditEvery != 0) return;
  audits_ += 1;
  if (cpu_.mmu.audit().violations != 0)
    fail(cpu_, "torture: the audit finds violations after so many actions: ", actions_);
}

void Torture::after_exit() noexcept {
  Vmcb& v = *cpu_.vmcb;
  const bool interrupt = v.exit_code == exit_code::kIntr;
  v.intercepts1 = interrupt ? v.intercepts1 & ~intercept::kIntr : v.intercepts1 | intercept::kIntr;
  interrupts_ += interrupt ? 1U : 0U;
  const std::uint64_t now = read_tsc();
  if (now < last_) due_ = next_progress_ = now;  // the guest has set it
  last_ = now;
  if (now < due_) return;
  if (limit_ == 0) limit_ = cpu_.mmu.limit();
  in_step_ += cpu_.step.kind != Step::Kind::Idle ? 1U : 0U;
  now_ = choose();
  history_[actions_ % kHistory] = now_;
  count_[now_] += 1;
  actions_ += 1;
  act(now_);
  check_up();
  due_ += period_ / 2 + random_.below(period_);
  // What could not be done in time is not made up for: the guest must get on.
  if (const std::uint64_t done = read_tsc(); due_ < done) due_ = done;
  if (now < next_progress_ || cpu_.ports.line_open) return;
  next_progress_ = now + kProgressSeconds * ticks_a_second_;
  say("torture: ", actions_, " actions, ", logs_.checks, " dirty-log checks, ", mover_.moved(), " pages moved");
}

// ------------------------------------------------------------------------------------------------------------- MMIO

bool Torture::handle_mmio(const shadowmmu::FaultOutcome& o) noexcept {
  const std::uint64_t gfn = o.gpa.value() >> 12;
  for (unsigned i = 0; i < slot_count_; ++i) {
    Slot& s = slots_[i];
    if (!o.request.write || !s.read_only || gfn - s.first >= s.pages) continue;
    // The machine's own ROM will take the write, or not.
    rom_was_written_ = true;
    now_ = kReadOnly;
    set_read_only(s, false);
    return true;
  }
  for (unsigned i = 0; i < kept_out_count_; ++i) {
    if (kept_out_[i] != gfn) continue;
    const bool plain = cpu_.step.kind == Step::Kind::Idle && (cpu_.interrupted & event::kValid) == 0;
    if (plain && emulate_device_move(cpu_, o.gpa.value())) {
      mmio_moves_ += 1;
      return true;
    }
    // Not an instruction that we know: from now on the page is like any other device's.
    kept_out_[i] = kept_out_[--kept_out_count_];
    add(gfn, gfn + 1);
    mmio_adopted_ += 1;
    return true;
  }
  return false;
}

// ----------------------------------------------------------------------------------------------------------- report

void Torture::report() noexcept {
  const std::uint64_t ms = (last_ - began_) / (ticks_a_second_ / 1000);
  const shadowmmu::Counters c = cpu_.mmu.stats();
  {
    SerialTurn turn;
    put("shadowmmu: torture: seed=");
    put(seed_);
    put(" actions=");
    put(actions_);
    for (unsigned k = 0; k < kKinds; ++k) {
      put(" ");
      put(kKindInfo[k].name);
      put("=");
      put(count_[k]);
    }
    put(" log_checks=");
    put(logs_.checks);
    put(" log_changed=");
    put(logs_.changed);
    put("\n");
  }
  say("torture did: ms=", ms, " a_second=", ms == 0 ? 0 : actions_ * 1000 / ms, " pages_moved=", mover_.moved(),
      " log_reported=", logs_.reported, " young_checks=", young_checks_, " reclaimed=", reclaimed_, " audits=", audits_,
      " in_step=", in_step_, " interrupts=", interrupts_);
  say("torture did: generations=", c.generations, " obsolete=", c.pages_obsolete, " splits=", c.splits,
      " mmio_moves=", mmio_moves_, " adopted=", mmio_adopted_, " invalidations=", mmio_invalidations_,
      " cached=", c.mmio_cached, " hits=", c.mmio_hits, " stale=", c.mmio_stale, " wraps=", c.mmio_wraps,
      " pokes=", pokes_);
  {
    SerialTurn turn;
    put("shadowmmu: torture did last:");
    for (std::uint64_t i = actions_ < kHistory ? 0 : actions_ - kHistory; i < actions_; ++i) {
      put(" ");
      put(kKindInfo[history_[i % kHistory]].name);
    }
    put("\n");
  }
  for (unsigned k = 0; k < kKinds; ++k)
    if (count_[k] == 0) say("error: torture: no action of the kind ", kKindInfo[k].name);
  if (logs_.changed == 0) say("error: torture: no dirty-log check of a page that had changed");
}

}  // namespace hv
