// SPDX-License-Identifier: BSL-1.0
// What the BIOS says of memory in real mode: it must be what the loader said. ACPI 6.4, 15.1; Ralf Brown's list for the
// older calls.
#include "cases.hpp"

extern "C" {
void bios_call();
extern char bios_blob[], bios_blob_end[];
}

namespace machine {
namespace {

constexpr u32 kSmap = 0x534d4150, kBuffer = 0xa000, kEntryBytes = 20;
constexpr u32 kCarry = 1;
constexpr u64 kMiB = 1u << 20, kSixteenMiB = 16u << 20;

struct BiosRegisters {
  u32 eax, ebx, ecx, edx, edi, flags, vector;
};

BiosRegisters call(const BiosRegisters& in) {
  const u32 size = address_of(bios_blob_end) - address_of(bios_blob);
  for (u32 i = 0; i < size; ++i) at<u8>(REAL_CODE + i) = static_cast<u8>(bios_blob[i]);
  const u32* const from = &in.eax;
  for (u32 i = 0; i < sizeof in / 4; ++i) at<u32>(REAL_REGISTERS + 4 * i) = from[i];
  bios_call();
  BiosRegisters out;
  u32* const to = &out.eax;
  for (u32 i = 0; i < sizeof out / 4; ++i) to[i] = at<u32>(REAL_REGISTERS + 4 * i);
  return out;
}

BiosRegisters query_map(u32 index, u32 bytes) {
  return call({.eax = 0xe820, .ebx = index, .ecx = bytes, .edx = kSmap, .edi = kBuffer, .flags = 0, .vector = 0x15});
}
BiosRegisters query(u32 eax, u32 vector = 0x15) {
  return call({.eax = eax, .ebx = 0, .ecx = 0, .edx = 0, .edi = 0, .flags = 0, .vector = vector});
}

bool whole_map() {
  u32 index = 0;
  for (u32 n = 0; n < loader_map.count; ++n) {
    at<u32>(kBuffer + kEntryBytes) = 0x5a5a5a5a;
    const BiosRegisters r = query_map(index, kEntryBytes);
    if ((r.flags & kCarry) != 0 || r.eax != kSmap || r.edx != kSmap) return wrong("answer of E820", kSmap, r.eax);
    if (r.ecx != kEntryBytes || r.edi != kBuffer) return wrong("registers of E820", kEntryBytes, r.ecx);
    const Range& range = loader_map.ranges[n];
    if (at<u64>(kBuffer) != range.base) return wrong("base in E820", range.base, at<u64>(kBuffer));
    if (at<u64>(kBuffer + 8) != range.length) return wrong("length in E820", range.length, at<u64>(kBuffer + 8));
    if (at<u32>(kBuffer + 16) != range.type) return wrong("type in E820", range.type, at<u32>(kBuffer + 16));
    if (at<u32>(kBuffer + kEntryBytes) != 0x5a5a5a5a) return wrong("byte behind an entry of E820", 0x5a, 0);
    index = r.ebx;
    if ((index == 0) != (n + 1 == loader_map.count)) return wrong("number of entries in E820", loader_map.count, n + 1);
  }
  return true;
}

bool refusals() {
  const BiosRegisters small = query_map(0, kEntryBytes - 1);
  if ((small.flags & kCarry) == 0) return wrong("E820 with a small buffer", 1, 0);
  const BiosRegisters beyond = query_map(1000, kEntryBytes);
  if ((beyond.flags & kCarry) == 0) return wrong("E820 beyond the map", 1, 0);
  const BiosRegisters unsigned_ =
      call({.eax = 0xe820, .ebx = 0, .ecx = 20, .edx = 0, .edi = kBuffer, .flags = 0, .vector = 0x15});
  if ((unsigned_.flags & kCarry) == 0) return wrong("E820 without its signature", 1, 0);
  return true;
}

// End of the usable range that begins at `base`.
u64 end_of(u64 base) {
  for (u32 n = 0; n < loader_map.count; ++n)
    if (loader_map.ranges[n].base == base && loader_map.ranges[n].type == 1) return base + loader_map.ranges[n].length;
  return 0;
}

bool older_calls() {
  const u64 end = end_of(kMiB), low = end_of(0);
  const u64 first = end < kSixteenMiB ? end - kMiB : kSixteenMiB - kMiB, second = end - kMiB - first;
  const BiosRegisters wide = query(0xe801);
  if ((wide.flags & kCarry) != 0) return wrong("carry of E801", 0, 1);
  if ((wide.eax & 0xffff) != first >> 10) return wrong("AX of E801", first >> 10, wide.eax & 0xffff);
  if ((wide.ebx & 0xffff) != second >> 16) return wrong("BX of E801", second >> 16, wide.ebx & 0xffff);
  if (((wide.ecx ^ wide.eax) & 0xffff) != 0 || ((wide.edx ^ wide.ebx) & 0xffff) != 0)
    return wrong("CX and DX of E801", wide.eax, wide.ecx);
  const BiosRegisters old = query(0x8800);
  const u64 most = end - kMiB < 63 * kMiB ? end - kMiB : 63 * kMiB;
  if ((old.flags & kCarry) != 0 || (old.eax & 0xffff) > most >> 10) return wrong("AX of 88", most >> 10, old.eax);
  const BiosRegisters base = query(0, 0x12);
  if ((base.eax & 0xffff) != low >> 10) return wrong("AX of INT 12", low >> 10, base.eax & 0xffff);
  return true;
}

}  // namespace

bool firmware_map() {
  if (!whole_map() || !refusals() || !older_calls()) return false;
  // Everything else is still the BIOS's own: the table of the system's configuration, and a call that nobody has.
  if ((query(0xc000).flags & kCarry) != 0) return wrong("carry of C0", 0, 1);
  const BiosRegisters none = query(0x1500);
  if ((none.flags & kCarry) == 0) return wrong("carry of a call that nobody has", 1, 0);
  return true;
}

}  // namespace machine
