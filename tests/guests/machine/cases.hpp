// SPDX-License-Identifier: BSL-1.0
// What the cases share. A case returns whether all was as it should be, or does not return.
#pragma once

#include "../paging/cpu.hpp"
#include "../paging/print.hpp"
#include "../paging/types.hpp"
#include "selectors.inc"

namespace machine {

using paging::address_of;
using paging::at;
using paging::put;
using paging::put_field;
using paging::u16;
using paging::u32;
using paging::u64;
using paging::u8;

// One range of the memory map that the loader gave.
struct Range {
  u64 base, length;
  u32 type;
};
constexpr u32 kMaxRanges = 32;
struct Map {
  Range ranges[kMaxRanges];
  u32 count;
};
extern Map loader_map;

extern u64 gdt[];

// Effects: prints what is wrong. Returns: false.
inline bool wrong(const char* what, u64 expected, u64 got) {
  put("machine: wrong ");
  put(what);
  put_field("expected", expected);
  put_field("got", got);
  put("\n");
  return false;
}

bool firmware_map();
bool system_enter();
bool page_zero();
bool task_jump();
bool task_call();
bool task_gate();
bool task_return();
bool task_unpaged();
bool task_16();
bool power_off();
bool suspend();
bool hibernate();
bool triple_fault();
bool reset_keyboard();
bool reset_wide();
bool liar();

}  // namespace machine
