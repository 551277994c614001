// SPDX-License-Identifier: BSL-1.0
#include "machine.hpp"

#include "print.hpp"

extern "C" void probe_run64();
extern "C" char op_invlpg64[];

namespace paging {

extern "C" {
Probe probe;
Trap trap;
}
TrapHook trap_hook;
Controls now;
Features features;
bool strict;

namespace {

constexpr u32 kCr4Ours = kCr4Pse | kCr4Pae | kCr4Pge | kCr4Smep | kCr4Smap;

u32 cr4_of(const Controls& c) {
  u32 v = 0;
  if (c.pse) v |= kCr4Pse;
  if (c.mode == Mode::kPae || c.mode == Mode::kLong) v |= kCr4Pae;
  if (c.pge) v |= kCr4Pge;
  if (c.smep) v |= kCr4Smep;
  if (c.smap) v |= kCr4Smap;
  return v;
}

}  // namespace

const char* mode_name(Mode mode) {
  switch (mode) {
    case Mode::kLegacy:
      return "legacy";
    case Mode::kPae:
      return "pae";
    case Mode::kLong:
      return "long";
    default:
      return "off";
  }
}

void apply_cr0() {
  const u32 old = read_cr0();
  const u32 v = now.wp ? old | kCr0Wp : old & ~kCr0Wp;
  if (v != old) write_cr0(v);
}

void apply_cr4() {
  const u32 old = read_cr4();
  const u32 v = (old & ~kCr4Ours) | cr4_of(now);
  if (v != old) write_cr4(v);
}

void apply_efer() {
  const u64 old = read_msr(kMsrEfer);
  u64 v = old & ~static_cast<u64>(kEferNxe | kEferLme);
  if (now.nxe) v |= kEferNxe;
  if (now.mode == Mode::kLong) v |= kEferLme;
  if ((v ^ old) & (kEferNxe | kEferLme)) write_msr(kMsrEfer, v & ~static_cast<u64>(kEferLma));
}

void set_controls(const Controls& c) {
  const Mode mode = now.mode;
  now = c;
  now.mode = mode;
  apply_cr0();
  apply_cr4();
  // EFER.LMA must be written as it is.
  const u64 old = read_msr(kMsrEfer);
  const u64 v = now.nxe ? old | kEferNxe : old & ~static_cast<u64>(kEferNxe);
  if (v != old) write_msr(kMsrEfer, v);
}

void paging_off() {
  write_cr0(read_cr0() & ~kCr0Pg);
  now.mode = Mode::kOff;
  load_descriptor_tables();
}

void enter(const Controls& c, u64 root) {
  if (now.mode == c.mode) {
    set_controls(c);
    write_cr3(low32(root));
    return;
  }
  if (now.mode != Mode::kOff) paging_off();
  now = c;
  apply_efer();
  apply_cr4();
  write_cr3(low32(root));
  apply_cr0();
  write_cr0(read_cr0() | kCr0Pg);
  load_descriptor_tables();
}

void flush_by_cr3() { write_cr3(read_cr3()); }

void flush_by_invlpg(u64 gva) {
  if (high32(gva) == 0) {
    invlpg_low(low32(gva));
    return;
  }
  probe.gva = gva;
  probe.op = address_of(op_invlpg64);
  probe_run64();
}

// What a trap means: mended by the test, the end of a probe, or a bug of this guest or of what runs it.
extern "C" u32 trap_decide() {
  if (trap_hook != nullptr && trap_hook(trap)) return 1;
  if (probe.armed != 0) {
    probe.vector = trap.vector;
    probe.error = trap.error;
    probe.cr2 = trap.cr2;
    return 0;
  }
  put("paging: unexpected trap");
  put_field("vector", trap.vector);
  put_field("error", trap.error);
  put_field("cr2", trap.cr2);
  put_field("cs", trap.cs);
  put_field("ip", trap.ip);
  put_field("cr0", read_cr0());
  put_field("cr3", read_cr3());
  put_field("cr4", read_cr4());
  put(" mode=");
  put(mode_name(now.mode));
  put("\nGUEST-FAILED\n");
  leave_machine(1);
}

}  // namespace paging
