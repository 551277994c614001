// SPDX-License-Identifier: BSL-1.0
// The functions that a freestanding compiler may call by itself.
#include "types.hpp"

extern "C" {

void* memcpy(void* to, const void* from, paging::u32 n) {
  void* d = to;
  asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
  return to;
}

void* memset(void* to, int v, paging::u32 n) {
  void* d = to;
  asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory");
  return to;
}
}
