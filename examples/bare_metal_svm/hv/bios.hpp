// SPDX-License-Identifier: BSL-1.0
#pragma once

/// What the BIOS tells the guest of memory. The BIOS is the host's own and knows nothing of us: asked in real mode, it
/// would give our memory away as usable. So INT 15h leads to a piece of code in front of it (bios15.S), which answers
/// the four calls about extended memory from the guest's map. It lies in a page of the guest's own, marked reserved.
namespace hv {

class GuestMemory;

/// Effects: puts the code into the guest's page GuestMemory::kBiosPage, and directs the guest's INT 15h there. Does
/// nothing where there is no BIOS. Requires: the guest's memory is built, and no guest has run.
void hook_bios(GuestMemory& memory) noexcept;

}  // namespace hv
