// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/core/state.hpp"

/// One instruction's pages held together.
///
/// An x86 instruction, with the event that it delivers, may need up to sixteen translations at the same time. At the
/// page limit the fault for one of them may evict the tables of another, and any order of eviction can do so for ever:
/// the instruction starts over and never ends. The limit is never less than what each vCPU's sixteen paths take, so the
/// pages fit; what is missing is that they are left in peace.
///
/// The MMU sees faults, not instructions. A vCPU whose faults at the limit made pages for the same sixteen addresses
/// 256 times in a row, with no other address among them, makes no progress. From then on the pages that its faults walk
/// through are *held*: eviction passes them by, as it does roots in use. The first fault at the limit on another
/// address, or another root, lets them go. Policies of reclaim are not concerned before that: a vCPU that gets on holds
/// nothing.
///
///     free --(256 repeats in a row)--> holding --(another address, another root)--> free
namespace shadowmmu::core {

/// Effects: v collects anew. Complexity: O(pages held).
template <class S>
void forget_held(S& s, typename S::Vcpu& v) noexcept {
  auto& h = v.holding;
  while (h.count != 0)
    if (auto* p = s.strong(h.page[--h.count]); p != nullptr) p->held = static_cast<std::uint16_t>(p->held - 1U);
}

/// Effects: v holds no page any more. Complexity: O(pages held).
template <class S>
void let_go(S& s, typename S::Vcpu& v) noexcept {
  auto& h = v.holding;
  if (h.on) s.holders -= 1;
  h.on = false;
  h.repeats = 0;
  forget_held(s, v);
}

/// Effects: a fault of v's at this address is about to make a page at the limit. Complexity: O(addresses).
template <class S>
void note_making(S& s, typename S::Vcpu& v, std::uint64_t address) noexcept {
  auto& h = v.holding;
  const std::uint64_t page = (address >> kPageShift) + 1;
  for (const std::uint64_t a : h.address) {
    if (a != page) continue;
    if (!h.on && ++h.repeats >= h.kRepeats) {
      h.on = true;
      s.holders += 1;
      s.stats.add(&Counters::holdings);
    }
    return;
  }
  let_go(s, v);
  h.address[h.next] = page;
  h.next = static_cast<std::uint8_t>((h.next + 1U) % h.kAddresses);
}

/// Effects: p stays until v lets go. Requires: v is holding; p is on the path of an address that was noted.
/// Complexity: O(pages held).
template <class S>
void hold(S& s, typename S::Vcpu& v, typename S::Page& p) noexcept {
  auto& h = v.holding;
  for (unsigned i = 0; i < h.count; ++i)
    if (s.strong(h.page[i]) == &p) return;
  // A full list holds pages that the guest has replaced by others meanwhile.
  if (h.count == h.kPages) forget_held(s, v);
  h.page[h.count++] = WeakPage{p.index, p.serial};
  p.held = static_cast<std::uint16_t>(p.held + 1U);
}

}  // namespace shadowmmu::core
