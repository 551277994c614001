// SPDX-License-Identifier: BSL-1.0
// Reads what the loader left, runs the case that the command line names, leaves with the verdict.
#include "cases.hpp"

namespace machine {

Map loader_map;

alignas(16) u64 gdt[] = {
    0,
    0x00cf9b000000ffff,  // 08 code32
    0x00cf93000000ffff,  // 10 data
    0x00009b000000ffff,  // 18 code16
    0x000093000000ffff,  // 20 data16
    0x00af9b000000ffff,  // 28 code64
    0x00cf93000000ffff,  // 30 the stack of SYSENTER, which takes the selector behind its code
    0,                   // 38 task A
    0,                   // 40 task B
    0x00cffb000000ffff,  // 48 user code32
    0x00cff3000000ffff,  // 50 user data
};

namespace {

constexpr u32 kLoaderMagic = 0x2badb002;

struct Multiboot {
  u32 flags, mem_lower, mem_upper, boot_device, command_line, modules, module_list;
  u32 symbols[4];
  u32 map_length, map_address;
};

struct Case {
  const char* name;
  bool (*run)();
};
constexpr Case kCases[] = {
    {"firmware-map", firmware_map}, {"system-enter", system_enter},
    {"page-zero", page_zero},       {"task-jump", task_jump},
    {"task-call", task_call},       {"task-gate", task_gate},
    {"task-return", task_return},   {"task-unpaged", task_unpaged},
    {"task-16", task_16},           {"power-off", power_off},
    {"suspend", suspend},           {"hibernate", hibernate},
    {"triple-fault", triple_fault}, {"reset-keyboard", reset_keyboard},
    {"reset-wide", reset_wide},     {"liar", liar},
};

// Returns: whether one of the words in `line` is `case=NAME`.
bool names(const char* line, const char* name) {
  const char* const key = "case=";
  for (; *line != 0; ++line) {
    const char* s = line;
    const char* k = key;
    while (*k != 0 && *s == *k) ++s, ++k;
    if (*k != 0) continue;
    const char* n = name;
    while (*n != 0 && *s == *n) ++s, ++n;
    if (*n == 0 && (*s == 0 || *s == ' ')) return true;
  }
  return false;
}

void read_map(const Multiboot& mb) {
  struct [[gnu::packed]] Entry {
    u32 size;
    u64 base, length;
    u32 type;
  };
  for (u32 p = mb.map_address; p < mb.map_address + mb.map_length && loader_map.count < kMaxRanges;) {
    const Entry& e = *reinterpret_cast<const Entry*>(p);
    loader_map.ranges[loader_map.count++] = {e.base, e.length, e.type};
    p += e.size + 4;
  }
}

void load_own_gdt() {
  paging::load_gdt({static_cast<u16>(11 * sizeof(u64) - 1), address_of(gdt), 0});
  asm volatile("ljmp %0, $1f\n1: mov %1, %%ss\n mov %1, %%ds\n mov %1, %%es\n mov %1, %%fs\n mov %1, %%gs"
               :
               : "i"(SEL_CODE32), "r"(SEL_DATA)
               : "memory");
}

}  // namespace

extern "C" [[noreturn]] void guest_main(u32 magic, const Multiboot* mb) {
  paging::serial_init();
  load_own_gdt();
  if (magic == kLoaderMagic && (mb->flags & 0x44) == 0x44) {
    read_map(*mb);
    for (const Case& c : kCases) {
      if (!names(reinterpret_cast<const char*>(mb->command_line), c.name)) continue;
      const bool good = c.run();
      put(good ? "GUEST-OK\n" : "GUEST-FAILED\n");
      paging::leave_machine(good ? 0 : 1);
    }
  }
  put("machine: needs a multiboot loader with a memory map, and case=NAME\nGUEST-FAILED\n");
  paging::leave_machine(1);
}

}  // namespace machine
