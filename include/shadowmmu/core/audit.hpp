// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/audit_report.hpp"
#include "shadowmmu/core/audit_vcpus.hpp"
#include "shadowmmu/core/sync.hpp"

namespace shadowmmu::core {

/// Checks that hold whenever the lock is free. Complexity: O(pages * 512 + frames and regions of the slots), rmap
/// chains each scanned per entry.
template <class S>
class Audit : AuditNotes {
 public:
  Audit(S& s, const ExclusiveGuard<S>& g) noexcept : s_(s), held_(g.held()) {}

  [[nodiscard]] AuditReport run() noexcept {
    check_lists();
    for (PageIndex i = 1; i < s_.pages.end(); ++i)
      if (auto& p = s_.page(i); p.index == i && p.life == PageLife::Linked) check_page(p);
    check_rmaps();
    check_cells();
    VcpuAudit<S>(s_, *this).run();
    expect(mmio_ == S::Memory::plain(s_.mmio_entries), "MMIO entries are miscounted", mmio_);
    expect(report.leaves == report.rmap_entries, "leaf entries and rmap entries differ in number", 0);
    expect(report.pages == s_.hash.size(), "hash size and linked pages differ", report.pages);
    return report;
  }

 private:
  using Page = typename S::Page;
  using Arch = typename S::Arch;

  void check_lists() noexcept {
    std::uint32_t n = 0;
    for (auto& p : s_.live) {
      n += 1;
      expect(p.life == PageLife::Linked && p.generation == s_.generation,
             "live list holds a page of another generation", p.index);
    }
    for (auto& p : s_.obsolete) {
      n += 1;
      expect(p.life == PageLife::Linked && p.generation != s_.generation, "obsolete list holds a valid page", p.index);
    }
    report.pages = n;
    std::uint32_t waiting = 0;
    for (auto& p : s_.invalid) {
      report.invalid += 1;
      expect(p.roots != 0 && p.life == PageLife::Invalid, "invalid list holds an unused page", p.index);
    }
    for (auto& p : s_.dropped) {
      waiting += 1;
      expect(p.life == PageLife::Zapped, "a page waiting for its release is not zapped", p.index);
    }
    expect(s_.covered <= s_.generations && s_.generation == static_cast<typename S::Generation>(s_.generations),
           "generations are miscounted", s_.generations);
    expect(n + report.invalid + waiting == s_.used, "pages used are not live + obsolete + invalid + waiting", s_.used);
    const std::uint32_t deferred = s_.deferred.count();
    expect(s_.deferred.waiting.size() + s_.deferred.filling.size() == deferred, "deferred pages are miscounted",
           deferred);
    expect(deferred <= S::Config::kDeferredPages, "more pages wait for readers than may", deferred);
    expect(s_.used + deferred == s_.tables && s_.tables == s_.pages.used(), "table frames and pages differ in number",
           s_.tables);
  }

  void check_page(Page& p) noexcept {
    bool hashed = false;
    for (auto& q : s_.hash.bucket(p.gfn)) hashed = hashed || &q == &p;
    expect(hashed, "a linked page is not hashed", p.index);
    unsigned live = 0;
    unsigned own = 0;
    for (unsigned i = 0; i < kEntriesPerTable; ++i) {
      const std::uint64_t e = entry<S>(p, i);
      if (e == 0) continue;
      live += 1;
      if (const Page* c = child_of(s_, p, i); c != nullptr) own += S::Parents::single(s_.cells, c->parents) ? 1U : 0U;
      if (!Arch::present(e))
        check_mmio(p, e);
      else if (is_leaf<S>(p, e))
        check_leaf(p, i, e);
      else
        check_link(p, i, e);
    }
    expect(!p.walked, "a page is kept for a fault that is over", p.index);
    expect(p.synced <= s_.last_sync, "a page has seen a sync that has not begun", p.index);
    expect(live == p.live, "live count differs from the entries", p.index);
    expect(!wants(S::Reclaim::kHooks, Hook::Strand) || own == p.own_children, "own children are miscounted", p.index);
    if constexpr (Arch::kGuests.indirect())
      // A page of an earlier generation serves, until its vCPU reloads, as a TLB would: it is not kept in sync.
      if (!p.role.direct() && !p.unsync && p.role.level() == Level{1} && !s_.obsolete_page(p)) check_rights(p);
    check_parents(p);
    check_unsync(p);
    check_tracking(p);
  }

  void check_mmio(Page& p, std::uint64_t e) noexcept {
    expect(Arch::mmio(e) && p.role.level() == Level{1}, "an entry is neither present, empty nor MMIO", p.index);
    mmio_ += 1;
  }

  void check_leaf(Page& p, unsigned i, std::uint64_t e) noexcept {
    report.leaves += 1;
    const Gfn gfn = leaf_gfn<S>(p, i, e);
    SlotOf<S>* slot = s_.snapshot->find_any(gfn);
    expect(slot != nullptr, "a leaf maps a gfn that no slot owns", p.index);
    if (slot == nullptr) return;
    const Level level = p.role.level();
    const std::uint32_t* head = slot->rmap(gfn, level);
    unsigned seen = 0;
    if (head != nullptr)
      S::Rmap::for_each(s_.cells, *head, [&](EntryHandle h) { seen += h == EntryHandle(p.index, i) ? 1U : 0U; });
    expect(seen == 1, "a leaf has not exactly one rmap entry", p.index);
    if (S::Memory::plain(s_.invalidating) == 0) {
      const Backing b = s_.host.backing(gfn, false);
      expect(Arch::address(e) == address_of(b.pfn), "a leaf maps another frame than the Host's", gfn.value());
      expect(!Arch::writable(e) || slot->settling() || (b.kind != Backing::Kind::ReadOnly && !slot->read_only()),
             "a leaf lets read-only memory be written", gfn.value());
    }
    expect(!Arch::writable(e) || Arch::mmu_writable(e), "a writable leaf is not marked so", p.index);
    expect(!Arch::mmu_writable(e) || Arch::host_writable(e), "a writable leaf is not marked host-writable", p.index);
    expect(level == Level{1} || slot->large(gfn, level).disallow == 0, "a large leaf where none is allowed",
           gfn.value());
    // Where logs are taken without the lock, a mark may go some time before its leaf is protected.
    if (!S::kLockless && Arch::writable(e) && level == Level{1} && slot->log() == DirtyMethod::WriteProtect) {
      const std::uint64_t n = gfn - slot->first();
      const std::uint64_t* word = slot->log_word(n >> 6U);
      expect(word != nullptr && (S::Memory::plain(*word) >> (n & 63U) & 1U) != 0,
             "a logged page may be written and is not in the log", gfn.value());
    }
    if (Arch::writable(e) || (p.role.direct() && Arch::mmu_writable(e))) check_writable(*slot, gfn, level);
    expect(!p.role.clean() || !Arch::writable(e), "a leaf below a clean large guest page may be written", gfn.value());
    expect(!p.role.direct() || !Arch::writable(e) || p.role.access().write() || !p.role.wp(),
           "a leaf of a direct page grants more than its key", gfn.value());
  }

  void check_writable(SlotOf<S>& slot, Gfn first, Level level) noexcept {
    if (level != Level{1}) return;  // the disallow count speaks for large leaves
    const TrackCount t = slot.track(first);
    if (t.upper == 0 && t.leaf == 0) return;
    for (auto& v : s_.vcpus)
      for (const WriteWindow& w : v.window)
        if (w.open && w.gfn == first) return;
    expect(t.upper == 0, "a writable leaf maps a write-tracked table", first.value());
    for (auto& q : s_.hash.bucket(first))
      if (q.gfn == first && !q.role.direct() && !s_.obsolete_page(q))
        expect(q.unsync, "a writable leaf maps a synced leaf table", first.value());
  }

  /// A table in ROM never gets its D bits: writes go on without. While a change of flags settles, such leaves are
  /// there.
  [[nodiscard]] bool gets_bits(SlotOf<S>& slot, Gfn table) noexcept {
    return !slot.settling() && !keeps_bits(s_, slot, table);
  }
  /// The leaves of a synced table grant no more than the guest's entries.
  void check_rights(Page& p) noexcept requires(Arch::kGuests.indirect()) {
    SlotOf<S>* const slot = s_.snapshot->find_any(p.gfn);
    const void* table = slot == nullptr ? nullptr : s_.host.guest_page(p.gfn);
    if (table == nullptr) return;
    const guest::Paging paging = paging_of(s_, p.role);
    const bool gets_d = gets_bits(*slot, p.gfn);
    for (unsigned i = 0; i < kEntriesPerTable; ++i)
      if (const std::uint64_t e = entry<S>(p, i); Arch::present(e))
        check_rights(p, i, e, gpte_of<S>(table, p, i), paging, gets_d);
  }
  void check_rights(Page& p, unsigned i, std::uint64_t e, std::uint64_t g, const guest::Paging& paging,
                    bool gets_d) noexcept {
    Access most = p.role.access() & paging.grants(g);
    const bool clean = (g & guest::kEntryDirty) == 0 && gets_d;
    if (clean) most = most.without(Access::kWrite);
    const Access have = Arch::rights(e);
    // CR0.WP = 0: the supervisor may write what the tables call read-only, once D says so.
    const bool rewritten = !p.role.wp() && have.write() && !have.user();
    if (rewritten && !clean) most = most.with(Access::kWrite);
    expect_of_guest((g & guest::kEntryPresent) != 0, "a leaf of a synced table outlived its guest entry", p.index);
    expect_of_guest((have.bits() & ~most.bits()) == 0, "a leaf of a synced table grants more than the guest", p.index);
    const Gfn gfn = p.role.gpte_bytes() == 4 ? guest::Bits32::frame(g) : guest::Long4::frame(g);
    expect_of_guest(gfn == leaf_gfn<S>(p, i, e), "a leaf of a synced table maps another gfn than the guest", p.index);
  }

  void check_link(Page& p, unsigned i, std::uint64_t e) noexcept {
    Page& c = *child_of(s_, p, i);  // the entry is a link: that is why it is looked at here
    expect(c.life == PageLife::Linked, "an entry points at a page that is gone", p.index);
    expect(Arch::address(e) == s_.table_address(c), "an entry and its side word disagree", p.index);
    expect(c.generation == p.generation, "a page of another generation is reachable", p.index);
    expect(c.role.level().up() == p.role.level(), "a child has the wrong level", p.index);
    expect(
        !p.role.direct() || (c.role.direct() && c.role.clean() == p.role.clean() && c.role.access() == p.role.access()),
        "a direct page's child has another key", p.index);
    expect(!c.role.clean() || !c.role.access().write(), "what is keyed as clean is keyed as writable, too", c.index);
    if constexpr (Arch::kGuests.indirect())
      if (!p.role.direct() && c.role.direct() && !s_.obsolete_page(p)) check_large(p, i, c);
    unsigned seen = 0;
    S::Parents::for_each(s_.cells, c.parents, [&](EntryHandle h) { seen += h == EntryHandle(p.index, i) ? 1U : 0U; });
    expect(seen == 1, "a child does not know its parent", c.index);
    if (p.unsync_map != 0 && (c.unsync || c.unsync_children != 0))
      expect((S::Memory::plain(s_.cells.at(p.unsync_map)->bits[i >> 6U]) >> (i & 63U) & 1U) != 0,
             "an unsync child is not in the bitmap", p.index);
  }

  /// The direct child of a guest's large page: its key says what the guest's entry says.
  void check_large(Page& p, unsigned i, Page& c) noexcept requires(Arch::kGuests.indirect()) {
    std::uint64_t g = 0;
    if (!large_gpte_of(s_, p, i, g) || (g & guest::kEntryPresent) == 0) return;  // its writer has not reported yet
    const guest::Paging paging = paging_of(s_, p.role);
    if (!paging.maps_page(g, p.role.level().value())) return;
    const bool clean = (g & guest::kEntryDirty) == 0 && gets_bits(*s_.snapshot->find_any(p.gfn), p.gfn);
    expect_of_guest(!clean || c.role.clean() || (p.role.wp() && !c.role.access().write()),
                    "a child of a clean large guest page is keyed as dirty", p.index);
  }

  void check_parents(Page& p) noexcept {
    if (S::Parents::empty(p.parents) && p.roots == 0) report.orphans += 1;
    S::Parents::for_each(s_.cells, p.parents, [&](EntryHandle h) {
      Page& q = s_.page(h.page());
      expect(q.life == PageLife::Linked && child_of(s_, q, h.entry()) == &p, "a parent does not point back", p.index);
    });
  }

  void check_unsync(Page& p) noexcept {
    expect(!p.unsync || (p.role.level() == Level{1} && !p.role.direct()), "a page that is no leaf table is unsync",
           p.index);
    if (p.unsync_map == 0) {
      expect(p.unsync_children == 0, "unsync children are counted without a bitmap", p.index);
      return;
    }
    unsigned bits = 0;  // counted by hand: popcount may become a call into the compiler's library
    for (const std::uint64_t& cell : s_.cells.at(p.unsync_map)->bits)
      for (std::uint64_t w = S::Memory::plain(cell); w != 0; w &= w - 1) bits += 1;
    expect(bits == p.unsync_children, "unsync count differs from the bitmap", p.index);
  }

  void check_tracking(Page& p) noexcept {
    if (p.role.direct()) return;
    SlotOf<S>* slot = s_.snapshot->find_any(p.gfn);
    expect(slot != nullptr, "a page shadows a table that no slot owns", p.gfn.value());
    if (slot == nullptr) return;
    unsigned upper = 0;
    unsigned leaf = 0;
    for (auto& q : s_.hash.bucket(p.gfn)) {
      if (q.gfn != p.gfn || q.role.direct()) continue;
      if (upper + leaf == 0 && &q == &p) tracked_ += 1;  // each frame once
      (q.role.level() > Level{1} ? upper : leaf) += 1;
    }
    expect(!p.unsync || upper == 0, "a table let go unsync is a directory too", p.gfn.value());
    const TrackCount t = slot->track(p.gfn);
    expect(t.upper == upper && t.leaf == leaf, "tracking counts differ from the pages", p.gfn.value());
  }

  void check_rmaps() noexcept {
    std::uint32_t logs = 0;
    std::uint64_t reasons = 0;
    for (unsigned i = 0; i < s_.snapshot->count(); ++i) {
      SlotOf<S>& slot = *s_.snapshot->at(i);
      if (slot.log() != DirtyMethod::Off) logs += 1;
      reasons += slot.reasons_by_tables();
      slot.for_each_rmap([&](const std::uint32_t& head, Gfn gfn, Level level) {
        cells_ += S::Rmap::descriptors(s_.cells, head);
        S::Rmap::for_each(s_.cells, head, [&](EntryHandle h) {
          report.rmap_entries += 1;
          Page& p = s_.page(h.page());
          const std::uint64_t e = entry<S>(p, h.entry());
          const bool good = p.life == PageLife::Linked && p.role.level() == level && Arch::present(e) &&
                            is_leaf<S>(p, e) && leaf_gfn<S>(p, h.entry(), e) == gfn;
          expect(good, "an rmap entry names no leaf of its gfn", gfn.value());
        });
      });
    }
    expect(logs == s_.logs, "dirty logs are miscounted", logs);
    expect(reasons == tracked_ * (sizeof(kLargeLevels) / sizeof(Level)), "reasons against large pages are miscounted",
           reasons);
  }

  /// Descriptors and bitmaps: none is lost, none serves two.
  void check_cells() noexcept {
    for (PageIndex i = 1; i < s_.pages.end(); ++i) {
      const Page& p = s_.page(i);
      if (p.index != i || p.life == PageLife::Free) continue;
      cells_ += S::Parents::descriptors(s_.cells, p.parents) + (p.unsync_map != 0 ? 1U : 0U);
    }
    expect(cells_ == s_.cells.used(), "descriptors of lists are lost", cells_);
  }

  S& s_;
  Structure<S> held_;
  std::uint64_t mmio_ = 0;
  std::uint64_t tracked_ = 0;  ///< frames with tables that have shadow pages
  std::uint64_t cells_ = 0;
};

}  // namespace shadowmmu::core
