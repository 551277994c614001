// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/audit_report.hpp"
#include "shadowmmu/core/roots.hpp"

/// What is kept for each vCPU beside the tables, checked against them: its root and what CR3 names, what readers are
/// shown, the path that it remembers, the pages that it holds. Registers are left out: a vCPU changes its own without
/// the lock.
namespace shadowmmu::core {

/// Complexity: O(vCPUs + pages). Locking: exclusive.
template <class S>
class VcpuAudit {
 public:
  VcpuAudit(S& s, AuditNotes& notes) noexcept : s_(s), notes_(notes) {}

  void run() noexcept {
    for (auto& v : s_.vcpus) {
      check_root(v);
      check_top(v);
      check_shown(v);
      check_path(v);
      check_held(v);
    }
    std::uint64_t roots = 0;
    std::uint64_t held = 0;
    for (PageIndex i = 1; i < s_.pages.end(); ++i) {
      const Page& p = s_.page(i);
      if (p.index != i || p.life == PageLife::Free) continue;
      roots += p.roots;
      if (p.life != PageLife::Zapped) held += p.held;
    }
    notes_.expect(roots_ == roots, "root references differ from the vCPUs' roots", roots_);
    notes_.expect(held_ == held, "pages are held that no vCPU holds", held_);
    notes_.expect(holders_ == s_.holders, "vCPUs that hold pages are miscounted", holders_);
  }

 private:
  using Page = typename S::Page;
  using Vcpu = typename S::Vcpu;
  using Arch = typename S::Arch;

  /// Whether the root that is loaded is four directories; the vCPU's own mode may be another by now.
  [[nodiscard]] static bool four_directories(const Vcpu& v) noexcept { return pae_shape<S>(v.root.role.mode()); }

  void check_root(const Vcpu& v) noexcept {
    if (!v.root.loaded) return;
    const bool reload = S::Memory::plain(v.reload) != 0;
    for (const WeakPage& w : v.root.page) {
      if (w.index == kNoPage) continue;
      const Page* p = s_.strong(w);
      notes_.expect(p != nullptr, "a vCPU's root was freed under it", w.index);
      if (p == nullptr) continue;
      roots_ += 1;
      notes_.expect(reload || !s_.obsolete_page(*p), "an obsolete root without a pending reload", w.index);
    }
  }
  /// What CR3 or the EPT pointer names is the root that is loaded.
  void check_top(const Vcpu& v) noexcept {
    if (!v.root.loaded) return;
    bool same = true;
    if (four_directories(v)) {
      if constexpr (requires { Arch::make_pdpte(Hpa{}); }) {
        const std::uint64_t* pdpt = v.pdpt + v.pdpt_slot * 4U;
        same = v.top == s_.host.to_phys(pdpt);
        for (unsigned i = 0; i < 4; ++i) {
          const Page* p = s_.strong(v.root.page[i]);
          const std::uint64_t e = S::Memory::plain(pdpt[i]);
          // Not the whole word: QEMU's CPU sets A there.
          same =
              same && Arch::present(e) == (p != nullptr) && (p == nullptr || Arch::address(e) == s_.table_address(*p));
        }
      }
    } else {
      const Page* p = s_.strong(v.root.page[0]);
      same = v.top == (p == nullptr ? s_.host.to_phys(s_.dummy_root) : s_.table_address(*p));
    }
    notes_.expect(same, "hardware is given another root than the one that is loaded", v.number);
  }
  /// Readers are shown the root that is loaded, or none: its vCPU may have hidden it at any time. One that was zapped
  /// in use leads nowhere.
  void check_shown(const Vcpu& v) noexcept {
    if constexpr (S::kShowsVcpus)
      for (unsigned i = 0; i < 4; ++i) {
        const std::uint64_t word = S::Memory::plain(v.shown_root[i]);
        if (word == 0) continue;
        const unsigned at = four_directories(v) ? i : 0U;
        const Page* p = v.root.loaded ? s_.strong(v.root.page[at]) : nullptr;
        notes_.expect(p != nullptr && p->generation == s_.generation && (p->life == PageLife::Linked || p->live == 0),
                      "readers are shown a root that is gone", v.number);
        notes_.expect(p == nullptr || word == root_word(s_, v, at), "readers are shown another root", v.number);
      }
  }
  /// While the epoch stands, the directories that the vCPU remembers are those that its root leads to.
  void check_path(const Vcpu& v) noexcept {
    if (v.path.epoch != s_.epoch) return;
    notes_.expect(v.root.loaded && !root_stale(s_, v), "a path is remembered below a root that is gone", v.number);
    if (!v.root.loaded) return;
    for (unsigned i = 0; i < PathCache::kSlots; ++i) {
      if (v.path.page[i] == kNoPage) continue;
      const std::uint64_t region = v.path.region[i];
      const Page* p = s_.strong(v.root.page[four_directories(v) ? region & 3U : 0U]);
      while (p != nullptr && p->role.level() > Level{2}) p = child_of(s_, *p, p->role.level().index(region << 30U));
      notes_.expect(p != nullptr && p->index == v.path.page[i], "a path is remembered that is not there", region);
    }
  }
  void check_held(const Vcpu& v) noexcept {
    if (v.holding.on) holders_ += 1;
    for (unsigned i = 0; i < v.holding.count; ++i)
      if (s_.strong(v.holding.page[i]) != nullptr) held_ += 1;
    notes_.expect(v.root.loaded || (v.holding.count == 0 && !v.holding.on), "a vCPU without a root holds pages",
                  v.number);
  }

  S& s_;
  AuditNotes& notes_;
  std::uint64_t roots_ = 0, held_ = 0;
  std::uint32_t holders_ = 0;
};

}  // namespace shadowmmu::core
