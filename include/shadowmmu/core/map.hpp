// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/arch.hpp"
#include "shadowmmu/core/pages.hpp"
#include "shadowmmu/core/reader.hpp"

/// Installing one leaf, and how large it may be.
namespace shadowmmu::core {

/// What to map. `rights` are the guest's; the Host's and the tracker's restrictions come on top.
struct MapRequest {
  Gfn gfn{};  ///< of the 4 KiB page asked for
  const Backing& backing;
  Access rights{};
  Level level{1};      ///< of the entry to set
  bool write = false;  ///< the access writes
  bool may_unsync = true;
  bool window = false;  ///< a write window is open on gfn
};

enum class Mapped : std::uint8_t {
  Installed,
  Spurious,      ///< the entry said so already
  WriteRefused,  ///< in place, but the frame is write-tracked
};

/// Returns: whether a host invalidation in progress touches [first, first + pages).
template <class S>
[[nodiscard]] bool being_invalidated(const S& s, Gfn first, std::uint64_t pages) noexcept {
  return S::Memory::plain(s.invalidating) != 0 && first < s.invalidate_end && s.invalidate_first < first + pages;
}

/// Returns: the largest level that guest, host and slot allow for gfn, and no invalidation beside it.
template <class S>
[[nodiscard]] Level mapping_level(S& s, SlotOf<S>& slot, Gfn gfn, const Backing& b, Level guest) noexcept {
  if (slot.log() != DirtyMethod::Off) return Level{1};
  const unsigned top = min_of(min_of(b.level, guest).value(), s.caps.large_1g ? 3U : 2U);
  unsigned best = 1;
  for (unsigned l = 2; l <= top; ++l) {
    const std::uint64_t inside = Level{l}.frames() - 1;
    if ((b.pfn.value() & inside) != (gfn.value() & inside) || slot.large(gfn, Level{l}).disallow != 0 ||
        being_invalidated(s, Gfn{gfn.value() & ~inside}, inside + 1))
      break;
    best = l;
  }
  return Level{best};
}

/// Returns: whether entry i of p is a leaf that maps just this and is writable.
template <class S>
[[nodiscard]] bool written_already(typename S::Page& p, unsigned i, Pfn pfn, Gfn first) noexcept {
  using Arch = typename S::Arch;
  const std::uint64_t e = entry<S>(p, i);
  return Arch::present(e) && is_leaf<S>(p, e) && Arch::writable(e) && Arch::address(e) == address_of(pfn) &&
         leaf_gfn<S>(p, i, e) == first;
}

/// Effects: entry i of p maps r.gfn's page of r.level. An entry that maps another frame is dropped first: a present
/// leaf's frame is never replaced in place. Flush: by the guard. Complexity: O(1), plus O(rmap / 14) on a replacement.
template <class S>
Mapped place_leaf(S& s, ExclusiveGuard<S>& g, typename S::Vcpu& v, SlotOf<S>& slot, typename S::Page& p, unsigned i,
                  const MapRequest& r) noexcept {
  using Arch = typename S::Arch;
  const std::uint64_t inside = r.level.frames() - 1;
  const Gfn first{r.gfn.value() & ~inside};
  Access rights = r.rights;
  bool refused = false;
  const bool host_writable = r.backing.writable && !slot.read_only();
  if (!host_writable) rights = rights.without(Access::kWrite);
  // Under write protection a page becomes writable by a write, which the log must see, and by nothing else. What a
  // write has made writable stays so under a read that faults all the same (SMAP): else the two would take turns for
  // ever.
  const bool read_under_log = !r.write && rights.write() && slot.log() == DirtyMethod::WriteProtect;
  const bool keeps_write = read_under_log && written_already<S>(p, i, Pfn{r.backing.pfn.value() & ~inside}, first);
  const bool log_only = read_under_log && !keeps_write;
  if (log_only) rights = rights.without(Access::kWrite);
  if (r.level > Level{1} && s.caps.nx_huge) rights = rights.without(Access::kExec);
  if constexpr (Arch::kGuests.indirect()) {
    if (rights.write() && r.level == Level{1} && !r.window &&
        !may_write(s, Entries<S>(g.held()), slot, r.gfn, r.may_unsync)) {
      rights = rights.without(Access::kWrite);
      refused = r.write;
    }
  }
  LeafSpec spec;
  spec.pfn = Pfn{r.backing.pfn.value() & ~inside};
  spec.rights = rights;
  spec.level = r.level;
  spec.type = r.backing.type;
  spec.device = r.backing.kind == Backing::Kind::Device;
  spec.host_writable = host_writable;
  spec.dirty = r.write && rights.write();
  spec.mmu_writable = rights.write() || (log_only && !Arch::kGuests.indirect());
  const std::uint64_t fresh = Arch::make_leaf(s.caps, spec);

  std::uint64_t old = entry<S>(p, i);
  if (Arch::present(old)) {
    if (!is_leaf<S>(p, old)) {
      g.owe(unlink_child(s, g.held(), p, i));
      old = 0;
    } else if (Arch::address(old) != Arch::address(fresh) || leaf_gfn<S>(p, i, old) != first) {
      g.owe(drop_leaf(s, g.held(), p, i));
      old = 0;
    }
  }
  if (Arch::present(old)) {
    const Access lost = Access{Arch::rights(old).bits() & ~Arch::rights(fresh).bits()};
    if (lost.bits() == 0 && Arch::rights(old) == Arch::rights(fresh))
      return refused ? Mapped::WriteRefused : Mapped::Spurious;
    // Hardware sets A and D, a reader of the log takes W, and a fast fault gives it back, without the lock. D stays, or
    // is noted. W that the entry keeps without a write is not given back where a reader took it: he has taken the mark,
    // and nobody sets it again.
    std::uint64_t was = old;
    std::uint64_t now = 0;
    do {
      now = keeps_write && !Arch::writable(was) ? Arch::write_protected(fresh) : fresh;
      if (Arch::dirty(s.caps, was) && Arch::writable(now)) now = Arch::with_dirty(s.caps, now);
    } while (!S::Memory::template compare_exchange<Order::SeqCst>(p.table[i], was, now));
    if (Arch::dirty(s.caps, was) && !Arch::dirty(s.caps, now)) note_written(s, first, r.level);
    // An aged entry has no rights left to lose, but TLBs may know it as writable.
    if (lost.bits() != 0 || (Arch::mmu_writable(was) && !Arch::writable(now))) g.owe(flush_for<S>(p, i, was));
    return refused ? Mapped::WriteRefused : Mapped::Installed;
  }
  if (old != 0) drop_mmio(s, Entries<S>(g.held()), p, i);
  SideAccess<S>::set_leaf_gfn(p, i, first);
  std::uint32_t* head = slot.rmap(r.gfn, r.level);
  if (head == nullptr) {
    slot.give_heads(r.gfn, v.magazine.take_meta());
    head = slot.rmap(r.gfn, r.level);
  }
  const EntryHandle own(p.index, i);
  if (S::Rmap::crowded(s.cells, *head, own, S::Config::kLongChain)) {
    g.owe(rmap_zap_head(s, Entries<S>(g.held()), *head));
    s.stats.add(&Counters::rmap_zapped_long);
  }
  if (S::Rmap::add(s.cells, *head, own)) {
    S::Rmap::spread(s.cells, *head, kCellsOfFault);
    s.stats.peak(&Counters::rmap_longest, S::Rmap::length(s.cells, *head));
  }
  p.live = static_cast<std::uint16_t>(p.live + 1U);
  S::Memory::template store<Order::Release>(p.table[i], fresh);
  if constexpr (wants(S::Reclaim::kHooks, Hook::Entry)) s.reclaim.on_entry(p, p.live);
  return refused ? Mapped::WriteRefused : Mapped::Installed;
}

/// Effects: as place_leaf; a write is in the slot's log when this returns. The mark comes after the leaf: whoever takes
/// marks without the lock and write-protects afterwards either finds the leaf or leaves the mark for the next time.
template <class S>
Mapped set_leaf(S& s, ExclusiveGuard<S>& g, typename S::Vcpu& v, SlotOf<S>& slot, typename S::Page& p, unsigned i,
                const MapRequest& r) noexcept {
  const Mapped m = place_leaf(s, g, v, slot, p, i, r);
  if (r.write && m != Mapped::WriteRefused && slot.log() != DirtyMethod::Off) {
    // A mark that is set already is only looked at: not before the leaf can be seen.
    if constexpr (S::kLockless) S::Memory::template fence<Order::SeqCst>();
    slot.mark_dirty(r.gfn);
  }
  return m;
}

/// Effects: makes sure that entry i of p leads to the direct page of (gfn, access) one level down. Returns: it, or
/// nullptr where pages ran out. A leaf or a child of other rights that stands there is removed first.
template <class S>
[[nodiscard]] typename S::Page* direct_child(S& s, ExclusiveGuard<S>& g, typename S::Vcpu& v, typename S::Page& p,
                                             unsigned i, Gfn gfn, Role role) noexcept {
  const Level down = p.role.level().down();
  const Gfn base{gfn.value() & ~(p.role.level().frames() - 1)};
  const Role want = role.with_level(down).with_direct(true);
  if (auto* c = child_of(s, p, i); c != nullptr && c->role == want && c->gfn == base) return c;
  g.owe(zap_entry(s, g.held(), p, i));
  auto* c = get_page(s, g, base, want, v.magazine);
  return c != nullptr && link_child(s, g, p, i, *c) ? c : nullptr;  // no direct page is unsync
}

}  // namespace shadowmmu::core
