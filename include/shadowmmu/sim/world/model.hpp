// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "shadowmmu/sim/world/guest.hpp"
#include "shadowmmu/sim/world/layout.hpp"
#include "shadowmmu/sim/world/machine.hpp"
#include "shadowmmu/sim/world/past.hpp"

/// What is known of the guest and its host, whatever MMU lies between: registers, slots, logs; and what each vCPU's TLB
/// may still say beside what the tables say now (past.hpp). An MMU may answer by a translation that is out of date
/// exactly as long as a TLB may hold it, or as long as nobody has told it of the write that outdates it.
namespace shadowmmu::sim::world {

class Model {
 public:
  static constexpr unsigned kVcpus = 2;
  struct Vcpu {
    explicit Vcpu(Machine& m) : guest(m) {}
    [[nodiscard]] Space& space() { return spaces[pcid]; }
    [[nodiscard]] const Space& space() const { return spaces.at(pcid); }
    Guest<Machine> guest;
    std::map<unsigned, Space> spaces;
    unsigned pcid = 0;
    std::set<std::uint64_t> touched;  ///< pages that were used since the paging mode changed
  };
  struct Slot {
    std::uint64_t first, pages;
    std::uint64_t whole_first = first, whole_pages = pages;  ///< when nothing is cut off
    bool gone = false;
    bool read_only = false;
    bool changing = false;  ///< an operation on it is under way: memory or not, both are right
    bool log = false;
    unsigned logs = 0;  ///< how many were started
  };
  static constexpr unsigned kSlots = 5;

  Model(Machine& m, std::uint64_t seed, bool second_level, bool slots_of_its_own, const Layout& layout)
      : machine(m), second_level_(second_level), layout_(layout) {
    const std::uint64_t data = layout.data();
    if (!slots_of_its_own) {
      slots[0] = Slot{0, GuestMap::kLowPages};
      for (Slot* s : {&slots[1], &slots[2]}) *s = Slot{0, 0, 0, 0, true};
    } else {
      slots[0] = Slot{0, data + 60};
      slots[1] = Slot{data + 60, 30};
      slots[2] = Slot{data + 90, GuestMap::kLowPages - data - 90};
    }
    for (const Slot& s : slots)
      if (!s.gone) machine.show(s.first, s.pages, true);
    for (Vcpu& v : vcpu) v.space().enter(0, version);
    if (second_level)
      for (Vcpu& v : vcpu) v.guest.table_end = v.guest.next_frame;  // no tables of the guest's that concern the MMU
    else
      layout_.build(vcpu[0].guest, seed);
    vcpu[1].guest.table_end = table_end();
    std::memcpy(vcpu[1].guest.roots, vcpu[0].guest.roots, sizeof vcpu[0].guest.roots);
    for (std::uint64_t f = Guest<Machine>::kFirstFrame; f < table_end(); ++f) tables_.push_back(f);
    if (!second_level)
      tables_.insert(tables_.end(), {GuestMap::kZeroTable, GuestMap::kBigTables, GuestMap::kBigTables + 1});
    mirror_.resize(tables_.size() * 512);
    for (std::size_t i = 0; i < tables_.size(); ++i)
      std::memcpy(&mirror_[i * 512], machine.guest_page(Gfn{tables_[i]}), kPageSize);
  }

  Machine& machine;
  Vcpu vcpu[kVcpus]{Vcpu{machine}, Vcpu{machine}};
  /// Tables and some data; data that may go away for a while; the rest; one that can be a host page of 1 GiB; one above
  /// 4 GiB.
  std::array<Slot, kSlots> slots{
      {{0, 0}, {0, 0}, {0, 0}, {GuestMap::kBig, GuestMap::kBigPages}, {GuestMap::kHigh, GuestMap::kHighPages}}};
  std::set<std::uint64_t> logged_writes;  ///< gfns written since their slot's log was last fetched
  std::set<std::uint64_t> untold_writes;  ///< gfns written by a CPU of which the Host was not told yet
  std::uint64_t version = 0;              ///< counts what may make a cached translation illegal

  [[nodiscard]] bool second_level() const noexcept { return second_level_; }
  [[nodiscard]] std::uint64_t table_end() const noexcept { return vcpu[0].guest.table_end; }
  /// The frames in which the guest's tables lie.
  [[nodiscard]] const std::vector<std::uint64_t>& tables() const noexcept { return tables_; }
  [[nodiscard]] bool is_table(std::uint64_t gfn) const noexcept { return table_number(gfn) < tables_.size(); }
  /// The guest's addresses, tables and data.
  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  /// Returns: addresses that the guest plays with.
  [[nodiscard]] const std::vector<std::uint64_t>& universe(Mode m) const { return layout_.addresses(m); }
  [[nodiscard]] bool memory(std::uint64_t gfn) const noexcept { return machine.memory(gfn); }
  [[nodiscard]] Slot* slot_of(std::uint64_t gfn) noexcept {
    for (Slot& s : slots)
      if (gfn >= s.first && gfn < s.first + s.pages) return &s;
    return nullptr;
  }
  [[nodiscard]] bool changing_slot(std::uint64_t gfn) noexcept {
    const Slot* s = slot_of(gfn);
    return s != nullptr && s->changing;
  }

  // --- what a TLB may still hold -----------------------------------------------------------------------------------
  /// The vCPU begins to forget everything, whatever PCID has cached it.
  void forget_all(unsigned n) {
    version += 1;
    for (auto& [pcid, space] : vcpu[n].spaces) space.forget(version);
  }
  void forget(unsigned n, std::uint64_t a) {
    version += 1;
    // INVLPG takes a large page whole, where no smaller one may be cached for the address.
    std::uint64_t pages = kStill;
    bool doubt = false;
    each_lead(
        vcpu[n], a, [&](const Lead& l) { pages = std::min(pages, l.pages); }, doubt);
    if (pages == kStill) pages = 1;
    vcpu[n].space().forget((a >> 12) & ~(pages - 1), pages, version);
  }
  /// As above, of the PCID in use.
  void forget_space(unsigned n) {
    version += 1;
    vcpu[n].space().forget(version);
  }
  void doubt_everything(unsigned n) {
    for (auto& [pcid, space] : vcpu[n].spaces) space.all = true;
  }
  void doubt_everything() {
    for (Vcpu& c : vcpu)
      for (auto& [pcid, space] : c.spaces) space.all = true;
  }
  /// The vCPU runs on that PCID's translations from now on. `keeps`: on those that it has cached before, too.
  void use_space(unsigned n, unsigned pcid, std::uint64_t root, bool keeps) {
    version += 1;
    Vcpu& c = vcpu[n];
    c.space().leave(version);
    c.pcid = pcid;
    if (!keeps) c.space().forget(version);
    c.space().enter(root, version);
  }
  /// CR4.PCIDE is clear, and everything was flushed: there is but one space.
  void one_space(unsigned n) {
    Vcpu& c = vcpu[n];
    c.pcid = 0;
    c.spaces.clear();
    c.space().enter(c.guest.cr3, version);
  }

  /// Effects: runs `change` on [at, at + bytes) of guest memory. `told`: the MMU sees it, or hears of it before
  /// anything else happens.
  template <class F>
  void changing(Gpa at, unsigned bytes, bool told, F&& change) {
    version += 1;
    for (std::uint64_t word = at.value() & ~std::uint64_t{7}; word < at.value() + bytes; word += 8) {
      std::uint64_t before = 0;
      unsigned halves = 0;
      if (!machine.read(Gpa{word}, 8, before)) continue;
      for (std::uint64_t half = std::max(word, at.value() & ~std::uint64_t{3});
           half < word + 8 && half < at.value() + bytes; half += 4)
        halves |= 1U << (half >> 2 & 1);
      past_.overwritten(word, before, version, halves, told ? 0 : halves);
    }
    change();
    note_word(at);
  }
  /// The MMU was told of what was written at `at`: from here on only TLBs may be out of date.
  void told(Gpa at, unsigned bytes) {
    version += 1;
    past_.told(at.value(), bytes, version);
  }
  [[nodiscard]] bool all_told() const noexcept { return past_.all_told(); }

  /// Returns: whether anything but what the tables say now is a legal answer for `a`.
  [[nodiscard]] bool doubtful(unsigned n, std::uint64_t a) const {
    bool doubt = vcpu[n].space().all;
    if (!doubt)
      each_lead(
          vcpu[n], a, [&](const Lead& l) { doubt = doubt || l.past; }, doubt);
    return doubt;
  }
  /// Returns: whether the vCPU may go by a translation of `a` to gfn that the tables do not say any more.
  [[nodiscard]] bool legally_stale(unsigned n, std::uint64_t a, std::uint64_t gfn, AccessRequest r, CpuMode m) const {
    const Vcpu& c = vcpu[n];
    bool legal = c.space().all, doubt = false;
    if (!legal)
      each_lead(
          c, a,
          [&](const Lead& l) {
            legal = legal || (l.past && l.gfn == gfn && (l.dirty || !r.write) && allowed(c, l.rights, r, m));
          },
          doubt);
    return legal;
  }

  // --- what is used ------------------------------------------------------------------------------------------------
  /// A CPU reached the frame.
  void reached(std::uint64_t gfn) {
    if (gfn < GuestMap::kLowPages) recent_[next_recent_++ % recent_.size()] = gfn;
  }
  /// Returns: a frame of low memory that a CPU reached not long ago; the first of the data where none has.
  [[nodiscard]] std::uint64_t recent(std::uint64_t choice) const {
    const std::uint64_t g = recent_[choice % recent_.size()];
    return g != 0 ? g : layout_.data();
  }

  // --- what is written -----------------------------------------------------------------------------------------------
  /// A CPU wrote the frame, in one step: the next fetch of its slot's log must name it.
  void wrote(std::uint64_t gfn) { write_ends(write_begins(gfn)); }
  /// Memory is written now, and the MMU told, or done with it, when the write ends: the first fetch after that must
  /// name it at the latest, unless one meanwhile has. Returns: a name for write_ends.
  [[nodiscard]] unsigned write_begins(std::uint64_t gfn) {
    const Slot* s = slot_of(gfn);
    if (s != nullptr && s->log) writing_[++last_write_] = {gfn, s->logs};
    return last_write_;
  }
  void write_ends(unsigned name) {
    const auto found = writing_.find(name);
    if (found == writing_.end()) return;
    const Slot* s = slot_of(found->second.gfn);
    if (s != nullptr && s->log && s->logs == found->second.log) logged_writes.insert(found->second.gfn);
    writing_.erase(found);
  }
  /// The frames that `named` says were named by a fetch of the slot's log.
  template <class Named>
  void fetched(const Slot& s, Named&& named) {
    const auto here = [&](std::uint64_t g) { return g - s.first < s.pages && named(g); };
    std::erase_if(logged_writes, here);
    std::erase_if(writing_, [&](const auto& w) { return here(w.second.gfn); });
  }
  void forget_log(const Slot& s) {
    logged_writes.erase(logged_writes.lower_bound(s.first), logged_writes.lower_bound(s.first + s.pages));
  }
  /// The guest's tables, as all that was seen to be written has left them.
  void note_word(Gpa at) {
    const std::uint64_t gfn = frame_of(at).value();
    if (!is_table(gfn)) return;
    const auto* now = static_cast<const std::uint64_t*>(machine.guest_page(Gfn{gfn}));
    const std::uint64_t i = (at.value() & kPageMask) / 8;
    std::uint64_t* mirror = &mirror_[table_number(gfn) * 512];
    mirror[i] = now[i];
    if (i < 511) mirror[i + 1] = now[i + 1];  // a write that is not aligned
  }
  /// Returns: where guest memory holds in a table what nobody was seen to write, or nothing.
  [[nodiscard]] bool tables_intact(Gpa& where) {
    for (std::size_t n = 0; n < tables_.size(); ++n) {
      const auto* now = static_cast<const std::uint64_t*>(machine.guest_page(Gfn{tables_[n]}));
      const std::uint64_t* mirror = &mirror_[n * 512];
      if (std::memcmp(now, mirror, kPageSize) == 0) continue;
      std::uint64_t i = 0;
      while (now[i] == mirror[i]) ++i;
      where = Gpa{tables_[n] << 12 | i * 8};
      return false;
    }
    return true;
  }

 private:
  struct Writing {
    std::uint64_t gfn = 0;
    unsigned log = 0;  ///< which log of its slot was on
  };
  /// Where a walk may lead that meets words as they are or as the CPU may remember them.
  struct Lead {
    std::uint64_t gfn = 0;
    Access rights{};
    bool past = false;        ///< some word of it is remembered only
    std::uint64_t since = 0;  ///< when the last of its words came to be
    std::uint64_t pages = 1;  ///< of the page that it is part of
    bool dirty = true;        ///< a write needs no other walk
  };
  template <class F>
  void each_lead(const Vcpu& c, std::uint64_t a, F&& f, bool& doubt) const {
    const Guest<Machine>& g = c.guest;
    switch (g.mode) {
      case Mode::Flat:
        return;
      case Mode::Long4:
        for (const PastValue& v : c.space().past_roots()) {
          if (!c.space().may_know(v.since, v.overwritten, a >> 12)) continue;
          doubt = true;
          each_lead(c, a, v.value & frame_bits(g.mode), 4, Lead{0, Access::all(), true}, f, doubt);
        }
        return each_lead(c, a, g.cr3 & frame_bits(g.mode), 4, Lead{0, Access::all()}, f, doubt);
      case Mode::Pae:
        if ((g.pdptes[a >> 30 & 3] & 1) == 0) return;
        return each_lead(c, a, g.pdptes[a >> 30 & 3] & frame_bits(g.mode), 2, Lead{0, Access::all()}, f, doubt);
      case Mode::Bits32:
        return each_lead(c, a, g.cr3 & frame_bits(g.mode), 2, Lead{0, Access::all()}, f, doubt);
    }
  }
  template <class F>
  void each_lead(const Vcpu& c, std::uint64_t a, std::uint64_t table, unsigned level, Lead above, F& f,
                 bool& doubt) const {
    const Guest<Machine>& g = c.guest;
    const std::uint64_t at = table + g.index(g.mode, a, level) * g.width();
    std::uint64_t now = 0;
    if (!machine.read(Gpa{at}, g.width(), now)) return;
    // Where A and D cannot be set, entries serve without them.
    const bool keeps_flags = !machine.read_only(frame_of(Gpa{at}).value());
    Lead l = above;
    l.since = std::max(above.since, past_.written(at, g.width()));
    each_lead_by(c, a, now, level, l, keeps_flags, f, doubt);
    std::vector<std::uint64_t> seen;
    for (const PastValue& v : past_.of(at & ~7ULL)) {
      const std::uint64_t was = g.width() == 8 ? v.value : v.value >> (at & 4) * 8 & 0xffff'ffff;
      const std::uint64_t until = v.until(at, g.width());
      // A walk reads from the root down: it meets no entry that was gone before those above it were there.
      if (!c.space().may_know(v.since, until, a >> 12) || until <= above.since) continue;
      if (std::find(seen.begin(), seen.end(), was) != seen.end()) continue;
      seen.push_back(was);
      if (keeps_flags && (was & 0x20) == 0) continue;  // never used
      l = above;
      l.since = std::max(above.since, v.since);
      // What it says now it said before, too, when tables below said something else.
      if (was == now) {
        if (leads_to_table(g, was, level)) each_lead_by(c, a, was, level, l, keeps_flags, f, doubt);
        continue;
      }
      doubt = l.past = true;
      each_lead_by(c, a, was, level, l, keeps_flags, f, doubt);
    }
  }
  [[nodiscard]] static bool leads_to_table(const Guest<Machine>& g, std::uint64_t e, unsigned level) {
    return level > 1 && ((e & 0x80) == 0 || level > 3 || (g.mode == Mode::Bits32 && (g.controls.cr4 & cr4::kPse) == 0));
  }
  /// As above, through one entry of that level.
  template <class F>
  void each_lead_by(const Vcpu& c, std::uint64_t a, std::uint64_t e, unsigned level, Lead l, bool keeps_flags, F& f,
                    bool& doubt) const {
    const Guest<Machine>& g = c.guest;
    if ((e & 1) == 0) return;
    const bool nx = g.width() == 8 && e >> 63 != 0 && (g.controls.efer & efer::kNxe) != 0;
    if ((e & 2) == 0) l.rights = l.rights.without(Access::kWrite);
    if ((e & 4) == 0) l.rights = l.rights.without(Access::kUser);
    if (nx) l.rights = l.rights.without(Access::kExec);
    const std::uint64_t frame = (e & frame_bits(g.mode)) >> 12, page = a >> 12;
    const unsigned bits = g.width() == 8 ? 9U : 10U;
    const std::uint64_t inside = (std::uint64_t{1} << bits * (level - 1)) - 1;
    if (level == 1) {
      l.gfn = frame;
    } else if (leads_to_table(g, e, level)) {
      return each_lead(c, a, frame << 12, level - 1, l, f, doubt);
    } else {
      const std::uint64_t pse36 = g.mode == Mode::Bits32 ? (e >> 13 & 0xff) << 20 : 0;
      l.gfn = pse36 | (frame & ~inside) | (page & inside);
    }
    l.pages = inside + 1;
    l.dirty = !keeps_flags || (e & 0x40) != 0;
    f(l);
  }
  [[nodiscard]] static bool allowed(const Vcpu& c, Access rights, AccessRequest r, CpuMode m) {
    const Controls& k = c.guest.controls;
    if (c.guest.mode == Mode::Flat) return true;
    if (r.fetch && !rights.exec()) return false;
    if (r.user) return rights.user() && (!r.write || rights.write());
    if (r.write && !rights.write() && (k.cr0 & cr0::kWp) != 0) return false;
    if (r.fetch && rights.user() && (k.cr4 & cr4::kSmep) != 0) return false;
    return !(!r.fetch && rights.user() && (k.cr4 & cr4::kSmap) != 0 && (m.cpl == 3 || !m.ac));
  }

  [[nodiscard]] std::size_t table_number(std::uint64_t gfn) const noexcept {
    if (gfn - Guest<Machine>::kFirstFrame < table_end() - Guest<Machine>::kFirstFrame)
      return gfn - Guest<Machine>::kFirstFrame;
    const std::size_t low = table_end() - Guest<Machine>::kFirstFrame;
    if (gfn == GuestMap::kZeroTable) return low;
    return gfn - GuestMap::kBigTables < 2 ? low + 1 + (gfn - GuestMap::kBigTables) : tables_.size();
  }

  bool second_level_;
  Layout layout_;
  std::vector<std::uint64_t> tables_;
  std::vector<std::uint64_t> mirror_;
  std::map<unsigned, Writing> writing_;
  unsigned last_write_ = 0;
  Past past_;
  std::array<std::uint64_t, 8> recent_{};
  unsigned next_recent_ = 0;
};

}  // namespace shadowmmu::sim::world
