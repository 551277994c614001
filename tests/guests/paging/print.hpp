// SPDX-License-Identifier: BSL-1.0
// Text on COM1 and the way out through port 0xf4.
#pragma once

#include "types.hpp"

namespace paging {

void serial_init();
void put(const char* text);
void put_hex(u64 v);
void put_dec(u32 v);
[[noreturn]] void leave_machine(u32 code);

// put("x=") and put_hex(v) in one
void put_field(const char* name, u64 v);

}  // namespace paging
