// SPDX-License-Identifier: BSL-1.0
#include "loader.hpp"

namespace hv {

bool write_gdt(GuestMemory& memory, std::uint64_t gpa, EntryState& entry) noexcept {
  // The selectors that Linux wants; a multiboot kernel takes any.
  entry.code_selector = 0x10;
  entry.data_selector = 0x18;
  entry.gdt = gpa;
  const std::uint64_t gdt[kGdtBytes / 8] = {0, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF};
  return memory.write(gpa, gdt, sizeof gdt);
}

void enter_flat_mode(Vmcb& v, const EntryState& entry) noexcept {
  v.cs = {entry.code_selector, 0xC9B, 0xFFFFFFFF, 0};
  v.ds = v.es = v.ss = v.fs = v.gs = {entry.data_selector, 0xC93, 0xFFFFFFFF, 0};
  v.gdtr = {0, 0, 31, entry.gdt};
  v.idtr = {0, 0, 0, 0};
  v.ldtr = {0, 0x82, 0, 0};
  v.tr = {0, 0x8B, 0xFFFF, 0};
  v.rflags = 2;
  v.rip = entry.rip;
  v.dr6 = 0xFFFF0FF0;
  v.dr7 = 0x400;
  v.g_pat = 0x0007040600070406;
}

}  // namespace hv
