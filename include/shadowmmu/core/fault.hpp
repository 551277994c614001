// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstdint>

#include "shadowmmu/core/map.hpp"
#include "shadowmmu/core/mmio.hpp"
#include "shadowmmu/core/reclaim.hpp"
#include "shadowmmu/core/roots.hpp"
#include "shadowmmu/guest/walk.hpp"
#include "shadowmmu/result.hpp"

/// The fault path up to its entry: walk the guest's tables; under the lock, install one entry.
namespace shadowmmu::core {

/// One fault on its way. Lives on the stack of handle_fault.
template <class S>
struct Fault {
  Fault(S& state, typename S::Vcpu& vcpu, Gva a, AccessRequest r) noexcept
      : s(state), v(vcpu), address(a), request(r) {}
  /// Effects: the fault goes by these memslots. Locking: a section.
  void look_at(const SlotsOf<S>& snapshot) noexcept {
    slots = &snapshot;
    slots_version = snapshot.version();
  }

  S& s;
  typename S::Vcpu& v;
  const SlotsOf<S>* slots = nullptr;  ///< outside of the section only where slots_unchanged
  std::uint64_t slots_version = 0;
  Gva address{};
  AccessRequest request{};
  Access granted{};           ///< what the guest's tables grant, whatever the request made of it
  guest::Walk walk;           ///< filled by the walk, by level: not cleared first
  SlotOf<S>* slot = nullptr;  ///< none: to be remembered as MMIO
  Backing backing{};
  std::uint64_t invalidate_seq = 0;
  std::uint64_t mmio_generation = 0;
  bool window = false;
  bool supervisor_window = false;
  bool smap_lifted = false;  ///< a supervisor's data access that SMAP would refuse but for AC
};

/// Returns: whether hardware can name the frame; one beyond MAXPHYADDR would set reserved or software bits.
template <class S>
[[nodiscard]] bool addressable(const S& s, const Backing& b) noexcept {
  return b.pfn.value() >> (s.caps.host_address_bits - kPageShift) == 0;
}

/// Whether the memslots are still those that the fault looked at: then, under the lock, they stay. An address would not
/// tell: that of a snapshot that has gone may be another's by now.
template <class S>
[[nodiscard]] bool slots_unchanged(const Fault<S>& f) noexcept {
  return f.s.snapshot->version() == f.slots_version;
}

/// Effects: walks the tables of the mode in force. Non-paging and direct maps: the address is the gpa. `v`: a vCPU, or
/// a copy of its registers. Locking: a section.
template <class S, class V>
[[nodiscard]] guest::WalkEnd walk_guest(S& s, const V& v, const SlotsOf<S>& slots, unsigned& hint, Gva a,
                                        AccessRequest request, bool smap_enforced, guest::Walk& w) noexcept {
  GuestReader<S> reader(s, slots, hint);
  if constexpr (S::Arch::kGuests.has(GuestMode::Long4))
    if (v.paging.mode() == GuestMode::Long4)
      return guest::Walker<guest::Long4, GuestReader<S>>::run(v.paging, reader, guest::Long4::frame(v.cr3), a, request,
                                                              smap_enforced, w);
  if constexpr (S::Arch::kGuests.has(GuestMode::Pae))
    if (v.paging.mode() == GuestMode::Pae) {
      const std::uint64_t pdpte = v.pdpte[a.value() >> 30U & 3U];
      if ((pdpte & guest::kEntryPresent) == 0) {
        w.error_code = request.error_bits() & (v.paging.reports_fetch() ? ~0U : ~pferr::kFetch);
        return guest::WalkEnd::Fault;
      }
      return guest::Walker<guest::Pae, GuestReader<S>>::run(v.paging, reader, guest::Pae::frame(pdpte), a, request,
                                                            smap_enforced, w);
    }
  if constexpr (S::Arch::kGuests.has(GuestMode::Bits32))
    if (v.paging.mode() == GuestMode::Bits32)
      return guest::Walker<guest::Bits32, GuestReader<S>>::run(v.paging, reader, guest::Bits32::frame(v.cr3), a,
                                                               request, smap_enforced, w);
  w.gfn = Gfn{a.value() >> kPageShift};
  w.rights = Access::all();
  w.clean = false;
  // The PAE shape ends in directories: no leaf above 2 MiB under it.
  w.level = v.paging.mode() == GuestMode::Direct ? S::Arch::kMaxLeafLevel : 2;
  return guest::WalkEnd::Found;
}

/// A supervisor write to a read-only user page while CR0.WP = 0. Hardware always runs with WP = 1, so the entry must
/// allow the write and, until a user reads it again, refuse the user: W=1, U=0, and NX where SMEP would have refused
/// the fetch. With SMAP that is unsound (AC cannot be intercepted): the embedder emulates.
template <class S>
[[nodiscard]] bool rewrite_for_wp(Fault<S>& f) noexcept {
  if (!f.request.write || f.request.user || f.walk.rights.write() || f.v.paging.wp() ||
      f.v.paging.mode() == GuestMode::NonPaging)
    return true;
  if (f.walk.rights.user()) {
    if (f.v.paging.smap() && !f.supervisor_window) return false;
    f.walk.rights = f.walk.rights.without(Access::kUser | (f.v.paging.smep() ? unsigned{Access::kExec} : 0U));
  }
  f.walk.rights = f.walk.rights.with(Access::kWrite);
  return true;
}

/// Returns: whether a host invalidation of gfn is in progress or has ended since the sequence was read.
template <class S>
[[nodiscard]] bool invalidated_meanwhile(S& s, Gfn gfn, std::uint64_t seq) noexcept {
  return being_invalidated(s, gfn, 1) || S::Memory::plain(s.invalidate_seq) != seq;
}

/// Returns: whether the guest's entry at `level` still reads as it was walked.
template <class S>
[[nodiscard]] bool gpte_unchanged(Fault<S>& f, unsigned level) noexcept {
  GuestReader<S> reader(f.s, *f.slots, f.v.slot_hint);
  const bool narrow = S::Arch::kGuests.has(GuestMode::Bits32) && f.v.paging.mode() == GuestMode::Bits32;
  // No invalidation since before the walk: the frame lies where it lay, and the leaf can be read again in place.
  if (level == f.walk.level && S::Memory::plain(f.s.invalidating) == 0)
    return (narrow ? reader.load(static_cast<const std::uint32_t*>(f.walk.leaf))
                   : reader.load(static_cast<const std::uint64_t*>(f.walk.leaf))) == f.walk.gpte[level];
  return reader.entry(f.walk.table(level), f.walk.index[level], narrow ? 4U : 8U) == f.walk.gpte[level];
}

/// Returns: where to start on the shadow tables: the directory that served this GiB last, if no link has gone since,
/// else the root.
template <class S>
[[nodiscard]] typename S::Page* path_start(Fault<S>& f, Level goal) noexcept {
  S& s = f.s;
  const PathCache& c = f.v.path;
  const std::uint64_t region = f.address.value() >> 30U;
  const unsigned slot = region % PathCache::kSlots;
  if (c.epoch != s.epoch || c.region[slot] != region || c.page[slot] == kNoPage || goal > Level{2})
    return root_page(s, f.v, f.address);
  auto* p = &s.page(c.page[slot]);
  // Linked as it is, it may still disagree with a walk that is younger than the link: then take the long way.
  if (!p->role.direct() && (f.walk.level > 2 || p->gfn != f.walk.table(2) || p->role.access() != f.walk.above(2)))
    return root_page(s, f.v, f.address);
  if (p->role.direct() != (f.v.paging.mode() == GuestMode::NonPaging || f.v.paging.mode() == GuestMode::Direct))
    return root_page(s, f.v, f.address);
  return p;
}
/// Effects: starts to fetch what the shadow leaf for `a` needs, where the last faults came by. Locking: none.
template <class S>
SHADOWMMU_RACES_KNOWINGLY void hint_path(S& s, const typename S::Vcpu& v, Gva a) noexcept {
  const std::uint64_t region = a.value() >> 30U;
  const unsigned slot = region % PathCache::kSlots;
  if (v.path.region[slot] != region || v.path.page[slot] == kNoPage) return;
  SideAccess<S>::prefetch(s, s.page(v.path.page[slot]), a);
}
template <class S>
void remember_path(Fault<S>& f, const typename S::Page& p) noexcept {
  PathCache& c = f.v.path;
  if (c.epoch != f.s.epoch) {
    for (PageIndex& i : c.page) i = kNoPage;
    c.epoch = f.s.epoch;
  }
  const std::uint64_t region = f.address.value() >> 30U;
  c.region[region % PathCache::kSlots] = region;
  c.page[region % PathCache::kSlots] = p.index;
}

/// Effects: code runs in the large page of gfn: its region is mapped by 4 KiB entries from now on, until
/// recover_exec_splits. Flush: by the guard.
template <class S>
void split_for_exec(S& s, ExclusiveGuard<S>& g, SlotOf<S>& slot, Gfn gfn) noexcept {
  for (const Level l : kLargeLevels) {
    LargeRegion& r = slot.large(gfn, l);
    r.disallow |= LargeRegion::kExecSplit;
    g.owe(rmap_zap_head(s, Entries<S>(g.held()), r.rmap));
  }
}

/// Whether entries of this page change with who uses it: CR0.WP = 0, and the page is the user's to read. One large
/// entry could not serve an instruction that the user fetches from one part of it and whose event is pushed to another
/// part.
template <class S>
[[nodiscard]] bool rewritable(const Fault<S>& f) noexcept {
  const guest::Paging& p = f.v.paging;
  const bool tables = p.mode() != GuestMode::NonPaging && p.mode() != GuestMode::Direct;
  return tables && !p.wp() && f.granted.user() && !f.granted.write();
}

/// Returns: the level at which the fault's page is to be mapped.
template <class S>
[[nodiscard]] Level goal_level(Fault<S>& f, ExclusiveGuard<S>& g) noexcept {
  if (f.slot == nullptr || rewritable(f)) return Level{1};
  const Level l = mapping_level(f.s, *f.slot, f.walk.gfn, f.backing, Level{f.walk.level});
  if (l == Level{1} || !f.s.caps.nx_huge || !f.request.fetch) return l;
  split_for_exec(f.s, g, *f.slot, f.walk.gfn);
  return Level{1};
}

/// Effects: entry i of p says that f's page is MMIO. A leaf that stands there is dropped first, rmap entry and all.
template <class S>
void set_mmio(Fault<S>& f, ExclusiveGuard<S>& g, typename S::Page& p, unsigned i) noexcept {
  S& s = f.s;
  g.owe(zap_entry(s, g.held(), p, i));
  const MmioSpec m{f.walk.gfn, f.walk.rights, MmioGeneration<S>::stored(f.mmio_generation)};
  S::Memory::template store<Order::Relaxed>(p.table[i], S::Arch::make_mmio(s.caps, m));  // it leads nowhere
  p.live = static_cast<std::uint16_t>(p.live + 1U);
  S::Memory::plain(s.mmio_entries, S::Memory::plain(s.mmio_entries) + 1);
  if constexpr (wants(S::Reclaim::kHooks, Hook::Entry)) s.reclaim.on_entry(p, p.live);
}

enum class Fetched : std::uint8_t { Fixed, Spurious, WriteRefused, Retry, OutOfMemory };

/// Effects: follows the shadow tables down to where the leaf belongs, making what is missing, and sets it.
template <class S>
[[nodiscard]] Fetched fetch(Fault<S>& f, ExclusiveGuard<S>& g) noexcept {
  using Arch = typename S::Arch;
  S& s = f.s;
  auto& v = f.v;
  Level goal = goal_level(f, g);
  auto* p = path_start(f, goal);
  // Where a page may be evicted for one that is missing, the whole path counts as walked, from the root on.
  const bool tight = near_limit(s);
  if (tight && p != nullptr && (v.holding.on || !Arch::present(entry<S>(*p, p->role.level().index(f.address.value())))))
    p = root_page(s, v, f.address);
  if (p == nullptr) {
    S::Memory::template store<Order::Relaxed>(v.reload, 1);
    return Fetched::Retry;
  }
  const bool direct_mode = v.paging.mode() == GuestMode::NonPaging || v.paging.mode() == GuestMode::Direct;
  const bool from_root = p->role.level() > Level{2};
  WalkedPages<S> walked;
  bool making = false;
  while (p->role.level() > goal) {
    const Level l = p->role.level();
    const unsigned i = l.index(f.address.value());
    if (p->flood != 0) p->flood = 0;
    if (tight) {
      walked.add(*p);
      if (!making && child_of(s, *p, i) == nullptr) note_making(s, v, f.address.value());
      making = making || child_of(s, *p, i) == nullptr;
    }
    typename S::Page* child = nullptr;
    if (!direct_mode && l.value() > f.walk.level) {
      const unsigned down = l.value() - 1;
      if (const std::uint64_t e = entry<S>(*p, i); Arch::present(e)) {
        child = child_of(s, *p, i);
        // Upper tables are write-tracked: a large leaf, or a linked child that disagrees, means that the walk is older
        // than the entry. The entry goes all the same, so that no lost write can make this a retry for ever.
        if (child == nullptr || child->gfn != f.walk.table(down) || child->role.access() != f.walk.above(down) ||
            child->role.direct()) {
          g.owe(zap_entry(s, g.held(), *p, i));
          return Fetched::Retry;
        }
      } else {
        const unsigned q =
            v.paging.mode() == GuestMode::Bits32 ? static_cast<unsigned>(f.address.value() >> l.shift()) & 1U : 0U;
        const Role role = v.role.with_level(l.down()).with_access(f.walk.above(down)).with_quadrant(q);
        // What is unsync of a table that becomes an upper one goes before, a few pages in each critical section.
        if (role.level() > Level{1} && !zap_unsync_of(s, g, f.walk.table(down))) return Fetched::Retry;
        for (;;) {
          child = get_page(s, g, f.walk.table(down), role, v.magazine);
          if (child == nullptr) return Fetched::OutOfMemory;
          if (!gpte_unchanged(f, l.value())) return Fetched::Retry;
          if (link_child(s, g, *p, i, *child)) break;
          prepare_zap(s, g, *child);  // a new page is not unsync
        }
        // The new page may shadow a table inside the very page that is to be mapped: no large mapping over it.
        goal = goal_level(f, g);
      }
    } else {
      // The guest's table is tracked from here on; before it was, the guest may have changed the entry unseen. What the
      // entry leads to may have leaves already, so that the look comes before the link.
      if (!p->role.direct() && !gpte_unchanged(f, f.walk.level)) return Fetched::Retry;
      // Keyed by all that the tables say of the page, D included, and not by what CR0.WP = 0 makes of it: an
      // instruction that executes from and writes to one large page needs both entries in one child.
      const Role role = v.role.with_access(f.granted).with_clean(!direct_mode && f.walk.clean);
      child = direct_child(s, g, v, *p, i, f.walk.gfn, role);
      if (child == nullptr) return Fetched::OutOfMemory;
    }
    p = child;
    if (from_root && p->role.level() == Level{2}) remember_path(f, *p);
  }
  if (tight && v.holding.on) {
    walked.each([&](typename S::Page& q) { hold(s, v, q); });
    hold(s, v, *p);
  }
  if (!direct_mode && !gpte_unchanged(f, f.walk.level)) return Fetched::Retry;
  const unsigned i = goal.index(f.address.value());
  if (f.slot == nullptr) {
    set_mmio(f, g, *p, i);
    return Fetched::Fixed;
  }
  const MapRequest r{
      f.walk.gfn, f.backing, f.walk.rights, goal, f.request.write, true, f.window || f.supervisor_window};
  const Mapped m = set_leaf(s, g, v, *f.slot, *p, i, r);
  if (m == Mapped::WriteRefused) return Fetched::WriteRefused;
  if constexpr (S::Config::kPrefetch > 1)
    if (m == Mapped::Installed && goal == Level{1} && !p->role.direct()) prefetch(f, g, *p, i);
  return m == Mapped::Spurious ? Fetched::Spurious : Fetched::Fixed;
}

/// Effects: maps the neighbours of entry i in its aligned window whose gptes are present and accessed already, where
/// that costs no allocation. Never while the host invalidates anything.
template <class S>
void prefetch(Fault<S>& f, ExclusiveGuard<S>& g, typename S::Page& p, unsigned i) noexcept {
  S& s = f.s;
  if (S::Memory::plain(s.invalidating) != 0) return;
  constexpr unsigned kWindow = S::Config::kPrefetch;
  // The window's gptes share a cache line with the one that was walked.
  const unsigned first = i & ~(kWindow - 1);
  if (p.role.gpte_bytes() == 4)
    prefetch_window<guest::Bits32>(f, g, p, first, static_cast<const std::uint32_t*>(f.walk.leaf) - (i - first));
  else
    prefetch_window<guest::Long4>(f, g, p, first, static_cast<const std::uint64_t*>(f.walk.leaf) - (i - first));
}
template <class Format, class S>
void prefetch_window(Fault<S>& f, ExclusiveGuard<S>& g, typename S::Page& p, unsigned first,
                     const typename Format::Entry* gptes) noexcept {
  S& s = f.s;
  constexpr std::uint64_t kUsed = guest::kEntryPresent | guest::kEntryAccessed;
  // Most windows hold nothing but the entry that faulted: count first, look closer only then.
  std::uint64_t present = 0;
  for (unsigned n = 0; n < S::Config::kPrefetch; ++n)
    present += S::Memory::template load<Order::Relaxed>(gptes[n]) & guest::kEntryPresent;
  if (present <= 1) return;
  std::uint64_t used = 0;
  for (unsigned n = 0; n < S::Config::kPrefetch; ++n)
    used |= static_cast<std::uint64_t>((S::Memory::template load<Order::Relaxed>(gptes[n]) & kUsed) == kUsed ? 1U : 0U)
            << n;
  for (; used != 0; used &= used - 1) {
    const auto n = static_cast<unsigned>(std::countr_zero(used));
    const unsigned j = first + n;
    const std::uint64_t e = S::Memory::template load<Order::Relaxed>(gptes[n]);
    if (entry<S>(p, j) != 0 || (e & kUsed) != kUsed || f.v.paging.reserved_set(e, 1)) continue;
    const Gfn gfn = Format::frame(e);
    SlotOf<S>* slot = f.slots->find(gfn, f.v.slot_hint);
    if (slot == nullptr || !slot->has_heads(gfn)) continue;
    Access rights = p.role.access() & f.v.paging.grants(e);
    if ((e & guest::kEntryDirty) == 0) rights = rights.without(Access::kWrite);
    const Backing b = s.host.backing(gfn, false);
    if (b.kind != Backing::Kind::Memory || !addressable(s, b)) continue;
    if (s.cells.available() < 2) return;
    set_leaf(s, g, f.v, *slot, p, j, MapRequest{gfn, b, rights, Level{1}, false, false, false});
    s.stats.add(&Counters::prefetched);
  }
}

/// Returns: whether the walk read a table in a slot that is going: what it found must not be shadowed any more.
template <class S>
[[nodiscard]] bool walked_retiring(const Fault<S>& f) noexcept {
  if (!f.slots->changing()) return false;
  const GuestMode m = f.v.paging.mode();
  const unsigned top = m == GuestMode::Long4 ? 4U : m == GuestMode::Pae || m == GuestMode::Bits32 ? 2U : 0U;
  for (unsigned l = f.walk.level; l <= top; ++l)
    if (f.slots->retiring(f.walk.table(l))) return true;
  return false;
}

/// Effects: remembers in the shadow tables and in the vCPU that f's page is nobody's memory. What prevents it (an
/// update in progress, no page to be had) costs the memory only: the answer to the fault stands.
template <class S>
void remember_mmio(Fault<S>& f) noexcept {
  S& s = f.s;
  ExclusiveGuard<S> g(s);
  s.stats.add(&Counters::faults);
  s.stats.add(&Counters::faults_mmio);
  if (f.walk.gfn.value() >= kMaxGfn || !MmioGeneration<S>::stable(f.mmio_generation)) return;
  // After an invalidation the guest's tables may lie elsewhere: what the walk read from cannot be read again.
  if (!slots_unchanged(f) || walked_retiring(f) || invalidated_meanwhile(s, f.walk.gfn, f.invalidate_seq)) return;
  if (!well_supplied(s) && (!make_pages_available(s, g) || !reserve_metadata(s, g, f.v.magazine))) return;
  if (f.v.path.epoch != s.epoch && root_stale(s, f.v)) return;
  if (fetch(f, g) != Fetched::Fixed) return;
  f.v.mmio = LastMmio{f.mmio_generation, f.address.value() >> kPageShift, f.walk.gfn, f.walk.rights};
}

/// Answers a fault on an entry that grants the access already. Mostly a TLB held an older entry, or another vCPU was
/// faster: the guest runs on. With SMAP there is one more reason. An implicit supervisor access (to a descriptor table
/// or a TSS) ignores AC at every CPL, and nothing reports that an access was implicit. So where AC alone made the
/// software walk grant the access, the TLB entry is flushed, and hardware that refuses three times with nothing else
/// between has refused an implicit access: the guest gets its fault. A write has set D by then, which the guest may
/// take for a write that came first. Source: SDM vol. 3, 4.6.1.
template <class S>
[[nodiscard]] FaultOutcome explain_spurious(Fault<S>& f) noexcept {
  constexpr unsigned kDoubts = 2;
  auto& v = f.v;
  const std::uint64_t page = f.address.value() >> kPageShift;
  if (!f.smap_lifted || !f.granted.user()) {
    v.doubt = Doubt{};
    return FaultOutcome::of(FaultOutcome::Kind::Resume);
  }
  v.doubt = Doubt{page, v.doubt.page == page ? v.doubt.times + 1U : 1U};
  if (v.doubt.times <= kDoubts) {
    f.s.flush(FlushOwed::range(page, 1), v.id);  // by guest address: this vCPU alone knows it by that
    return FaultOutcome::of(FaultOutcome::Kind::Resume);
  }
  v.doubt = Doubt{};
  return FaultOutcome::inject(PageFault{f.address, f.request.error_bits() | pferr::kPresent});
}

/// Effects: the part of a fault that needs the lock. Requires: f.slot, f.backing resolved; the magazine filled.
template <class S>
[[nodiscard]] FaultOutcome install(Fault<S>& f) noexcept {
  using Kind = FaultOutcome::Kind;
  S& s = f.s;
  ExclusiveGuard<S> g(s);
  s.stats.add(&Counters::faults);
  if (!slots_unchanged(f) || invalidated_meanwhile(s, f.walk.gfn, f.invalidate_seq) || walked_retiring(f)) {
    s.stats.add(&Counters::faults_retried);
    return FaultOutcome::of(Kind::Retry);
  }
  if (!well_supplied(s) && (!make_pages_available(s, g) || !reserve_metadata(s, g, f.v.magazine)))
    return FaultOutcome::of(Kind::OutOfMemory);
  // After reclaim, which may have taken the root itself. A root below which v remembers a directory has not gone while
  // the epoch stands.
  if (f.v.path.epoch != s.epoch && root_stale(s, f.v)) {
    s.stats.add(&Counters::faults_retried);
    return FaultOutcome::of(Kind::Retry);
  }
  switch (fetch(f, g)) {
    case Fetched::Fixed:
      if (f.v.doubt.times != 0) f.v.doubt = Doubt{};
      s.stats.add(&Counters::faults_fixed);
      return FaultOutcome::of(Kind::Resume);
    case Fetched::Spurious:
      s.stats.add(&Counters::faults_spurious);
      return explain_spurious(f);
    case Fetched::WriteRefused: {
      s.stats.add(&Counters::faults_emulated);
      FaultOutcome o =
          FaultOutcome::at(Kind::Emulate, address_of(f.walk.gfn) + (f.address.value() & kPageMask), f.request);
      o.address = f.address.value();
      o.reason = EmulateReason::TrackedWrite;
      return o;
    }
    case Fetched::Retry:
      s.stats.add(&Counters::faults_retried);
      return FaultOutcome::of(Kind::Retry);
    case Fetched::OutOfMemory:
      break;
  }
  return FaultOutcome::of(Kind::OutOfMemory);
}

}  // namespace shadowmmu::core
