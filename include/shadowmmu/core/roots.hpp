// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/core/pages.hpp"
#include "shadowmmu/core/reclaim.hpp"
#include "shadowmmu/core/sync.hpp"

/// Root pages of a vCPU: loaded for its CR3 and role, kept pinned while in use, remembered weakly afterwards.
namespace shadowmmu::core {

/// Whether the hardware walks four PDPTEs (guest not in long mode) rather than one top table.
template <class S>
[[nodiscard]] constexpr bool pae_shape(GuestMode m) noexcept {
  if constexpr (S::Arch::kGuests.indirect() || S::Arch::kGuests.has(GuestMode::NonPaging))
    return m != GuestMode::Long4;
  else
    return false;
}
template <class S>
[[nodiscard]] bool pae_shape(const typename S::Vcpu& v) noexcept {
  return pae_shape<S>(v.paging.mode());
}

/// Returns: the root page that serves the address, or nullptr (no root loaded, or a dummy one).
template <class S>
[[nodiscard]] typename S::Page* root_page(S& s, typename S::Vcpu& v, Gva a) noexcept {
  return s.strong(v.root.page[pae_shape<S>(v) ? a.value() >> 30U & 3U : 0U]);
}

/// Returns: whether some root page is obsolete or invalid. Dummy roots, having no page, are not.
template <class S>
[[nodiscard]] bool root_stale(S& s, const typename S::Vcpu& v) noexcept {
  if (!v.root.loaded) return true;
  for (const WeakPage& w : v.root.page) {
    if (w.index == kNoPage) continue;
    const auto* p = s.strong(w);
    if (p == nullptr || s.obsolete_page(*p)) return true;
  }
  return false;
}

/// Returns: root table | level of root page i, as readers find it; 0 where there is none.
template <class S>
[[nodiscard]] std::uint64_t root_word(S& s, const typename S::Vcpu& v, unsigned i) noexcept {
  const auto* p = s.strong(v.root.page[i]);
  return p == nullptr ? 0 : s.table_address(*p).value() | p->role.level().value();
}
/// Effects: readers find the vCPU's root. Requires: it is valid; whatever makes it obsolete hides it in the same
/// critical section. Locking: the Mmu's lock.
template <class S>
void show_root([[maybe_unused]] S& s, [[maybe_unused]] typename S::Vcpu& v) noexcept {
  if constexpr (S::kShowsVcpus) {
    std::uint64_t word = root_word(s, v, 0);
    for (unsigned i = 0; i < 4; ++i) {
      if (i != 0 && pae_shape<S>(v)) word = root_word(s, v, i);
      S::Memory::template store<Order::Release>(v.shown_root[i], word);
    }
  }
}

/// Returns: the table at which a walk of v's for `a` begins, and its level in the low bits; 0 where v has no root, or
/// none that it may run on.
template <class S>
[[nodiscard]] std::uint64_t first_table(S& s, const typename S::Vcpu& v, Gva a) noexcept {
  const unsigned i = a.value() >> 30U & 3U;
  if constexpr (S::kShowsVcpus) return S::Memory::template load<Order::Acquire>(v.shown_root[i]);
  const bool fit = S::Memory::plain(v.reload) == 0 && !root_stale(s, v) && v.root.role == v.role;
  return fit ? root_word(s, v, pae_shape<S>(v) ? i : 0U) : 0;
}

/// A walk of shadow tables by the entries that hardware reads: needs no metadata, so that any thread may do it.
/// Complexity: O(levels), an atomic load each. Locking: the lock, or a section where the lock policy has readers.
template <class S>
struct ShadowWalk {
  ShadowWalk(S& s, const typename S::Vcpu& v, Gva a) noexcept {
    std::uint64_t at = first_table(s, v, a);
    for (auto l = static_cast<unsigned>(at & kPageMask); l != 0; --l) {
      level = l;
      cell =
          static_cast<std::uint64_t*>(s.host.to_virt(Hpa{at & ~std::uint64_t{kPageMask}})) + Level{l}.index(a.value());
      // Sequentially consistent for fast_fault, which looks at a mark next (a plain load on x86).
      entry = S::Memory::template load<Order::SeqCst>(*cell);
      if (!S::Arch::present(entry)) return;
      leaf = S::Arch::leaf(entry, Level{l});
      if (leaf) return;
      at = S::Arch::address(entry).value();
    }
  }
  std::uint64_t* cell = nullptr;             ///< of the entry at which the walk ended; none: no root
  std::uint64_t entry = 0;                   ///< as it was read
  unsigned level = S::Arch::kRootLevel + 1;  ///< of that entry; root level + 1: no root
  bool leaf = false;                         ///< whether it is a present leaf
};

/// Effects: the vCPU has no root; it is remembered among the previous ones. Pages that were invalid are freed with the
/// last reference.
template <class S>
void unload_root(S& s, ExclusiveGuard<S>& g, typename S::Vcpu& v) noexcept {
  if (!v.root.loaded) return;
  let_go(s, v);
  hide_root<S>(v);
  bool whole = !root_stale(s, v);
  for (const WeakPage& w : v.root.page) {
    if (w.index == kNoPage) continue;
    if (auto* p = s.strong(w)) release_root(s, g, *p);
  }
  whole = whole && v.root.page[0].index != kNoPage && v.root.role.mode() != GuestMode::Pae;
  if constexpr (S::Config::kPreviousRoots != 0) {
    if (whole) {
      for (unsigned i = S::Config::kPreviousRoots - 1; i > 0; --i) v.previous[i] = v.previous[i - 1];
      v.previous[0] = v.root;
    }
  }
  v.root = RootSet{};
  v.path.epoch = ~std::uint64_t{0};
}

namespace detail {

/// Guest frame and shadow role of root page i, or false where that root is a dummy.
template <class S>
[[nodiscard]] bool root_spec(S& s, const typename S::Vcpu& v, unsigned i, Gfn& gfn, Role& role) noexcept {
  role = v.role.with_access(Access::all());
  switch (v.paging.mode()) {
    case GuestMode::Direct:
      gfn = Gfn{0};
      role = role.with_level(Level{S::Arch::kRootLevel}).with_direct(true);
      return i == 0;
    case GuestMode::NonPaging:
      gfn = Gfn{static_cast<std::uint64_t>(i) << 18U};
      role = role.with_level(Level{2}).with_direct(true);
      return true;
    case GuestMode::Bits32:
      gfn = guest::Bits32::frame(v.cr3);
      role = role.with_level(Level{2}).with_quadrant(i);
      break;
    case GuestMode::Pae:
      if ((v.pdpte[i] & guest::kEntryPresent) == 0) return false;
      gfn = guest::Pae::frame(v.pdpte[i]);
      role = role.with_level(Level{2});
      break;
    case GuestMode::Long4:
      if (i != 0) return false;
      gfn = guest::Long4::frame(v.cr3);
      role = role.with_level(Level{4});
      break;
  }
  unsigned hint = 0;
  return s.snapshot->find(gfn, hint) != nullptr;
}

template <class S>
[[nodiscard]] bool reuse_previous(S& s, typename S::Vcpu& v, std::uint64_t key) noexcept {
  if constexpr (S::Config::kPreviousRoots == 0) return false;
  if (v.paging.mode() == GuestMode::Pae) return false;  // keyed by four registers, not by CR3
  for (RootSet& r : v.previous) {
    if (!r.loaded || r.cr3 != key || r.role != v.role) continue;
    for (const WeakPage& w : r.page) {
      if (w.index == kNoPage) continue;
      const auto* p = s.strong(w);
      if (p == nullptr || s.obsolete_page(*p)) return false;
    }
    v.root = r;
    r = RootSet{};
    return true;
  }
  return false;
}

}  // namespace detail

enum class RootLoad : std::uint8_t {
  Loaded,
  Again,  ///< a table that becomes a root has more unsync pages than are zapped at once
  OutOfMemory,
};

/// Effects: loads the root for the vCPU's CR3 and role: a remembered one, one found by hash, or a new one. Errors:
/// OutOfMemory where not even a root can be had; Again only `in_slices`. Requires: magazine filled. Locking: exclusive.
template <class S>
[[nodiscard]] RootLoad load_root(S& s, ExclusiveGuard<S>& g, typename S::Vcpu& v, bool in_slices) noexcept {
  if (s.dummy_root == nullptr) s.dummy_root = static_cast<std::uint64_t*>(v.magazine.take_table());
  const std::uint64_t key = v.paging.mode() == GuestMode::NonPaging || v.paging.mode() == GuestMode::Direct ? 0 : v.cr3;
  if (detail::reuse_previous(s, v, key)) {
    s.stats.add(&Counters::roots_reused);
  } else {
    if (!make_pages_available(s, g) || !reserve_metadata(s, g, v.magazine)) return RootLoad::OutOfMemory;
    const unsigned n = pae_shape<S>(v) ? 4U : 1U;
    Gfn gfn;
    Role role;
    for (unsigned i = 0; i < n && in_slices; ++i)
      if (detail::root_spec(s, v, i, gfn, role) && !role.direct() && find_page(s, g.held(), gfn, role) == nullptr &&
          !zap_unsync_of(s, g, gfn))
        return RootLoad::Again;
    v.sync_due = true;  // pages found by hash may have missed any number of flushes
    const std::uint64_t created = s.serial;
    RootSet r;
    r.cr3 = key;
    r.role = v.role;
    r.loaded = true;
    WalkedPages<S> walked;
    for (unsigned i = 0; i < n; ++i) {
      if (!detail::root_spec(s, v, i, gfn, role)) continue;
      auto* p = find_page(s, g.held(), gfn, role);  // what lies below is brought up to date by the sync that is due
      if (p == nullptr) p = create_page(s, g, gfn, role, v.magazine);
      if (p == nullptr) return RootLoad::OutOfMemory;
      r.page[i] = WeakPage{p->index, p->serial};
      walked.add(*p);
    }
    v.root = r;
    s.stats.add(created == s.serial ? &Counters::roots_reused : &Counters::roots_built);
  }
  for (const WeakPage& w : v.root.page) {
    if (w.index == kNoPage) continue;
    auto& p = s.page(w.index);
    p.roots += 1;
    if constexpr (wants(S::Reclaim::kHooks, Hook::RootLoad)) s.reclaim.on_root_load(p);
  }
  if (pae_shape<S>(v)) {
    fill_pdpt(s, v);
    v.top = s.host.to_phys(v.pdpt + v.pdpt_slot * 4U);
  } else {
    const auto* p = s.strong(v.root.page[0]);
    v.top = p == nullptr ? s.host.to_phys(s.dummy_root) : s.table_address(*p);
  }
  show_root(s, v);
  return RootLoad::Loaded;
}

/// Effects: the next hardware PDPT of the frame names the four page directories; a missing one is not present. The
/// CPU reads PDPTEs only when CR3 is loaded: a new address makes the embedder load it.
template <class S>
void fill_pdpt(S& s, typename S::Vcpu& v) noexcept {
  if constexpr (requires { S::Arch::make_pdpte(Hpa{}); }) {
    v.pdpt_slot = (v.pdpt_slot + 1U) % (kEntriesPerTable / 4U);
    for (unsigned i = 0; i < 4; ++i) {
      const auto* p = s.strong(v.root.page[i]);
      S::Memory::plain(v.pdpt[v.pdpt_slot * 4U + i], p == nullptr ? 0 : S::Arch::make_pdpte(s.table_address(*p)));
    }
  }
}

/// Effects: fills the magazine. Under memory pressure obsolete pages, and zapped ones that wait, are freed first: they
/// never outlive it. Errors: OutOfMemory, with none of them left. Locking: none held; takes the lock under pressure.
template <class S>
[[nodiscard]] bool supply(S& s, typename S::Vcpu& v) noexcept {
  while (!v.magazine.ready() && !v.magazine.fill(s.host))
    if (!relieve(s)) return false;
  return true;
}

/// Effects: brings the vCPU to a loaded, valid, synced root. Errors: OutOfMemory. Locking: takes the lock where there
/// is work; none otherwise. Flush: a fresh root is loaded by the embedder through hw_state(), which flushes.
template <class S>
[[nodiscard]] bool refresh_root(S& s, typename S::Vcpu& v) noexcept {
  if (!v.magazine.ready() && !supply(s, v)) return false;
  if (pae_shape<S>(v) && v.pdpt == nullptr) {
    v.pdpt = static_cast<std::uint64_t*>(fresh_frame(s, FrameKind::TableBelow4G));
    if (v.pdpt == nullptr) return false;
  }
  ExclusiveGuard<S> g(s);
  if (S::Memory::template exchange<Order::Relaxed>(v.reload, 0) != 0) unload_root(s, g, v);
  if (v.root.loaded && root_stale(s, v)) unload_root(s, g, v);
  Attempts attempts{kMostUnsyncOfTable};
  for (Progress slices(attempts); !v.root.loaded; --attempts.left) {
    const RootLoad r = load_root(s, g, v, attempts.left != 0);
    if (r == RootLoad::OutOfMemory) {
      S::Memory::template store<Order::Relaxed>(v.reload, 1);
      return false;
    }
    if (r == RootLoad::Loaded) break;
    g.yield_after(slices, S::Config::kYieldPages);
  }
  if (v.sync_due) {
    if constexpr (S::Arch::kGuests.indirect()) sync_roots(s, g, v);
    v.sync_due = false;
  }
  return true;
}

/// Effects: as refresh_root, where there is anything to do. Complexity: four loads otherwise.
template <class S>
[[nodiscard]] inline bool ensure_root(S& s, typename S::Vcpu& v) noexcept {
  if (v.root.loaded && !v.sync_due && S::Memory::template load<Order::Relaxed>(v.reload) == 0) [[likely]]
    return true;
  return refresh_root(s, v);
}

}  // namespace shadowmmu::core
