// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <type_traits>

#include "shadowmmu/core/fault.hpp"

namespace shadowmmu {

/// What translate() found: where the address goes, or the fault that the guest must see.
struct [[nodiscard]] Translated {
  bool found = false;
  Translation to{};
  PageFault fault{};
  [[nodiscard]] bool ok() const noexcept { return found; }
};

/// What a shadow entry says now.
struct EntryInfo {
  bool present = false;
  Pfn pfn{};       ///< of the 4 KiB frame of the address
  Level level{1};  ///< of the leaf, or of the entry that is not present; root level + 1: no root
  Access rights{};
  std::uint64_t entry = 0;
};

/// What any thread may ask about a vCPU: its shadow tables and its translations.
namespace core {

/// While it lives shadow tables may be read: a section where the lock policy has readers, else the lock.
template <class S>
class TableSection {
 public:
  TableSection(S& s, [[maybe_unused]] typename S::Reader& r) noexcept : held_(make(s, r)) {}
  TableSection(const TableSection&) = delete;

 private:
  using Hold = std::conditional_t<S::kLockless, ReadSection<S>, ExclusiveGuard<S>>;
  [[nodiscard]] static Hold make(S& s, [[maybe_unused]] typename S::Reader& r) noexcept {
    if constexpr (S::kLockless)
      return Hold(s, r);
    else
      return Hold(s);
  }
  Hold held_;
};

/// Returns: the leaf that the shadow tables of v hold for the address, as it was at some moment of the call. Not
/// present where v has no root, or none that it may run on. A table that is unlinked meanwhile stays readable; its
/// entries are gone before it is freed. Complexity: O(levels), an atomic load each.
template <class S>
[[nodiscard]] EntryInfo lookup(S& s, const TableSection<S>&, const typename S::Vcpu& v, Gva a) noexcept {
  const ShadowWalk<S> w(s, v, a);
  EntryInfo info;
  info.level = Level{w.level};
  if (!w.leaf) return info;
  info.present = true;
  info.pfn = frame_of(S::Arch::address(w.entry)) + (a.value() >> kPageShift & (info.level.frames() - 1));
  info.rights = S::Arch::rights(w.entry);
  info.entry = w.entry;
  return info;
}

/// A vCPU's registers as another thread sees them.
struct RegisterView {
  guest::Paging paging{};
  std::uint64_t cr3 = 0;
  std::uint64_t pdpte[4] = {};
};

/// Returns: registers that v had at some moment of the call. Waits only for v's thread, while that stores ten words.
template <class S>
[[nodiscard]] RegisterView view_registers(const S& s, const typename S::Vcpu& v) noexcept {
  using Memory = typename S::Memory;
  if constexpr (!S::kShowsVcpus) return {v.paging, v.cr3, {v.pdpte[0], v.pdpte[1], v.pdpte[2], v.pdpte[3]}};
  const ShownRegisters& r = v.shown;
  for (;;) {
    const std::uint64_t before = Memory::template load<Order::Acquire>(r.sequence);
    const Controls c{Memory::plain(r.cr0), Memory::plain(r.cr4), Memory::plain(r.efer)};
    RegisterView view;
    view.cr3 = Memory::plain(r.cr3);
    for (unsigned i = 0; i < 4; ++i) view.pdpte[i] = Memory::plain(r.pdpte[i]);
    Memory::template fence<Order::Acquire>();
    if (before % 2 == 0 && Memory::template load<Order::Relaxed>(r.sequence) == before) {
      if constexpr (S::Arch::kGuests.has(GuestMode::Direct))
        view.paging = guest::Paging::direct();
      else
        view.paging = guest::Paging(c, s.caps.guest_address_bits, s.caps.guest_1g);
      return view;
    }
    Memory::pause();
  }
}

/// Returns: the translation of the address as an access of a vCPU with registers `v`, A and D included.
template <class S, class V>
[[nodiscard]] Translated translate(S& s, const V& v, const ReadSection<S>& section, unsigned& hint, Gva address,
                                   AccessRequest request, CpuMode mode) noexcept {
  guest::Walk w;
  Translated t;
  if (walk_guest(s, v, section.slots(), hint, address, request, guest::Paging::smap_enforced(mode), w) ==
      guest::WalkEnd::Fault) {
    t.fault = PageFault{address, w.error_code};
    return t;
  }
  t.found = true;
  t.to = Translation{address_of(w.gfn) + (address.value() & kPageMask), w.rights, Level{w.level}};
  return t;
}

}  // namespace core
}  // namespace shadowmmu
