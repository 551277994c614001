// SPDX-License-Identifier: BSL-1.0
// The CPU as the tests see it: its mode and paging controls, its descriptor tables, the traps it takes.
#pragma once

#include "cpu.hpp"
#include "types.hpp"

namespace paging {

enum class Mode : u8 { kOff, kLegacy, kPae, kLong };
constexpr Mode kPagingModes[] = {Mode::kLegacy, Mode::kPae, Mode::kLong};
const char* mode_name(Mode mode);

struct Controls {
  Mode mode = Mode::kOff;
  bool pse = true, wp = true, nxe = false, smep = false, smap = false, pge = false;
};

struct Features {
  bool nx, gigabyte, smep, smap, pge, pse36, sse2;
  u32 physical_bits;
};

// Layout known to layout.inc.
struct Probe {
  u64 gva;
  u32 value, flags, vector, error;
  u64 cr2;
  u32 armed, saved_esp, op, user_stub;
};
struct Trap {
  u32 vector, error;
  u64 cr2, ip;
  u32 cs, flags;
};
constexpr u32 kNoTrap = 0x100;
constexpr u32 kPageFault = 14, kGeneralProtection = 13;

// A test that wants to mend a trap and go on sets this; it returns true when the instruction is to be retried.
using TrapHook = bool (*)(const Trap&);

extern "C" Probe probe;
extern "C" Trap trap;
extern TrapHook trap_hook;
extern Controls now;
extern Features features;
// Found at start: false when reserved-bit faults come as error code 8 (plain TCG), where some other rules are lenient
// too.
extern bool strict;

constexpr u16 kSelLdt = 0x60;
constexpr u32 kGdtEntries = 16;
constexpr u32 kIdtBytes32 = 256 * 8;
constexpr u32 kIdtBytes64 = 256 * 16;
extern u64 gdt[kGdtEntries];

void machine_init();
// Descriptor tables of the current mode (used again after a test moved them).
void load_descriptor_tables();
void move_idt(u32 base);
void move_gdt(u32 base);
void move_tss(u32 base);  // copies the task segment there and loads it
void* idt_of_mode(u32* bytes);
void* tss_of_mode(u32* bytes);
void set_ldt(u32 base, u32 limit);
void set_trap_stack(u32 top);

// Makes the CPU match `c` with `root` in CR3. Turns paging off on the way when the mode changes.
void enter(const Controls& c, u64 root);
void paging_off();
// Changes WP, NXE, SMEP, SMAP, PGE, PSE in the current mode with no other flush than the register write itself.
void set_controls(const Controls& c);
void apply_cr0();
void apply_cr4();
void apply_efer();
void flush_by_cr3();
void flush_by_invlpg(u64 gva);

}  // namespace paging
