// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <vector>

#include "shadowmmu/sim/world/guest.hpp"
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
  static constexpr std::uint64_t kLowPages = 2000;  ///< of low memory that slots own

  /// `behind`: the guest's data lie behind the first 2 MiB, which are one slot's.
  Model(Machine& m, std::uint64_t seed, bool second_level, bool slots_of_its_own, bool behind)
      : machine(m), second_level_(second_level), data_(behind ? 512 : 200) {
    if (!slots_of_its_own) {
      slots[0] = Slot{0, kLowPages};
      for (Slot* s : {&slots[1], &slots[2]}) *s = Slot{0, 0, 0, 0, true};
    } else {
      slots[0] = Slot{0, data_ + 60};
      slots[1] = Slot{data_ + 60, 30};
      slots[2] = Slot{data_ + 90, kLowPages - data_ - 90};
    }
    for (const Slot& s : slots)
      if (!s.gone) machine.show(s.first, s.pages, true);
    for (Vcpu& v : vcpu) v.space().enter(0, version);
    if (second_level)
      for (Vcpu& v : vcpu) v.guest.table_end = v.guest.next_frame;  // no tables of the guest's that concern the MMU
    else
      build(seed);
    for (std::uint64_t f = GuestMap::kFirstTable; f < table_end(); ++f) tables_.push_back(f);
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
  /// The guest's data begin here, and mostly lie in the hundred frames from here on.
  [[nodiscard]] std::uint64_t data() const noexcept { return data_; }
  /// Returns: a frame that a guest's page may lead to: mostly data; now and then the last or first of a slot, of a
  /// host page, of a word of a log, or of what an MMU's own entries can name; or what no slot owns.
  [[nodiscard]] std::uint64_t some_frame(std::uint64_t choice) const noexcept {
    const std::uint64_t kEnds[] = {data_ + 59,
                                   data_ + 60,
                                   data_ + 89,
                                   data_ + 90,
                                   255,
                                   data_ + 90 + 63,
                                   1023,
                                   1024,
                                   1535,
                                   kLowPages - 1,
                                   GuestMap::kBig,
                                   GuestMap::kBig + 511,
                                   GuestMap::kBig + GuestMap::kBigPages - 1,
                                   GuestMap::kHigh,
                                   GuestMap::kHigh + GuestMap::kHighPages - 1};
    constexpr std::uint64_t kNobodys[] = {
        kLowPages,   GuestMap::kLow + 3, GuestMap::kBig - 1, 0x90000, GuestMap::kHigh + GuestMap::kHighPages,
        0xffff'ffff, 0x1'0000'0000,      0x3'ffff'ffff};
    const std::uint64_t x = choice >> 16;
    switch (choice >> 8 & 15) {
      case 0:
      case 1:
        return kEnds[x % std::size(kEnds)];
      case 2:
      case 3:
        return kNobodys[x % std::size(kNobodys)];
      default:
        return data_ + x % 100;
    }
  }
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

  /// Returns: addresses that the guest plays with: some share leaf tables, some whole directories, some nothing; some
  /// are parts of large pages.
  [[nodiscard]] const std::vector<std::uint64_t>& universe(Mode m) const { return universe_[static_cast<unsigned>(m)]; }

  // --- what a TLB may still hold -----------------------------------------------------------------------------------
  /// The vCPU begins to forget everything, whatever PCID has cached it.
  void forget_all(unsigned n) {
    version += 1;
    for (auto& [pcid, space] : vcpu[n].spaces) space.forget(version);
  }
  void forget(unsigned n, std::uint64_t a) {
    version += 1;
    vcpu[n].space().forget(a >> 12, version);
  }
  void doubt_everything(unsigned n) { vcpu[n].space().all = true; }
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
      unsigned untold = 0;
      if (!machine.read(Gpa{word}, 8, before)) continue;
      for (std::uint64_t half = std::max(word, at.value() & ~std::uint64_t{3});
           half < word + 8 && half < at.value() + bytes; half += 4)
        untold |= told ? 0U : 1U << (half >> 2 & 1);
      past_.overwritten(word, before, version, untold);
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
          c, a, [&](const Lead& l) { legal = legal || (l.past && l.gfn == gfn && allowed(c, l.rights, r, m)); }, doubt);
    return legal;
  }

  // --- what is used ------------------------------------------------------------------------------------------------
  /// A CPU reached the frame.
  void reached(std::uint64_t gfn) {
    if (gfn < kLowPages) recent_[next_recent_++ % recent_.size()] = gfn;
  }
  /// Returns: a frame of low memory that a CPU reached not long ago; the first of the data where none has.
  [[nodiscard]] std::uint64_t recent(std::uint64_t choice) const {
    const std::uint64_t g = recent_[choice % recent_.size()];
    return g != 0 ? g : data_;
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
    bool past = false;  ///< some word of it is remembered only
  };
  template <class F>
  void each_lead(const Vcpu& c, std::uint64_t a, F&& f, bool& doubt) const {
    const Guest<Machine>& g = c.guest;
    switch (g.mode) {
      case Mode::Flat:
        return;
      case Mode::Long4:
        for (const PastValue& v : c.space().past_roots()) {
          if (!c.space().may_know(v, a >> 12)) continue;
          doubt = true;
          each_lead(c, a, v.value & frame_bits(g.mode), 4, {0, Access::all(), true}, f, doubt);
        }
        return each_lead(c, a, g.cr3 & frame_bits(g.mode), 4, {0, Access::all(), false}, f, doubt);
      case Mode::Pae:
        if ((g.pdptes[a >> 30 & 3] & 1) == 0) return;
        return each_lead(c, a, g.pdptes[a >> 30 & 3] & frame_bits(g.mode), 2, {0, Access::all(), false}, f, doubt);
      case Mode::Bits32:
        return each_lead(c, a, g.cr3 & frame_bits(g.mode), 2, {0, Access::all(), false}, f, doubt);
    }
  }
  template <class F>
  void each_lead(const Vcpu& c, std::uint64_t a, std::uint64_t table, unsigned level, Lead above, F& f,
                 bool& doubt) const {
    const Guest<Machine>& g = c.guest;
    const std::uint64_t at = table + g.index(g.mode, a, level) * g.width();
    std::uint64_t now = 0;
    if (!machine.read(Gpa{at}, g.width(), now)) return;
    each_lead_by(c, a, now, level, above, f, doubt);
    std::vector<std::uint64_t> seen{now};
    for (const PastValue& v : past_.of(at & ~7ULL)) {
      const std::uint64_t was = g.width() == 8 ? v.value : v.value >> (at & 4) * 8 & 0xffff'ffff;
      if (!c.space().may_know(v, a >> 12)) continue;
      doubt = true;
      if (std::find(seen.begin(), seen.end(), was) != seen.end()) continue;
      seen.push_back(was);
      above.past = true;
      each_lead_by(c, a, was, level, above, f, doubt);
    }
  }
  /// As above, through one entry of that level.
  template <class F>
  void each_lead_by(const Vcpu& c, std::uint64_t a, std::uint64_t e, unsigned level, Lead l, F& f, bool& doubt) const {
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
    } else if ((e & 0x80) == 0 || level > 3 || (g.mode == Mode::Bits32 && (g.controls.cr4 & cr4::kPse) == 0)) {
      return each_lead(c, a, frame << 12, level - 1, l, f, doubt);
    } else {
      const std::uint64_t pse36 = g.mode == Mode::Bits32 ? (e >> 13 & 0xff) << 20 : 0;
      l.gfn = pse36 | (frame & ~inside) | (page & inside);
    }
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

  /// Mostly all rights; some pages are read-only, some the supervisor's.
  [[nodiscard]] static std::uint64_t rights_of_page(std::uint64_t n) {
    constexpr std::uint64_t kRights[] = {7, 7, 7, 5, 7, 3, 7, 1};
    return kRights[n % 8];
  }
  void build(std::uint64_t seed) {
    Guest<Machine>& g = vcpu[0].guest;
    Random rng(seed);
    for (unsigned r = 0; r < Guest<Machine>::kRoots; ++r)
      for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
        std::uint64_t root = g.next_frame++ << 12;
        // One root lies apart from the tables below it.
        if (m == Mode::Long4 && r == 1) root = (GuestMap::kBigTables + 1) << 12;
        if (m == Mode::Pae) root += rng.below(128) * 32;  // a PDPT may lie at any 32-byte place
        g.roots[static_cast<unsigned>(m)][r] = root;
        if (m == Mode::Bits32)
          for (std::uint64_t f = 0; f < 1024; ++f) g.map(m, root, Guest<Machine>::kLinear + (f << 12), f, 0x67);
        else
          for (std::uint64_t f = 0; f < GuestMap::kLow; f += 512)
            g.map(m, root, Guest<Machine>::kLinear + (f << 12), f, 0x67, 2);
        share_tables(m, r, root);
        for (const std::uint64_t a : universe(m))
          if (a - kLarge >= kLargeSpan && (r == 0 || a % kFar != 0) && a - kHuge >= (1U << 30) &&
              (m != Mode::Pae || a >> 21 != kFirst >> 21))
            g.map(m, root, a, a == kDevice ? 0xfee00 : data_ + (a >> 12) % 40 + r * 40, rights_of_page((a >> 12) + r));
        // The same memory twice, once not for all; one page, and what may be one in the middle of low memory.
        const std::uint64_t step = m == Mode::Bits32 ? 1024 : 512;
        g.map(m, root, kLarge, GuestMap::kBig + step * (r + 1), 7, 2);
        if (m != Mode::Bits32) g.map(m, root, kLarge + (1U << 21), GuestMap::kHigh + r, 7);
        g.map(m, root, kLarge + (1U << 22), GuestMap::kBig + step * (r + 1), r == 0 ? 5 : 1, 2);
        if (m != Mode::Bits32) g.map(m, root, kLarge + (3U << 21), 1024, 7, 2);
        if (m != Mode::Bits32) g.map(m, root, kLarge + (4U << 21), 1024, r == 0 ? 5 : 3, 2);
        if (m == Mode::Long4) g.map(m, root, kHuge, GuestMap::kBig, r == 1 ? 5 : 7, 3);
      }
    g.table_end = g.next_frame;
    vcpu[1].guest.table_end = g.table_end;
    std::memcpy(vcpu[1].guest.roots, g.roots, sizeof g.roots);
  }
  /// Leaf tables that lie where a large page could begin, inside of one, and in two paging modes at once.
  void share_tables(Mode m, unsigned r, std::uint64_t root) {
    Guest<Machine>& g = vcpu[0].guest;
    if (m == Mode::Bits32) return;
    if (m == Mode::Long4) shared_[r] = r == 0 ? GuestMap::kZeroTable : r == 2 ? GuestMap::kBigTables : g.next_frame++;
    g.put(m, root, kFirst, 2, shared_[r] << 12 | 7);
  }
  static constexpr std::uint64_t kDevice = 0x0060'3000;          ///< leads to no memory
  static constexpr std::uint64_t kFar = std::uint64_t{1} << 43;  ///< pages that share no table but the root
  static constexpr std::uint64_t kFirst = 0x0040'0000;           ///< where pages of the guest's begin
  static constexpr std::uint64_t kLarge = 0x9000'0000, kLargeSpan = 1U << 24;  ///< large pages of the guest
  static constexpr std::uint64_t kHuge = 0x1'4000'0000;                        ///< 1 GiB
  [[nodiscard]] static std::vector<std::uint64_t> addresses(Mode m) {
    std::vector<std::uint64_t> v;
    if (m == Mode::Flat) return v;
    for (std::uint64_t i = 0; i < 6; ++i) v.push_back(kFirst + i * 0x1000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x0060'0000 + i * 0x3000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x8000'0000 + i * 0x1000);
    v.push_back(0x005f'f000);  // the last entry of a table
    v.push_back(0x3fff'f000);  // and of the table above
    for (const unsigned i : {0U, 0x5000U, 0x1f'f000U, 0x20'0000U, 0x40'0000U, 0x5f'f000U, 0x60'3000U, 0x80'3000U})
      if (m != Mode::Bits32 || i < 0x80'0000) v.push_back(kLarge + i);
    if (m == Mode::Long4) {
      for (std::uint64_t i = 0; i < 4; ++i) v.push_back(0xffff'8000'0000'0000 + i * 0x2000);
      for (const unsigned i : {0U, 0x0123'4000U, 0x3fff'f000U}) v.push_back(kHuge + i);
      for (std::uint64_t i = 1; i < 5; ++i) v.push_back(kFar * i);
    }
    return v;
  }

  [[nodiscard]] std::size_t table_number(std::uint64_t gfn) const noexcept {
    if (gfn - GuestMap::kFirstTable < table_end() - GuestMap::kFirstTable) return gfn - GuestMap::kFirstTable;
    const std::size_t low = table_end() - GuestMap::kFirstTable;
    if (gfn == GuestMap::kZeroTable) return low;
    return gfn - GuestMap::kBigTables < 2 ? low + 1 + (gfn - GuestMap::kBigTables) : tables_.size();
  }

  bool second_level_;
  std::uint64_t data_;
  std::vector<std::uint64_t> tables_;
  std::array<std::vector<std::uint64_t>, 4> universe_{addresses(Mode::Long4), addresses(Mode::Pae),
                                                      addresses(Mode::Bits32), addresses(Mode::Flat)};
  std::vector<std::uint64_t> mirror_;
  std::map<unsigned, Writing> writing_;
  unsigned last_write_ = 0;
  Past past_;
  std::array<std::uint64_t, 8> recent_{};
  unsigned next_recent_ = 0;
  std::uint64_t shared_[Guest<Machine>::kRoots] = {};  ///< leaf tables that two paging modes share
};

}  // namespace shadowmmu::sim::world
