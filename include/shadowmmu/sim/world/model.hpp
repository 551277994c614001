// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "shadowmmu/sim/world/guest.hpp"
#include "shadowmmu/sim/world/machine.hpp"

/// What is known of the guest and its host, whatever MMU lies between: registers, slots, logs; and what each vCPU's TLB
/// may still say beside what the tables say now. An MMU may answer by a translation that is out of date exactly as long
/// as a TLB may hold it, or as long as nobody has told it of the write that outdates it.
namespace shadowmmu::sim::world {

/// What a TLB may hold of a page beside what the tables say now.
struct Stale {
  bool wild = false;  ///< an upper entry changed: combinations of old and new are legal
  std::vector<OracleVerdict> old;
};

/// The translations that one PCID has cached: all there are where CR4.PCIDE is clear.
struct Space {
  std::uint64_t root = 0;
  bool all = false;  ///< anything may be out of date
  std::map<std::uint64_t, Stale> stale;
};

class Model {
 public:
  static constexpr unsigned kVcpus = 2;
  struct Vcpu {
    explicit Vcpu(Machine& m) : guest(m) {}
    [[nodiscard]] Space& space() { return spaces[pcid]; }
    [[nodiscard]] const Space& space() const { return spaces.at(pcid); }
    Guest<Machine> guest;
    std::map<unsigned, Space> spaces{{0, Space{}}};
    unsigned pcid = 0;
    std::set<std::uint64_t> touched;  ///< pages that were used since the paging mode changed
  };
  struct Slot {
    std::uint64_t first, pages;
    bool gone = false;
    bool read_only = false;
    bool changing = false;  ///< an operation on it is under way: memory or not, both are right
    bool log = false;
    unsigned logs = 0;  ///< how many were started
  };
  static constexpr unsigned kSlots = 5;

  Model(Machine& m, bool second_level, bool slots_of_its_own) : machine(m), second_level_(second_level) {
    if (!slots_of_its_own) {
      slots[0].pages = 2000;
      for (Slot* s : {&slots[1], &slots[2]}) *s = {0, 0, true};
    }
    for (const Slot& s : slots)
      if (!s.gone) machine.show(s.first, s.pages, true);
    if (second_level)
      for (Vcpu& v : vcpu) v.guest.table_end = v.guest.next_frame;  // no tables of the guest's that concern the MMU
    else
      build();
    mirror_.resize((table_end() - 16) * 512);
    for (std::uint64_t f = 16; f < table_end(); ++f) std::memcpy(mirror(f), machine.guest_page(Gfn{f}), kPageSize);
  }

  Machine& machine;
  Vcpu vcpu[kVcpus]{Vcpu{machine}, Vcpu{machine}};
  /// Tables and some data; data that may go away for a while; the rest; one that can be a host page of 1 GiB; one above
  /// 4 GiB.
  std::array<Slot, kSlots> slots{{{0, 260},
                                  {260, 30},
                                  {290, 1710},
                                  {GuestMap::kBig, GuestMap::kBigPages},
                                  {GuestMap::kHigh, GuestMap::kHighPages}}};
  std::set<std::uint64_t> logged_writes;  ///< gfns written since their slot's log was last fetched
  std::set<std::uint64_t> untold_writes;  ///< gfns written by a CPU of which the Host was not told yet
  std::uint64_t version = 0;              ///< counts what may make a cached translation illegal

  [[nodiscard]] bool second_level() const noexcept { return second_level_; }
  [[nodiscard]] std::uint64_t table_end() const noexcept { return vcpu[0].guest.table_end; }
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
    for (auto& [pcid, space] : vcpu[n].spaces) {
      space.all = false;
      space.stale.clear();
    }
  }
  void forget(unsigned n, std::uint64_t a) {
    version += 1;
    const std::uint64_t page = a >> 12;
    auto& stale = vcpu[n].space().stale;
    if (a >= Guest<Machine>::kLinear && a < Guest<Machine>::kLinear + (1U << 23))
      std::erase_if(stale, [&](const auto& s) { return s.first >> 9 == page >> 9; });
    stale.erase(page);
  }
  void doubt_everything(unsigned n) { vcpu[n].space().all = true; }
  void doubt_everything() {
    for (Vcpu& c : vcpu)
      for (auto& [pcid, space] : c.spaces) space.all = true;
  }

  /// Effects: runs `change` on the word of guest memory at `at` and notes which translations of which vCPU it outdates.
  /// `told`: the MMU sees it, or hears of it before anything else happens.
  template <class F>
  void changing(Gpa at, unsigned bytes, bool told, F&& change) {
    version += 1;
    std::vector<Outdated> all;
    for (Vcpu& c : vcpu)
      for (auto& named : c.spaces) {
        Space& space = named.second;
        const std::uint64_t root = named.first == c.pcid ? c.guest.cr3 : space.root;
        const auto note = [&](std::uint64_t page) {
          const unsigned level = hit(c, root, page, at);
          all.push_back({&c, &space, root, page, level, c.guest.raw(page << 12, root)});
        };
        for (const std::uint64_t a : universe(c.guest.mode)) note(a >> 12);
        for (const std::uint64_t page : c.touched) note(page);
      }
    change();
    for (Outdated& o : all) {
      const unsigned level = std::max(o.level, hit(*o.vcpu, o.root, o.page, at));
      if (level == 0) continue;
      // A leaf edit outdates one translation; an edit above may be combined with anything below.
      Stale& s = o.space->stale[o.page];
      if (level > 1) s.wild = true;
      if (!o.before.fault) s.old.push_back(o.before);
    }
    if (!told)
      for (std::uint64_t half = at.value() & ~3ULL; half < at.value() + bytes; half += 4) untold_.insert(half);
    note_word(at);
  }
  /// The MMU was told of what was written at `at`: from here on only TLBs may be out of date.
  void told(Gpa at, unsigned bytes) {
    version += 1;
    std::size_t known = 0;
    for (std::uint64_t half = at.value() & ~3ULL; half < at.value() + bytes; half += 4) known += untold_.erase(half);
    if (known == 0) return;
    for (Vcpu& c : vcpu)
      for (auto& [pcid, space] : c.spaces) {
        if (pcid != c.pcid) space.all = true;
        if (pcid != c.pcid) continue;
        const auto note = [&, s = &space](std::uint64_t page) {
          if (hit(c, c.guest.cr3, page, at) != 0) s->stale[page].wild = true;
        };
        for (const std::uint64_t a : universe(c.guest.mode)) note(a >> 12);
        for (const std::uint64_t page : c.touched) note(page);
      }
  }
  [[nodiscard]] const std::set<std::uint64_t>& untold() const noexcept { return untold_; }

  /// Returns: whether anything but what the tables say now is a legal answer for `a`.
  [[nodiscard]] bool doubtful(unsigned n, std::uint64_t a) const {
    const Vcpu& c = vcpu[n];
    return c.space().all || c.space().stale.count(a >> 12) != 0 || meets_untold(c, a);
  }
  /// Returns: whether the vCPU may go by a translation of `a` to gfn that the tables do not say any more.
  [[nodiscard]] bool legally_stale(unsigned n, std::uint64_t a, std::uint64_t gfn, AccessRequest r, CpuMode m) const {
    const Vcpu& c = vcpu[n];
    if (c.space().all || meets_untold(c, a)) return true;
    const auto found = c.space().stale.find(a >> 12);
    if (found == c.space().stale.end()) return false;
    if (found->second.wild) return true;
    for (const auto& old : found->second.old)
      if (old.gpa.value() >> 12 == gfn && allowed(c, old.rights, r, m)) return true;
    return false;
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
    if (gfn < 16 || gfn >= table_end()) return;
    const auto* now = static_cast<const std::uint64_t*>(machine.guest_page(Gfn{gfn}));
    const std::uint64_t i = (at.value() & kPageMask) / 8;
    mirror(gfn)[i] = now[i];
    if (i < 511) mirror(gfn)[i + 1] = now[i + 1];  // a write that is not aligned
  }
  /// Returns: where guest memory holds in a table what nobody was seen to write, or nothing.
  [[nodiscard]] bool tables_intact(Gpa& where) {
    for (std::uint64_t f = 16; f < table_end(); ++f) {
      const auto* now = static_cast<const std::uint64_t*>(machine.guest_page(Gfn{f}));
      if (std::memcmp(now, mirror(f), kPageSize) == 0) continue;
      std::uint64_t i = 0;
      while (now[i] == mirror(f)[i]) ++i;
      where = Gpa{f << 12 | i * 8};
      return false;
    }
    return true;
  }

 private:
  struct Writing {
    std::uint64_t gfn = 0;
    unsigned log = 0;  ///< which log of its slot was on
  };
  struct Outdated {
    Vcpu* vcpu;
    Space* space;
    std::uint64_t root, page;
    unsigned level;
    OracleVerdict before;
  };
  /// Returns: the highest level of an entry on the page's path that a write at `at` touches; 0 if none.
  [[nodiscard]] static unsigned hit(const Vcpu& c, std::uint64_t root, std::uint64_t page, Gpa at) {
    unsigned level = 0;
    for (const Step& s : c.guest.path(page << 12, root))
      if ((s.at.value() ^ at.value()) < 8) level = std::max(level, s.level);
    return level;
  }
  [[nodiscard]] bool meets_untold(const Vcpu& c, std::uint64_t a) const {
    if (untold_.empty()) return false;
    for (const Step& s : c.guest.path(a))
      if (untold_.count(s.at.value()) != 0 || (c.guest.width() == 8 && untold_.count(s.at.value() + 4) != 0))
        return true;
    return false;
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
  void build() {
    Guest<Machine>& g = vcpu[0].guest;
    Random rng(7);
    for (unsigned r = 0; r < Guest<Machine>::kRoots; ++r)
      for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
        std::uint64_t root = g.next_frame++ << 12;
        if (m == Mode::Pae) root += rng.below(128) * 32;  // a PDPT may lie at any 32-byte place
        g.roots[static_cast<unsigned>(m)][r] = root;
        if (m == Mode::Bits32)
          for (std::uint64_t f = 0; f < 1024; ++f) g.map(m, root, Guest<Machine>::kLinear + (f << 12), f, 0x67);
        else
          for (std::uint64_t f = 0; f < GuestMap::kLow; f += 512)
            g.map(m, root, Guest<Machine>::kLinear + (f << 12), f, 0x67, 2);
        for (const std::uint64_t a : universe(m))
          if (a - kLarge >= kLargeSpan && a - kHuge >= (1U << 30))
            g.map(m, root, a, 200 + (a >> 12) % 40 + r * 40, rights_of_page((a >> 12) + r));
        if (m != Mode::Bits32) g.map(m, root, kLarge, GuestMap::kBig + 512 * (r + 1), 7, 2);
        if (m != Mode::Bits32) g.map(m, root, kLarge + (1U << 21), GuestMap::kHigh + r, 7);
        if (m == Mode::Bits32) g.map(m, root, kLarge, GuestMap::kBig + 1024 * (r + 1), 7, 2);
        if (m == Mode::Long4) g.map(m, root, kHuge, GuestMap::kBig, 7, 3);
      }
    g.table_end = g.next_frame;
    vcpu[1].guest.table_end = g.table_end;
    std::memcpy(vcpu[1].guest.roots, g.roots, sizeof g.roots);
  }
  static constexpr std::uint64_t kLarge = 0x9000'0000, kLargeSpan = 1U << 22;  ///< large pages of the guest
  static constexpr std::uint64_t kHuge = 0x1'4000'0000;                        ///< 1 GiB
  [[nodiscard]] static std::vector<std::uint64_t> addresses(Mode m) {
    std::vector<std::uint64_t> v;
    if (m == Mode::Flat) return v;
    for (std::uint64_t i = 0; i < 6; ++i) v.push_back(0x0040'0000 + i * 0x1000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x0060'0000 + i * 0x3000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x8000'0000 + i * 0x1000);
    for (std::uint64_t i = 0; i < 2; ++i) v.push_back(kLarge + i * 0x5000);
    v.push_back(kLarge + (1U << 21));
    if (m == Mode::Long4) {
      for (std::uint64_t i = 0; i < 4; ++i) v.push_back(0xffff'8000'0000'0000 + i * 0x2000);
      for (std::uint64_t i = 0; i < 2; ++i) v.push_back(kHuge + i * 0x0123'4000);
    }
    return v;
  }

  [[nodiscard]] std::uint64_t* mirror(std::uint64_t gfn) { return &mirror_[(gfn - 16) * 512]; }

  bool second_level_;
  std::array<std::vector<std::uint64_t>, 4> universe_{addresses(Mode::Long4), addresses(Mode::Pae),
                                                      addresses(Mode::Bits32), addresses(Mode::Flat)};
  std::vector<std::uint64_t> mirror_;
  std::map<unsigned, Writing> writing_;
  unsigned last_write_ = 0;
  std::set<std::uint64_t> untold_;  ///< halves of words that were written and of which the MMU was not told yet
};

}  // namespace shadowmmu::sim::world
