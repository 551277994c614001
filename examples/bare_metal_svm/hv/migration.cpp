// SPDX-License-Identifier: BSL-1.0
#include "migration.hpp"

#include <bit>
#include <new>
#include <type_traits>

#include "bits.hpp"
#include "checksum.hpp"
#include "cpu.hpp"
#include "report.hpp"
#include "serial.hpp"

namespace hv {
namespace {

using shadowmmu::DirtyMethod;
using shadowmmu::Error;
using shadowmmu::Gfn;
using shadowmmu::Gva;
using shadowmmu::SlotId;

constexpr const char* kKindName[] = {"lookups",        "translations",   "young", "reads",
                                     "fetches_writes", "fetches_d_bits", "clears"};

// Where a walk through a freed frame ends, on whatever level it is.
alignas(4096) std::uint64_t trap[512];
std::uint64_t trap_entry() noexcept {
  constexpr std::uint64_t kPresent = 1, kLarge = 1U << 7;
  return reinterpret_cast<std::uint64_t>(trap) | kLarge | kPresent;
}

// A Mmu without readers has no sections; nor does it have a Migration.
template <class Reader, class F>
void in_section(Reader& reader, F&& f) noexcept {
  if constexpr (std::is_constructible_v<typename Reader::Section, Reader&>) {
    const typename Reader::Section section(reader);
    f();
  }
}

alignas(Migration) std::byte migration_storage[sizeof(Migration)];
Migration* the_migration = nullptr;

}  // namespace

Migration* make_migration(Cpu& cpu, const Migration::Options& options) noexcept {
  the_migration = new (migration_storage) Migration(cpu, options);
  return the_migration;
}

Migration::Migration(Cpu& cpu, const Options& options) noexcept
    : cpu_(cpu), options_(options), random_(options.seed), reader_(cpu.mmu) {
  FramePool::fill(reinterpret_cast<std::uint64_t>(trap), trap_entry());
  cpu.vm.frames.poison_with(trap_entry());
}

// ------------------------------------------------------------------------------------------------ the vCPU's thread

unsigned Migration::adopt(SlotId id, std::uint64_t first, std::uint64_t pages) noexcept {
  if (slots_ == kMaxSlots || pages > kMaxWords * 64) return kNoSlot;
  Slot& s = slot_[slots_];
  s.first = first;
  s.pages = pages;
  is_back(slots_, id);
  return slots_++;
}

void Migration::goes(unsigned slot) noexcept {
  Slot& s = slot_[slot];
  s.here = false;
  s.removals = s.removals + 1;
}

void Migration::is_back(unsigned slot, SlotId id) noexcept {
  slot_[slot].id = static_cast<std::uint32_t>(id);
  slot_[slot].here = true;
}

void Migration::start() noexcept {
  started_ = true;
  start_threads(work, options_.rate, options_.seed);
}

void Migration::after_exit() noexcept {
  if (problem_ == nullptr) return;
  const char* const what = problem_;
  problem_ = nullptr;
  fail(cpu_, what, problem_number_);
}

// ------------------------------------------------------------------------------------------------- the other thread

void Migration::work() noexcept {
  // An alarm that comes late must not cost the guest its time.
  constexpr unsigned kMost = 24;
  Migration& m = *the_migration;
  while (!m.stop_wanted_) {
    for (unsigned n = 1 + static_cast<unsigned>(m.random_.below(kMost)); n != 0 && !m.stop_wanted_; --n) m.act();
    give_way();
  }
  m.park();
}

void Migration::park() noexcept {
  parked_ = true;
  for (;;) give_way();
}

// The vCPU's thread says it: only there nothing of the MMU's is held.
void Migration::give_up(const char* what, std::uint64_t number) noexcept {
  problem_number_ = number;
  problem_ = what;
  park();
}

template <class F>
auto Migration::counted(Kind kind, F&& f) noexcept {
  const std::uint64_t began = threads.switches;
  const bool held = threads.holds_lock(Thread::Vcpu);
  auto r = f();
  if constexpr (requires { r.ok(); })
    if (!r.ok()) return r;
  count_[kind].all += 1;
  count_[kind].beside_lock += held && threads.switches == began ? 1U : 0U;
  return r;
}

void Migration::act() noexcept {
  switch (random_.below(8)) {
    case 0:
      return translate();
    case 1:
      return young();
    case 2:
      return log();
    default:
      return look_around();
  }
}

// Where something was mapped of late, or is executed; or near it.
std::uint64_t Migration::some_address() noexcept {
  constexpr std::uint64_t kNear = 32;
  std::uint64_t va = hot_[random_.below(kHot)];
  if (random_.one_in(8)) va = cpu_.vmcb->rip;
  if (random_.one_in(16)) va = cpu_.vmcb->rsp;
  return random_.one_in(2) ? va : va + (random_.below(2 * kNear) << 12) - (kNear << 12);
}

void Migration::look(std::uint64_t va) noexcept {
  const shadowmmu::EntryInfo e = counted(kLookup, [&] { return reader_.lookup(cpu_.vcpu, Gva{va}); });
  if (!e.present) return;
  present_ += 1;
  const std::uint64_t pfn = e.pfn.value();
  const bool ours = pfn >= kMiB >> 12 && pfn < options_.own_end >> 12;
  // Said behind the section, for which the vCPU's thread may wait.
  if (e.entry == trap_entry())
    lost_ = "migration: a walk went through a freed frame at address ", lost_number_ = va;
  else if (ours)
    lost_ = "migration: a walk ended in the hypervisor's own frame ", lost_number_ = pfn;
}

void Migration::look_around() noexcept {
  constexpr unsigned kMost = 16;
  if (random_.one_in(4))
    in_section(reader_, [&]() noexcept {
      for (unsigned n = 1 + static_cast<unsigned>(random_.below(kMost)); n != 0; --n) look(some_address());
    });
  else
    look(some_address());
  if (lost_ != nullptr) give_up(lost_, lost_number_);
}

void Migration::translate() noexcept {
  const shadowmmu::AccessRequest read{.write = false, .fetch = false, .user = random_.one_in(2)};
  static_cast<void>(counted(kTranslate, [&] { return reader_.translate(cpu_.vcpu, Gva{some_address()}, read).ok(); }));
}

void Migration::young() noexcept {
  const std::uint64_t first = random_.below(cpu_.vm.memory.frames());
  const bool found = counted(kYoung, [&] { return reader_.test_young(Gfn{first}, 1 + random_.below(64)); });
  found_young_ += found ? 1U : 0U;
}

// ------------------------------------------------------------------------------------------------------- dirty logs

// Returns: whether the page holds something that can be compared now.
bool Migration::sum_of(std::uint64_t gfn, std::uint64_t& sum) noexcept {
  const Uninterrupted now;
  if (cpu_.vm.memory.in_motion()) return false;
  const std::byte* const page = cpu_.vm.memory.ram(gfn);
  if (page == nullptr) return false;
  sum = checksum(page);
  return true;
}

void Migration::take(Sample& s, std::uint64_t gfn) noexcept {
  s = {};
  s.gfn = gfn;
  s.valid = sum_of(gfn, s.sum);
}

// Mostly one that the last look at the log has named.
void Migration::choose(Sample& s) noexcept {
  std::uint64_t at = random_.below(words());
  if (!random_.one_in(3))
    for (std::uint64_t i = 0; i < words(); ++i, at = at + 1 == words() ? 0 : at + 1) {
      if (out_[at] == 0) continue;
      const auto from = static_cast<int>(random_.below(64));
      const auto bit = static_cast<unsigned>(std::countr_zero(std::rotr(out_[at], from)) + from) & 63U;
      return take(s, slot_[logged_].first + at * 64 + bit);
    }
  take(s, slot_[logged_].first + random_.below(slot_[logged_].pages));
}

// Returns: whether the log is there still. It may go with its slot, and with nothing else.
bool Migration::took(const shadowmmu::Status& s, const char* what) noexcept {
  if (s.ok()) return true;
  const bool gone = s.error() == Error::NoSuchSlot || s.error() == Error::LogInactive;
  if (!gone || slot_[logged_].removals == log_removals_) give_up(what, static_cast<std::uint64_t>(s.error()));
  gone_ += 1;
  method_ = DirtyMethod::Off;
  return false;
}

void Migration::log() noexcept {
  if (slots_ == 0) return;
  if (method_ == DirtyMethod::Off) return start_log();
  round();
  if (method_ == DirtyMethod::Off || rounds_left_-- != 0) return;
  if (took(cpu_.mmu.stop_dirty_log(log_id()), "migration: stop_dirty_log: error ")) method_ = DirtyMethod::Off;
}

void Migration::start_log() noexcept {
  constexpr unsigned kRounds = 60;
  logged_ = static_cast<unsigned>(random_.below(slots_));
  const Slot& slot = slot_[logged_];
  log_removals_ = slot.removals;
  log_id_ = slot.id;
  if (!slot.here) return;
  const DirtyMethod method = random_.one_in(4) ? DirtyMethod::DirtyBit : DirtyMethod::WriteProtect;
  const shadowmmu::Status began = cpu_.mmu.start_dirty_log(log_id(), method);
  if (!began.ok() && began.error() == Error::OutOfMemory) return;
  if (!took(began, "migration: start_dirty_log: error ")) return;
  if (slot.removals != log_removals_) {
    // It has gone, or is on its way to other addresses.
    static_cast<void>(took(cpu_.mmu.stop_dirty_log(log_id()), "migration: stop_dirty_log: error "));
    return;
  }
  method_ = method;
  logs_ += 1;
  rounds_left_ = 4 + static_cast<unsigned>(random_.below(kRounds));
  for (std::uint64_t& w : out_) w = 0;
  for (Sample& s : sample_) choose(s);
}

// A change that was there when the look at the log began is named by it, or by the next one if whoever made it was not
// done yet: then the vCPU's thread was between the write and its mark.
void Migration::check(Sample& s, bool changed, bool named, std::uint64_t began) noexcept {
  checks_ += 1;
  changes_ += changed ? 1U : 0U;
  if (named) return;
  if (s.owed) give_up("migration: the dirty log forgot, uncleared, guest frame ", s.gfn);
  if (!changed) return;
  if (s.seen_late != 0 && began > s.seen_late)
    give_up(method_ == DirtyMethod::DirtyBit ? "migration: the dirty log (by D bits) missed a write to guest frame "
                                             : "migration: the dirty log missed a write to guest frame ",
            s.gfn);
  late_ += s.seen_late == 0 ? 1U : 0U;
  if (s.seen_late == 0) s.seen_late = cpu_.turns;
}

void Migration::round() noexcept {
  const bool fetch = random_.one_in(2), all = random_.one_in(4);
  const std::uint64_t first = all ? 0 : random_.below(words());
  const std::uint64_t most = words() - first, count = all ? most : 1 + random_.below(most < 64 ? most : 64);
  const auto covered = [&](const Sample& s) { return s.valid && index(s) / 64 - first < count; };
  const std::uint64_t began = cpu_.turns;
  for (unsigned i = 0; i < kSamples; ++i) {
    std::uint64_t sum = 0;
    changed_[i] = covered(sample_[i]) && sum_of(sample_[i].gfn, sum) && sum != sample_[i].sum;
  }

  const Kind kind = !fetch ? kRead : method_ == DirtyMethod::DirtyBit ? kFetchDirtyBits : kFetchWrites;
  const shadowmmu::Status done = counted(kind, [&] {
    return fetch ? reader_.fetch_dirty_log(log_id(), first, count, out_ + first)
                 : reader_.read_dirty_log(log_id(), first, count, out_ + first);
  });
  if (!took(done, "migration: fetch_dirty_log or read_dirty_log: error ")) return;
  for (std::uint64_t w = first; w < first + count; ++w) named_ += count_bits(out_[w]);

  for (unsigned i = 0; i < kSamples; ++i) {
    Sample& s = sample_[i];
    if (!s.valid || !covered(s)) {
      if (!s.valid) choose(s);
      continue;
    }
    const std::uint64_t word = index(s) / 64, bit = 1ULL << (index(s) % 64);
    const bool named = (out_[word] & bit) != 0;
    check(s, changed_[i], named, began);
    if (!named) {
      // What rests is watched for a while only.
      if (!changed_[i] && random_.one_in(4)) choose(s);
      continue;
    }
    if (!fetch) {
      s.owed = true;
      if (random_.one_in(4)) continue;
      const std::uint64_t mask = random_.one_in(2) ? bit : ~0ULL;
      const shadowmmu::Status cleared = counted(kClear, [&] { return reader_.clear_dirty_log(log_id(), word, mask); });
      if (!took(cleared, "migration: clear_dirty_log: error ")) return;
      out_[word] &= ~mask;
      for (unsigned k = 0; k < kSamples; ++k) {
        Sample& o = sample_[k];
        if (!o.valid || index(o) / 64 != word || (mask >> (index(o) % 64) & 1) == 0) continue;
        take(o, o.gfn);
        changed_[k] = false;
      }
    } else if (random_.one_in(2)) {
      take(s, s.gfn);
    } else {
      choose(s);
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- report

void Migration::report() noexcept {
  if (!started_) return;
  // It stops where it holds nothing, or never does: then something is locked for good.
  stop_wanted_ = true;
  constexpr unsigned kPatience = 100'000;
  for (unsigned i = 0; !parked_ && i < kPatience; ++i) give_way();
  const bool stuck = !parked_;
  end_threads();
  const SwitchCounts& c = switch_counts();
  say("migration: turns=", c.from_guest + c.from_host, " from_guest=", c.from_guest, " from_host=", c.from_host,
      " under_lock=", c.under_lock, " preempted=", c.preempted, " gave_way=", c.gave_way, " seed=", options_.seed);
  {
    SerialTurn turn;
    const auto line = [this](const char* what, auto which) {
      put(what);
      for (unsigned k = 0; k < kKinds; ++k) {
        put(" ");
        put(kKindName[k]);
        put("=");
        put(which(count_[k]));
      }
      put("\n");
    };
    line("shadowmmu: migration did:", [](const Count& c) { return c.all; });
    line("shadowmmu: migration did beside a lock:", [](const Count& c) { return c.beside_lock; });
  }
  const auto mine = static_cast<unsigned>(Thread::Migration), other = static_cast<unsigned>(Thread::Vcpu);
  say("migration did: present=", present_, " young_found=", found_young_, " logs=", logs_, " ended_by_removal=", gone_,
      " named=", named_, " checks=", checks_, " changed=", changes_, " late=", late_,
      " lockings=", threads.lockings[mine] + 0, " waited=", threads.waits[mine] + 0,
      " vcpu_waited=", threads.waits[other] + 0);
  if (stuck) say("error: migration: its thread does not come to an end");
  if (count_[kLookup].beside_lock == 0) say("error: migration: no lookup while the lock was held");
  if (changes_ == 0) say("error: migration: no dirty-log check of a page that had changed");
}

}  // namespace hv
