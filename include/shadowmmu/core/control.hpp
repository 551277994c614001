// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/roots.hpp"

/// Control registers: what the guest writes, what the hardware must run with.
namespace shadowmmu::core {

[[nodiscard]] inline Role base_role(const guest::Paging& p) noexcept {
  const Role r = Role{}.with_mode(p.mode());
  if (p.mode() == GuestMode::NonPaging || p.mode() == GuestMode::Direct) return r;
  return r.with_cpu(p.wp(), p.nxe(), p.mode() == GuestMode::Bits32 && p.pse(), p.smep(), p.smap());
}

/// Effects: other threads see CR3, the PDPTEs and, where they may differ, the controls that the vCPU has now. Locking:
/// the vCPU's own thread.
template <class S>
void show_registers(typename S::Vcpu& v, bool controls) noexcept {
  using Memory = typename S::Memory;
  if constexpr (!S::kShowsVcpus) return;
  ShownRegisters& r = v.shown;
  const std::uint64_t sequence = Memory::plain(r.sequence);
  Memory::template store<Order::Relaxed>(r.sequence, sequence + 1);
  Memory::template fence<Order::Release>();
  if (controls) {
    Memory::plain(r.cr0, v.controls.cr0);
    Memory::plain(r.cr4, v.controls.cr4);
    Memory::plain(r.efer, v.controls.efer);
  }
  Memory::plain(r.cr3, v.cr3);
  if (v.paging.mode() == GuestMode::Pae)
    for (unsigned i = 0; i < 4; ++i) Memory::plain(r.pdpte[i], v.pdpte[i]);
  Memory::template store<Order::Release>(r.sequence, sequence + 2);
}

/// Effects: a fresh vCPU: direct for second-level formats, else as after reset (paging off).
template <class S>
void reset_vcpu(typename S::Vcpu& v) noexcept {
  if constexpr (S::Arch::kGuests.has(GuestMode::Direct)) v.paging = guest::Paging::direct();
  v.role = base_role(v.paging);
}

/// Effects: reads the four PDPTEs at cr3. Returns: false where a present one has a reserved bit set, with nothing
/// changed. Unreadable ones count as not present.
template <class S>
[[nodiscard]] bool load_pdptes(S& s, typename S::Vcpu& v, std::uint64_t cr3) noexcept
    requires(S::Arch::kGuests.has(GuestMode::Pae)) {
  const ReadSection<S> section(s, v.reader);
  GuestReader<S> reader(s, section.slots(), v.slot_hint);
  std::uint64_t fresh[4];
  for (unsigned i = 0; i < 4; ++i) {
    fresh[i] = reader.entry(Gfn{(cr3 & 0xffff'ffffU) >> kPageShift}, static_cast<unsigned>(cr3 >> 3U & 0x1fcU) + i, 8);
    if ((fresh[i] & guest::kEntryPresent) != 0 &&
        (fresh[i] & guest::Paging::pdpte_reserved(s.caps.guest_address_bits)) != 0)
      return false;
  }
  for (unsigned i = 0; i < 4; ++i) v.pdpte[i] = fresh[i];
  return true;
}

/// Effects: this vCPU forgets its translations: its unsync tables are synced before it enters again. Those of previous
/// roots are when their CR3 is loaded: each load syncs.
template <class S>
void guest_flush(S& s, typename S::Vcpu& v) noexcept {
  v.forget_addresses();
  v.sync_due = true;
  s.host.flush(FlushOwed::all().request(v.id));
}

/// CR0 and CR4 bits whose change reloads the PDPTEs (SDM vol. 3, 4.4.1) or flushes the TLB (4.10.4.1). Previous roots
/// from before CR4.PCIDE was set may stay: a load of theirs changes CR3, and syncs.
inline constexpr std::uint64_t kCr0Reload = cr0::kPg | (1U << 29) | (1U << 30);
inline constexpr std::uint64_t kCr4Reload = cr4::kPse | cr4::kPae | cr4::kPge | cr4::kSmep | cr4::kPcide;

template <class S>
[[nodiscard]] ControlOutcome set_control(S& s, typename S::Vcpu& v, const Controls& c) noexcept
    requires(!S::Arch::kGuests.has(GuestMode::Direct)) {
  const bool pg = (c.cr0 & cr0::kPg) != 0;
  const bool lma = (c.efer & efer::kLma) != 0;
  const bool pcide = (c.cr4 & cr4::kPcide) != 0;
  if (pg && (c.cr0 & cr0::kPe) == 0) return ControlOutcome::InjectGp;
  if (lma && (!pg || (c.cr4 & cr4::kPae) == 0)) return ControlOutcome::InjectGp;
  if ((c.cr4 & (cr4::kLa57 | cr4::kPke | cr4::kPks)) != 0) return ControlOutcome::InjectGp;
  const bool was_pcide = (v.controls.cr4 & cr4::kPcide) != 0;
  if (pcide && (!s.caps.pcid || !lma || (!was_pcide && (v.cr3 & 0xfffU) != 0))) return ControlOutcome::InjectGp;
  const guest::Paging paging(c, s.caps.guest_address_bits, s.caps.guest_1g);
  if (!S::Arch::kGuests.has(paging.mode())) return ControlOutcome::InjectGp;
  const bool reload = ((c.cr0 ^ v.controls.cr0) & kCr0Reload) != 0 || ((c.cr4 ^ v.controls.cr4) & kCr4Reload) != 0 ||
                      paging.mode() != v.paging.mode();
  if (paging.mode() == GuestMode::Pae && reload && !load_pdptes(s, v, v.cr3)) return ControlOutcome::InjectGp;
  v.forget_addresses();
  v.controls = c;
  v.paging = paging;
  show_registers<S>(v, true);
  const Role role = base_role(paging);
  if (role != v.role || reload) {
    v.role = role;
    // Tables of the other role may be unsync since before a flush that only brought this role's up to date.
    v.sync_due = true;
    hide_root<S>(v);
    S::Memory::template store<Order::Relaxed>(v.reload, 1);
  }
  if (reload) guest_flush(s, v);
  return ControlOutcome::Done;
}

template <class S>
[[nodiscard]] ControlOutcome set_cr3(S& s, typename S::Vcpu& v, std::uint64_t value) noexcept
    requires(!S::Arch::kGuests.has(GuestMode::Direct)) {
  const bool pcide = (v.controls.cr4 & cr4::kPcide) != 0;
  const bool keep = pcide && value >> 63U != 0;
  const std::uint64_t cr3 = keep ? value & ~(std::uint64_t{1} << 63U) : value;
  const bool lma = (v.controls.efer & efer::kLma) != 0;
  if (lma && (cr3 & guest::bit_range(s.caps.guest_address_bits, 63)) != 0) return ControlOutcome::InjectGp;
  if (v.paging.mode() == GuestMode::Pae && !load_pdptes(s, v, cr3)) return ControlOutcome::InjectGp;
  const bool same = keep && cr3 == v.cr3;
  v.cr3 = cr3;
  show_registers<S>(v, false);
  v.forget_addresses();
  if (v.paging.mode() == GuestMode::NonPaging) return ControlOutcome::Done;
  hide_root<S>(v);
  S::Memory::template store<Order::Relaxed>(v.reload, 1);
  if (same) return ControlOutcome::Done;
  // Bit 63 allows to keep what this PCID has cached, and nothing else. Shadow pages, and the one TLB tag that the guest
  // runs on, are shared by PCIDs: an entry that one PCID may still use was perhaps never cached by another. So a load
  // that changes CR3 syncs and flushes whatever bit 63 says, as a CPU may that keeps nothing.
  v.sync_due = true;
  s.host.flush(FlushOwed::all().request(v.id));
  return ControlOutcome::Done;
}

/// Effects: the guest's INVLPG. The entry is synced if its table is unsync; below other roots that waits for the load
/// of their CR3, which syncs. Locking: exclusive. Flush: done, for this vCPU and page.
template <class S>
void invlpg(S& s, typename S::Vcpu& v, Gva a) noexcept {
  v.forget_addresses();
  if constexpr (S::Arch::kGuests.indirect()) {
    ExclusiveGuard<S> g(s);
    s.stats.add(&Counters::invlpg);
    if (auto* p = v.root.loaded && !root_stale(s, v) && v.root.role == v.role ? root_page(s, v, a) : nullptr;
        p != nullptr)
      sync_address(s, g, *p, a);
  }
  s.host.flush(FlushOwed::range(a.value() >> kPageShift, 1).request(v.id));
}

/// Returns: what the hardware must run with (design: PG = WP = PAE = NX = 1, PCIDE = 0; paged real mode if PE = 0).
template <class S>
[[nodiscard]] HwState hw_state(const S& s, const typename S::Vcpu& v) noexcept {
  HwState h;
  if constexpr (S::Arch::kGuests.has(GuestMode::Direct)) {
    h.cr3 = S::Arch::make_pointer(s.caps, v.top);
  } else {
    const bool lma = v.paging.mode() == GuestMode::Long4;
    h.cr0 = v.controls.cr0 | cr0::kPg | cr0::kWp;
    h.cr3 = v.top.value();
    h.cr4 = (v.controls.cr4 | cr4::kPae) & ~(cr4::kPcide | cr4::kLa57 | cr4::kPke | cr4::kPks);
    if (v.paging.mode() == GuestMode::NonPaging) h.cr4 &= ~(cr4::kSmep | cr4::kSmap);
    h.efer = (v.controls.efer & ~(efer::kLme | efer::kLma)) | efer::kNxe | (lma ? efer::kLme | efer::kLma : 0);
  }
  return h;
}

}  // namespace shadowmmu::core
