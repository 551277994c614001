// SPDX-License-Identifier: BSL-1.0
// Reads what the loader left, prepares the machine, runs the groups, leaves with the verdict.
#include "access.hpp"
#include "groups.hpp"
#include "print.hpp"
#include "report.hpp"

namespace paging {

Options options;

namespace {

constexpr u32 kLoaderMagic = 0x2badb002;

struct Multiboot {
  u32 flags, mem_lower, mem_upper, boot_device, command_line, modules, module_list;
  u32 symbols[4];
  u32 map_length, map_address;
};
struct [[gnu::packed]] MemoryRange {
  u32 size;
  u64 base, length;
  u32 type;
};

struct Group {
  const char* name;
  void (*run)();
};
constexpr Group kGroups[] = {
    {"product-legacy", product_legacy},
    {"product-pae", product_pae},
    {"product-long", product_long},
    {"product-compatibility", product_compatibility},
    {"product-levels", product_levels},
    {"flush", flush_tests},
    {"controls", control_tests},
    {"alias", alias_tests},
    {"writers", write_tests},
    {"cross", cross_tests},
    {"events", event_tests},
    {"modes", mode_tests},
    {"pdpte", pdpte_tests},
    {"odd", odd_tests},
    {"random", random_tests},
};

u32 length_until(const char* s, char stop) {
  u32 n = 0;
  while (s[n] != 0 && s[n] != stop) ++n;
  return n;
}

bool starts_with(const char* s, const char* prefix) {
  while (*prefix != 0)
    if (*s++ != *prefix++) return false;
  return true;
}

u32 number(const char* s) {
  u32 v = 0;
  while (*s >= '0' && *s <= '9') v = v * 10 + static_cast<u32>(*s++ - '0');
  return v;
}

void parse(const char* line) {
  while (*line != 0) {
    const u32 n = length_until(line, ' ');
    if (starts_with(line, "only=")) {
      for (u32 i = 5; i < n && i - 5 < sizeof options.only - 1; ++i) options.only[i - 5] = line[i];
    } else if (starts_with(line, "seed=")) {
      options.seed = number(line + 5);
    } else if (starts_with(line, "sample=")) {
      options.sample = number(line + 7);
    }
    line += line[n] == 0 ? n : n + 1;
  }
}

bool selected(const char* name) { return starts_with(name, options.only); }

bool is_memory(const Multiboot& mb, u64 from, u64 to) {
  u32 p = mb.map_address;
  while (p < mb.map_address + mb.map_length) {
    const MemoryRange& r = *reinterpret_cast<const MemoryRange*>(p);
    if (r.type == 1 && r.base <= from && r.base + r.length >= to) return true;
    p += r.size + 4;
  }
  return false;
}

bool memory_suffices(const Multiboot& mb) {
  if (mb.flags & 64) {
    options.high_memory = is_memory(mb, 4ull << 30, (4ull << 30) + kBigDataStep);
    return is_memory(mb, 0x100000, kIdentityLimit);
  }
  return (mb.flags & 1) != 0 && mb.mem_upper >= (kIdentityLimit >> 10) - 1024;
}

// Plain TCG says 8 to a reserved bit, where processors say 9.
void find_strictness() {
  constexpr u64 kGva = 0x40000000;
  const u64 root = new_root(Mode::kPae);
  map(Mode::kPae, root, kGva, data_frame() | kP | kW | bit(features.physical_bits < 52 ? features.physical_bits : 52));
  enter({Mode::kPae}, root);
  const Outcome o = perform(kRead, kGva, 0);
  strict = o.vector == kPageFault && o.error == 9;
  if (!strict && !(o.vector == kPageFault && o.error == 8)) {
    put("paging: a reserved bit gave");
    put_field("vector", o.vector);
    put_field("error", o.error);
    put("\nGUEST-FAILED\n");
    leave_machine(1);
  }
  paging_off();
  put("paging: reserved-bit faults say ");
  put(strict ? "9: strict\n" : "8: plain TCG, lenient\n");
}

}  // namespace

extern "C" [[noreturn]] void guest_main(u32 magic, const Multiboot* mb) {
  serial_init();
  if (magic == kLoaderMagic && (mb->flags & 4)) parse(reinterpret_cast<const char*>(mb->command_line));
  if (magic != kLoaderMagic || !memory_suffices(*mb)) {
    put("paging: needs a multiboot loader and RAM from 1 MiB to 64 MiB\nGUEST-FAILED\n");
    leave_machine(1);
  }
  machine_init();
  kernel_tables_init();
  init_cells(kBigTable, kIdentityLimit);
  find_strictness();
  for (const Group& g : kGroups) {
    if (!selected(g.name)) continue;
    frames_reset();
    group_begin(g.name);
    g.run();
    if (now.mode != Mode::kOff) paging_off();
    trap_hook = nullptr;
    group_end();
  }
  put("paging: ");
  if (total_failures() == 0 && total_cases() != 0) {
    put("all ");
    put_dec(total_cases());
    put(" cases passed\nGUEST-OK\n");
    leave_machine(0);
  }
  put_dec(total_failures());
  put(" failures\nGUEST-FAILED\n");
  leave_machine(1);
}

}  // namespace paging
