// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "shadowmmu/sim/world/guest_registers.hpp"

/// What guests do: use pages, edit their tables by CPUs and devices, and what guest_registers.hpp has.
namespace shadowmmu::sim::world {

class GuestActions : public GuestRegisters {
 public:
  using GuestRegisters::act;
  using GuestRegisters::GuestRegisters;

  void act(unsigned n, const Touch& t) {
    const std::uint64_t a = some_address(n, t.place) + t.offset;
    for (unsigned i = 0; i < t.times && ok(); ++i) use(n, a, t.reach[i]);
  }
  void act(unsigned n, const Sweep& t) {
    // Mostly where one frame is mapped many times over.
    const bool many = t.place % 4 != 0 && !model_.second_level() && guest(n).mode != Mode::Flat;
    const std::uint64_t a = many ? Layout::kMany : some_address(n, t.place);
    // Below 4 GiB there is nothing behind the last page.
    const bool wide = model_.second_level() || guest(n).mode == Mode::Long4;
    for (unsigned i = 0; i < t.pages && ok(); ++i)
      use(n, (a + (std::uint64_t{i} << 12)) & (wide ? ~std::uint64_t{0} : 0xffff'ffffU), t.reach);
  }
  void act(unsigned n, const Instruction& t) {
    std::vector<One> all;
    for (unsigned i = 0; i < std::min(t.addresses, subject_.instruction_addresses()); ++i) {
      const std::uint64_t a = t.near && i != 0 ? all[0].address + (t.place[i] % 4 << 12) : some_address(n, t.place[i]);
      all.push_back({a, asked(t.reach[i])});
    }
    if (all.empty() || alternates(n, all)) return;
    tell([&] { return who(n) + "one instruction with " + std::to_string(all.size()) + " accesses:"; });
    for (const One& x : all) tell([&] { return "    " + words_of(x.reach) + " at " + hex(x.address); });
    int rounds = 0;
    for (int tries = 0; tries < kTries && ok(); ++tries) {
      bool whole = true;
      for (auto x = all.begin(); x != all.end() && whole; ++x) {
        accesses += 1;
        if (!enter(n)) return;
        const AccessResult got =
            machine_.vcpu(n).cpu.access(x->address, x->reach.request, x->reach.mode, x->reach.implicit);
        if (got.kind == AccessKind::Bus) return check_.fail("hardware walked a frame that is no table");
        touched(n, x->address);
        if (got.ok()) {
          check_.succeeded(n, x->address, x->reach, got, alone());
          continue;
        }
        whole = false;
        bool stepping = false, done = false;
        const Answer answer = answer_fault(n, x->address, x->reach, got, kNothing, stepping, done);
        if (stepping) end_step(n);
        if (tries + 1 == kTries && ++rounds < kRounds && let_others_end()) tries = 0;
        if (stepping || answer == Answer::Over) return;  // the guest's fault, or an emulator's work
      }
      if (whole) return;
    }
    check_.fail("one instruction never has all its pages mapped at the same time");
  }

  /// An edit of an entry on the path of some address, by a store through the linear map or behind the guest's back.
  void act(unsigned n, const EditEntry& e) {
    const G& g = guest(n);
    if (model_.second_level() || g.mode == Mode::Flat) return;
    const std::uint64_t a = edited_address(n, e.place);
    Path steps = g.path(a);
    if (steps.empty() || (g.mode == Mode::Pae && e.upper && e.depth % 4 == 3)) steps = g.pdpte(a);
    if (steps.empty()) return;
    // A PCID that is new to the page shows only where another has used it before: each second time.
    const bool switches = switches_pcid(g, e.then) && (e.value >> 40 & 1) != 0;
    const std::size_t which = e.upper && !switches ? e.depth % steps.size() : steps.size() - 1;
    Step s = steps[which];
    if (!model_.is_table(frame_of(s.at).value())) return;
    // What an MMU remembers of a device's page it must give up with each of its rights.
    const bool device = to_device(e.place);
    if (e.before || (device && (e.value >> 41 & 1) != 0) || switches) {
      use(n, a, switches ? kLook : e.reach);
      if (!ok() || !machine_.read(s.at, g.width(), s.entry)) return;
    }
    std::uint64_t entry = s.entry;
    EditEntry edit = e;
    constexpr Change kOfRights[] = {Change::FlipUser, Change::FlipNoExec, Change::FlipHighBit, Change::AllRights};
    if (device && e.value >> 32 & 1) edit.change = kOfRights[e.value >> 33 & 3];
    if (switches) edit.change = e.value >> 32 & 1 ? Change::OtherFrame : Change::FlipPresent;
    if (!changed(g, edit, s, entry)) return;
    put(n, {s.at, a, s.level, g.width(), steps.place(which)}, s.entry, entry, e.by, e.then);
    if (switches && ok()) use(n, a, kLook);
    if (e.uses) use_below(n, a, s.level, e.reach);
  }
  void act(unsigned n, const UndoEdit& u) {
    const G& g = guest(n);
    if (g.mode == Mode::Flat || last_edit_.at.width == 0 || last_edit_.at.width != g.width()) return;
    std::uint64_t now = 0;
    if (!machine_.read(last_edit_.at.at, last_edit_.at.width, now)) return;
    const std::uint64_t a = last_edit_.at.address;
    put(n, Edited{last_edit_.at}, now, last_edit_.was, u.by, u.then);
    if (switches_pcid(g, u.then) && ok()) use(n, a, kLook);
    if (u.uses) use_below(n, a, last_edit_.at.level, u.reach);
  }
  void act(unsigned, const DeviceWrite& d) {
    if (model_.second_level()) return;
    Gpa at{model_.tables()[d.table % model_.tables().size()] << 12 | (d.offset & (d.flip % 3 == 0 ? 0xfffU : 0xff8U))};
    std::uint64_t flip = d.flip;
    if (const G& g = guest(0); d.in_use && g.mode != Mode::Flat) {
      const Path steps = g.path(edited_address(0, d.table));
      if (steps.empty() || !model_.is_table(frame_of(steps.back().at).value())) return;
      at = steps.back().at;
      if (d.bytes > 1 && (at.value() & kPageMask) >= d.bytes / 2) {
        at = Gpa{at.value() - d.bytes / 2};
        flip = flip << (d.bytes * 4) | (d.offset & 0x67);
      }
    }
    if ((at.value() & kPageMask) + d.bytes > kPageSize) return;
    std::uint64_t v = 0;
    static_cast<void>(machine_.read(at, d.bytes, v));
    tell([&] {
      return "device: " + std::to_string(d.bytes) + " bytes at gpa " + hex(at.value()) + " are xored with " + hex(flip);
    });
    write_and_tell(at, d.bytes, v ^ flip);
  }
  void act(unsigned, const TellAll&) {
    if (late_.empty()) return;
    tell([&] { return "device: reports what it has written so far"; });
    std::vector<Late> now;
    now.swap(late_);
    for (const Late& l : now) {
      const unsigned writing = model_.write_begins(frame_of(l.at).value());
      subject_.guest_wrote(l.at, l.bytes);
      model_.told(l.at, l.bytes);
      model_.write_ends(writing);
    }
  }

 private:
  /// What the guest's tables refuse least.
  static constexpr Reach kLook{{false, false, false}, {0, true}};
  [[nodiscard]] static bool switches_pcid(const G& g, Then then) noexcept {
    return then == Then::SwitchesPcid && (g.controls.cr4 & cr4::kPcide) != 0;
  }
  /// Whether an edit, by what was drawn for it, is one of a device page's entries.
  [[nodiscard]] static bool to_device(std::uint64_t place) noexcept { return (place >> 8 & 7) == 0; }
  /// Returns: an address whose entries may be changed. The linear map stays as it is: by it the guest reaches its
  /// tables.
  [[nodiscard]] std::uint64_t edited_address(unsigned n, std::uint64_t place) {
    if (to_device(place)) return Layout::device(place >> 11);
    const std::uint64_t a = some_address(n, place | 1);
    return a - G::kLinear < (GuestMap::kLow << 12) ? some_address(n, place | 1 | std::uint64_t{3} << 62) : a;
  }
  /// Effects: uses `a`, and a few more of the addresses that an entry of that level leads to as well.
  void use_below(unsigned n, std::uint64_t a, unsigned level, const Reach& x) {
    constexpr unsigned kFew = 3;
    if (ok()) use(n, a, x);
    if (level < 2 || level > 4) return;
    const std::vector<std::uint64_t>& all = model_.universe(guest(n).mode);
    const unsigned shift = guest(n).mode == Mode::Bits32 ? 22 : 12 + 9 * (level - 1);
    unsigned used = 0;
    for (std::size_t i = 0; i < all.size() && used < kFew && ok(); ++i) {
      const std::uint64_t other = all[(i + a / 4096) % all.size()];
      if (other == a || other >> shift != a >> shift) continue;
      used += 1;
      use(n, other, x);
    }
  }
  /// One of an instruction's accesses.
  struct One {
    std::uint64_t address = 0;
    Reach reach{};
  };
  /// Returns: whether the supervisor writes, with CR0.WP clear, a page that the user looks at in the same instruction:
  /// no one entry serves both where the guest's is read-only.
  [[nodiscard]] bool alternates(unsigned n, const std::vector<One>& all) {
    if ((guest(n).controls.cr0 & cr0::kWp) != 0) return false;
    for (const One& user : all)
      for (const One& writer : all)
        if (user.reach.request.user && !writer.reach.request.user && writer.reach.request.write &&
            user.address >> 12 == writer.address >> 12)
          return true;
    return false;
  }
  /// Returns: the edited entry; false where this change does not apply.
  bool changed(const G& g, const EditEntry& e, const Step& s, std::uint64_t& entry) {
    const std::uint64_t frame = frame_bits(g.mode);
    const unsigned width = g.width();
    const auto gfn_of_data = [&] { return model_.layout().some_frame(e.value) << 12 & frame; };
    if (g.mode == Mode::Pae && s.level == 3) {
      // A PDPTE has few bits; the rest must be clear.
      entry ^= e.value % 4 != 0 ? 1 : std::uint64_t{1} << (e.value >> 8) % 64;
      return true;
    }
    switch (e.change) {
      case Change::FlipPresent:
        entry ^= 1;
        return true;
      case Change::FlipWrite:
        entry ^= 2;
        return true;
      case Change::FlipUser:
        entry ^= 4;
        return true;
      case Change::FlipNoExec:
        entry ^= width == 8 ? std::uint64_t{1} << 63 : 2;
        return true;
      case Change::ClearAccessed:
        entry &= ~0x20ULL;
        return true;
      case Change::ClearDirty:
        entry &= ~0x40ULL;
        return true;
      case Change::ClearBoth:
        entry &= ~0x60ULL;
        return true;
      case Change::OtherFrame:
        entry = (entry & ~frame) | gfn_of_data();
        return true;
      case Change::AnyTable:
        entry = (entry & ~frame) | model_.tables()[e.value % model_.tables().size()] << 12;
        return true;
      case Change::FlipLarge:
        entry ^= 0x80;
        return true;
      case Change::Replace:
        entry = e.value % 2 != 0 ? 0 : 7 | gfn_of_data();
        return true;
      case Change::FlipHighBit: {
        // Mostly one at an end of a field of some format.
        constexpr unsigned kEnds[] = {12, 13, 20, 21, 28, 29, 30, 31, 39, 45, 46, 51, 52, 58, 59, 62};
        const unsigned any = 12 + static_cast<unsigned>(e.value % (width == 8 ? 51 : 20));
        const unsigned end = kEnds[(e.value >> 8) % (width == 8 ? std::size(kEnds) : 8)];
        entry ^= std::uint64_t{1} << ((e.value >> 16) % 4 == 0 ? any : end);
        return true;
      }
      case Change::AllRights:
        entry |= 7;
        return true;
      case Change::NoAccess:
        entry &= ~6ULL;
        return true;
      case Change::Sibling: {
        const std::uint64_t table = s.at.value() & ~kPageMask;
        const std::uint64_t entries = kPageSize / width;
        for (std::uint64_t i = 1; i < entries; ++i) {
          std::uint64_t other = 0;
          const Gpa at{table + (e.value + i) % entries * width};
          if (at == s.at || !machine_.read(at, width, other) || (other & 1) == 0) continue;
          entry = other;
          return true;
        }
        return false;
      }
      case Change::LargePage:
        if (s.level < 2 || s.level > 3) return false;
        entry = large_frame(s.level, width, e.value) << 12 | 0x81 | (e.value >> 8 & 0x66);
        if ((e.value >> 16) % 4 != 0) entry |= 6;
        return true;
      default:
        return false;
    }
  }
  /// Returns: where a large page may lie: in the big slot, or in the middle of low memory.
  [[nodiscard]] static std::uint64_t large_frame(unsigned level, unsigned width, std::uint64_t choice) {
    if (level == 3) return GuestMap::kBig;
    if (choice / 8 % 4 == 0) return choice / 32 % 4 == 0 ? GuestMap::kZeroTable : 1024;
    return GuestMap::kBig + choice % 8 * (width == 8 ? 512 : 1024);
  }
  /// An entry, the address by whose path it was found, and its name in the story.
  struct Edited {
    Gpa at{};
    std::uint64_t address = 0;
    unsigned level = 0, width = 0;
    std::string place{};
  };
  void put(unsigned n, const Edited& e, std::uint64_t was, std::uint64_t entry, By by, Then then) {
    const G& g = guest(n);
    last_edit_ = {e, was};
    // Stores go through the linear map.
    if (by == By::Store && frame_of(e.at).value() >= GuestMap::kLow) by = By::Device;
    tell([&] {
      constexpr const char* kBy[] = {"stores", "a device stores", "a device stores"};
      return who(n) + kBy[static_cast<unsigned>(by)] + " " + e.place + " (gpa " + hex(e.at.value()) +
             "): " + words_of(g, e.level, was) + " becomes " + words_of(g, e.level, entry) +
             (by == By::DeviceLate ? " (unreported)" : "");
    });
    switch (by) {
      case By::Store:
        access(n, G::kLinear + e.at.value(), {{true, false, false}, {0, true}}, {&entry, e.width});
        break;
      case By::Device:
        write_and_tell(e.at, e.width, entry);
        break;
      case By::DeviceLate:
        model_.changing(e.at, e.width, false, [&] { static_cast<void>(machine_.write(e.at, e.width, entry)); });
        check_.memory_changed();
        late_.push_back({e.at, e.width});
        break;
    }
    if (!ok()) return;
    switch (then) {
      case Then::Forgets:
        break;
      case Then::LoadsCr3:
        load_cr3(n, g.cr3);
        break;
      case Then::SwitchesPcid:
        if (switches_pcid(g, then)) {
          const bool fresh = e.at.value() / 8 % 2 != 0 && next_pcid_ < 0x1000;
          const std::uint64_t pcid = fresh ? next_pcid_++ : ((g.cr3 & 0xfff) + 1) % kPcids;
          load_cr3(n, (g.cr3 & ~std::uint64_t{0xfff}) | pcid | std::uint64_t{1} << 63);
        }
        break;
      case Then::Flushes:
        // A large page that was there goes by one INVLPG; what was a table takes a flush.
        if (e.level == 1 || (e.level < 4 && (was & 0x81) == 0x81 && e.address % 8192 != 0))
          invlpg(n, e.address);
        else
          flush(n);
    }
  }
  struct Late {
    Gpa at;
    unsigned bytes;
  };
  std::vector<Late> late_;  ///< what devices have written and not told
  struct LastEdit {
    Edited at{};
    std::uint64_t was = 0;
  };
  LastEdit last_edit_;
  static constexpr std::uint64_t kPcids = 3;  ///< that a guest goes round
  std::uint64_t next_pcid_ = kPcids;          ///< one that no vCPU has used yet
};

}  // namespace shadowmmu::sim::world
