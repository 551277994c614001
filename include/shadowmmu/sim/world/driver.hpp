// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "shadowmmu/sim/world/guest_actions.hpp"

/// Carries actions out: those of guests (guest_actions.hpp), and what hosts do: move, share and protect memory, change
/// slots, take logs, and let the MMU do its own upkeep.
namespace shadowmmu::sim::world {

class Driver : public GuestActions {
 public:
  using GuestActions::GuestActions;

  /// Requires: nothing was done yet. Effects: slots are there, each vCPU runs in that paging mode on that root,
  /// with PCIDs if it can. `nxe`: EFER.NXE is set.
  void begin(Mode first, std::uint64_t root, bool pcids, bool nxe) {
    if (subject_.has_slots())
      for (unsigned i = 0; i < Model::kSlots; ++i)
        if (!subject_.add_slot(place_of(i)).ok()) check_.fail("a slot cannot be added");
    if (model_.second_level()) return;
    pcids_ = pcids && subject_.has_pcid();
    for (unsigned n = 0; n < Model::kVcpus; ++n) {
      if (nxe) act(n, Toggle{Bit::Nxe});
      switch_mode(n, {first, root});
    }
  }

  /// Effects: one action, whole; handed over in the middle of it where agents are at work.
  void perform(const Action& a) {
    if (a.exits) machine_.vcpu(a.vcpu).inside = false;
    std::visit([&](const auto& deed) { act(a.vcpu, deed); }, a.deed);
  }
  /// Returns: which agent does it.
  [[nodiscard]] static unsigned agent_of(const Action& a) {
    return std::visit(
        [&](const auto& deed) {
          using D = std::decay_t<decltype(deed)>;
          constexpr bool kHost = std::is_same_v<D, DeviceWrite> || std::is_same_v<D, TellAll> ||
                                 std::is_same_v<D, MoveFrames> || std::is_same_v<D, MakeWhole> ||
                                 std::is_same_v<D, ShareFrames> || std::is_same_v<D, MakeRom> ||
                                 std::is_same_v<D, ChangeSlot> || std::is_same_v<D, UseLog> ||
                                 std::is_same_v<D, Upkeep> || std::is_same_v<D, Starve>;
          return kHost ? Agents::kHost : a.vcpu;
        },
        a.deed);
  }

 private:
  using GuestActions::act;
  [[nodiscard]] SlotPlace place_of(unsigned i) const { return {i, model_.slots[i].first, model_.slots[i].pages}; }
  /// Frames move under the guest, and the Host must have been told of every write to what it moves.
  void act(unsigned, const MoveFrames& x) {
    const Gfn first = to_move(x.gfn, x.pages, x.where), also = to_move(x.also, 1, x.where >> 4);
    const bool both = x.also != 0 && subject_.nests_unmaps();
    tell([&] { return "host: moves gfns " + hex(first.value()) + " +" + std::to_string(x.pages); });
    subject_.unmap_begin(first, x.pages);
    Agents::point();
    if (both) {
      tell([&] { return "host: and meanwhile gfn " + hex(also.value()); });
      subject_.unmap_begin(also, 1);
      Agents::point();
    }
    for (std::uint64_t g = first.value(); g < first.value() + x.pages; ++g) unmapped(g);
    machine_.move(first, x.where >> 8);
    model_.version += 1;
    if (both) {
      unmapped(also.value());
      machine_.move(also, x.where >> 12);
      model_.version += 1;
      subject_.unmap_end();
    }
    subject_.unmap_end();
  }
  void act(unsigned, const MakeWhole& x) {
    const Gfn first{model_.recent(x.gfn) & ~std::uint64_t{511}};
    if (first >= Gfn{GuestMap::kLow}) return;
    tell([&] { return "host: makes 2 MiB at gfn " + hex(first.value()) + " one page where it can"; });
    subject_.unmap_begin(first, 512);
    Agents::point();
    for (std::uint64_t g = first.value(); g < first.value() + 512; ++g) unmapped(g);
    static_cast<void>(machine_.make_whole(first));
    model_.version += 1;
    subject_.unmap_end();
  }
  /// Returns: mostly frames in use, now and then the last of a large page; the guest's own tables mostly stay in their
  /// one host page.
  [[nodiscard]] Gfn to_move(std::uint64_t gfn, std::uint64_t pages, std::uint64_t choice) const {
    if (choice % 8 > 4) {
      const std::uint64_t recent = model_.recent(gfn);
      if (recent + pages <= GuestMap::kLowPages && (recent >= 512 || !machine_.whole(0))) return Gfn{recent};
    }
    if (choice % 8 == 0) return Gfn{(gfn % 2 + 1) * 512 + 511 - (pages - 1)};
    Gfn first{choice % 4 != 0 ? model_.layout().data() + gfn % 120 : gfn % (GuestMap::kLowPages - pages)};
    if (first < Gfn{512} && machine_.whole(0) && choice % 16 != 4) first = first + 512;
    return first;
  }
  void unmapped(std::uint64_t g) {
    const bool told = machine_.take_told(g);
    if (model_.untold_writes.erase(g) != 0 && subject_.tells_writes() && !told)
      check_.fail("the Host was not told of a write to gfn " + hex(g));
  }
  void act(unsigned, const ShareFrames& x) {
    Gfn first{model_.layout().data() + x.gfn % 120};
    if (const std::uint64_t g = model_.recent(x.gfn >> 8);
        x.gfn % 2 == 0 && g >= model_.layout().data() && g + 4 < GuestMap::kLowPages)
      first = Gfn{g};
    tell([&] {
      return "host: shares gfns " + hex(first.value()) + " +" + std::to_string(x.pages) + " until they are written";
    });
    machine_.share_begins(first, x.pages);
    subject_.protect(first, x.pages);
    machine_.share_ends();
    model_.version += 1;
  }
  void act(unsigned, const MakeRom& x) {
    Gfn g{!model_.second_level() && x.gfn % 4 == 0 ? model_.tables()[(x.gfn >> 8) % model_.tables().size()]
                                                   : model_.layout().data() + 40 + (x.gfn >> 8) % 4};
    if (const std::uint64_t recent = model_.recent(x.gfn >> 8); x.gfn % 4 == 1 && recent >= model_.layout().data())
      g = Gfn{recent};
    if (g >= Gfn{GuestMap::kLow} || (g < Gfn{512} && machine_.whole(0) && x.gfn % 16 != 0))
      g = Gfn{model_.layout().data() + 40 + x.gfn % 4};
    const bool table = !model_.second_level() && model_.is_table(g.value());
    tell([&] { return "host: gfn " + hex(g.value()) + (x.on ? " becomes ROM" : " may be written"); });
    if (!x.on && table && machine_.read_only(g.value())) model_.doubt_everything();  // A and D may be owed since
    check_.rom_changes(g.value());
    subject_.unmap_begin(g, 1);
    machine_.set_read_only(g, x.on);
    model_.version += 1;
    subject_.unmap_end();
    check_.rom_settled();
    if (!table) return;
    subject_.guest_wrote(address_of(g), static_cast<unsigned>(kPageSize));
    model_.told(address_of(g), static_cast<unsigned>(kPageSize));
  }

  /// Returns: whether it went well; else it must have been for want of memory.
  template <class F>
  bool went(F&& operation) {
    const std::uint64_t failures = machine_.failures;
    const Status s = operation();
    if (s.ok()) return true;
    if (s.error() != Error::OutOfMemory || !starved(failures)) check_.fail("a slot operation failed");
    return false;
  }
  void act(unsigned, const ChangeSlot& x) {
    if (!subject_.has_slots()) return;
    const unsigned i = static_cast<unsigned>(x.slot % Model::kSlots);
    Model::Slot& s = model_.slots[i];
    // The guest's tables lie in these: while they are away nothing can be said about anybody else.
    const bool tables = i == 0 || (i == 3 && !model_.second_level());
    if (agents_ != nullptr && tables) return;
    if (s.gone) return add_again(i);
    // Of the large ones nothing is known frame by frame.
    if (x.how == ChangeSlot::How::Flags && s.first >= GuestMap::kLow) return;
    constexpr const char* kHow[] = {"is removed", "is moved away and back", "changes its size",
                                    "changes whether it is read-only"};
    tell([&] {
      return "host: slot " + std::to_string(i) + " " + kHow[static_cast<unsigned>(x.how)] +
             (x.stays_away ? "" : ", for a moment");
    });
    check_.slot_changes(i);
    constexpr std::uint64_t kAway = std::uint64_t{1} << 22;
    switch (x.how) {
      case ChangeSlot::How::Remove:
        if (!went([&] { return subject_.remove_slot(place_of(i)); })) break;
        s.log = false;
        model_.forget_log(s);
        s.gone = true;
        s.read_only = false;
        machine_.flag(s.first, s.pages, false);
        machine_.show(s.first, s.pages, false);
        model_.version += 1;
        if (tables || !x.stays_away) add_again(i);
        break;
      case ChangeSlot::How::Move:
        if (s.log || !went([&] { return subject_.place_slot({i, kAway, s.pages}); })) break;
        while (!went([&] { return subject_.place_slot(place_of(i)); }) && ok()) {
        }
        break;
      case ChangeSlot::How::Resize:
        resize(i, x);
        break;
      case ChangeSlot::How::Flags:
        flag_slot(i, !s.read_only);
        if (s.read_only && !x.stays_away) flag_slot(i, false);
    }
    s.changing = false;
  }
  static constexpr std::uint64_t kCutOff = 7;
  static_assert(GuestMap::kBigTables >= GuestMap::kBig + kCutOff, "the guest's tables stay");
  /// Effects: the slot loses a few pages at one end, and has them again after that, at once or with its next turn.
  void resize(unsigned i, const ChangeSlot& x) {
    Model::Slot& s = model_.slots[i];
    if (s.log) return;
    const SlotPlace whole{i, s.whole_first, s.whole_pages};
    SlotPlace less = whole;
    if (s.pages == whole.pages) {
      less.pages -= kCutOff;
      if (x.at_begin && i != 0) less.first += kCutOff;
      if (!went([&] { return subject_.place_slot(less); })) return;
    }
    const bool stays = x.stays_away && i != 0 && less.pages != whole.pages;
    while (!stays && !went([&] { return subject_.place_slot(whole); }) && ok()) {
    }
    const SlotPlace& now = stays ? less : whole;
    // What it lost is no memory.
    machine_.show(whole.first, whole.pages, false);
    machine_.flag(whole.first, whole.pages, false);
    s.first = now.first;
    s.pages = now.pages;
    machine_.show(s.first, s.pages, true);
    machine_.flag(s.first, s.pages, s.read_only);
    model_.version += 1;
  }
  void flag_slot(unsigned i, bool read_only) {
    Model::Slot& s = model_.slots[i];
    if (!went([&] { return subject_.flag_slot(place_of(i), read_only); })) return;
    s.read_only = read_only;
    machine_.flag(s.first, s.pages, read_only);
    model_.version += 1;
    // A and D may be owed since.
    if (!read_only) model_.doubt_everything();
  }
  void add_again(unsigned i) {
    Model::Slot& s = model_.slots[i];
    tell([&] { return "host: slot " + std::to_string(i) + " comes back"; });
    check_.slot_changes(i);
    machine_.show(s.first, s.pages, true);
    for (int tries = 0; s.gone && ok(); ++tries) {
      const std::uint64_t failures = machine_.failures;
      s.gone = !subject_.add_slot(place_of(i)).ok();
      if (s.gone && (tries > 8 || !starved(failures))) check_.fail("add_slot failed without a reason");
    }
    s.changing = false;
    model_.version += 1;
  }

  void act(unsigned, const UseLog& x) {
    if (!subject_.has_logs()) return;
    unsigned i = static_cast<unsigned>(x.slot % Model::kSlots);
    if (i == 3 && x.slot / 8 % 8 != 0) i = 2;  // a log of 1 GiB takes long
    Model::Slot& s = model_.slots[i];
    if (s.gone) return;
    const std::string name = "host: the log of slot " + std::to_string(i);
    if (!s.log) {
      tell([&] { return name + " starts"; });
      const bool started = went([&] { return subject_.start_log(place_of(i), x.choice); });
      s.log = started;
      s.logs += 1;
      if (agents_ != nullptr) tell([&] { return "  (it has started)"; });
      if (started && alone()) check_.check_log_holes(s);
      return;
    }
    if (x.stop) {
      tell([&] { return name + " stops"; });
      s.log = false;
      model_.forget_log(s);
      if (!subject_.stop_log(place_of(i)).ok()) check_.fail("the dirty log cannot be stopped");
      return;
    }
    tell([&] { return name + " is fetched"; });
    const std::vector<std::uint64_t> written(model_.logged_writes.lower_bound(s.first),
                                             model_.logged_writes.lower_bound(s.first + s.pages));
    std::vector<std::uint64_t> bits((s.pages + 63) / 64);
    if (!subject_.fetch_log(place_of(i), x.choice, bits).ok()) return check_.fail("the dirty log cannot be read");
    const auto named = [&](std::uint64_t g) { return (bits[(g - s.first) / 64] >> ((g - s.first) % 64) & 1) != 0; };
    for (const std::uint64_t g : written)
      if (!named(g)) return check_.fail("gfn " + hex(g) + " was written and is not in the dirty log");
    model_.fetched(s, named);
    if (alone()) check_.check_log_holes(s);
  }
  void act(unsigned, const Upkeep& x) {
    const std::string what = subject_.upkeep(x.choice, x.amount, alone());
    tell([&] { return "host: " + what; });
  }
  void act(unsigned, const Starve& x) {
    tell([&] { return "host: allocation " + std::to_string(x.after) + " from now fails"; });
    machine_.fail_in = x.after;
  }
};

}  // namespace shadowmmu::sim::world
