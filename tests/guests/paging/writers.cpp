// SPDX-License-Identifier: BSL-1.0
// Every kind of store instruction, at every alignment, into tables of every level; then a flush, then a look.
#include "groups.hpp"
#include "report.hpp"
#include "scene.hpp"

extern "C" {
void store_by_push(paging::u32 slot, paging::u32 low, paging::u32 high, paging::u32 bytes);
void store_by_call(paging::u32 slot);
void store_by_pushes(paging::u32 slot, paging::u32 value);
void probe_run64();
void probe_run32();
extern char op_write_wide64[], op_write_wide32[];
extern paging::u64 probe_wide;
}

namespace paging {
namespace {

// A store puts the `bytes` of `v` at `slot`; what it writes around them is what was there.
using Store = void (*)(u32 slot, u64 v, u32 bytes);

void dwords(u32 slot, u64 v, u32 bytes) {
  at<u32>(slot) = low32(v);
  if (bytes == 8) at<u32>(slot + 4) = high32(v);
}
void dwords_high_first(u32 slot, u64 v, u32 bytes) {
  if (bytes == 8) at<u32>(slot + 4) = high32(v);
  at<u32>(slot) = low32(v);
}
void words(u32 slot, u64 v, u32 bytes) {
  for (u32 i = 0; i < bytes; i += 2) at<u16>(slot + i) = static_cast<u16>(v >> (8 * i));
}
void single_bytes(u32 slot, u64 v, u32 bytes) {
  for (u32 i = 0; i < bytes; ++i) at<u8>(slot + i) = static_cast<u8>(v >> (8 * i));
}
void bytes_downwards(u32 slot, u64 v, u32 bytes) {
  for (u32 i = bytes; i-- > 0;) at<u8>(slot + i) = static_cast<u8>(v >> (8 * i));
}
// Dwords at an odd distance: the whole neighbourhood is composed first, then stored misaligned.
template <u32 kShift>
void misaligned(u32 slot, u64 v, u32 bytes) {
  u8 image[24];
  for (u32 i = 0; i < 24; ++i) image[i] = at<u8>(slot - 8 + i);
  for (u32 i = 0; i < bytes; ++i) image[8 + i] = static_cast<u8>(v >> (8 * i));
  for (u32 i = 4 + kShift; i < 8 + bytes; i += 4) {
    u32 word = 0;
    for (u32 b = 0; b < 4; ++b) word |= static_cast<u32>(image[i + b]) << (8 * b);
    asm volatile("movl %1, (%0)" : : "r"(slot - 8 + i), "r"(word) : "memory");
  }
}
void string_stores(u32 slot, u64 v, u32 bytes) {
  u32 dst = slot, count = 1;
  asm volatile("rep stosl" : "+D"(dst), "+c"(count) : "a"(low32(v)) : "memory");
  count = bytes / 4 - 1;
  asm volatile("rep stosl" : "+D"(dst), "+c"(count) : "a"(high32(v)) : "memory");
}
void string_moves(u32 slot, u64 v, u32 bytes) {
  u32 dst = slot, src = address_of(&v), count = bytes;
  asm volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
}
void whole_table_copy(u32 slot, u64 v, u32 bytes) {
  alignas(8) static u32 image[1024];
  const u32 table = slot & ~0xfffu;
  for (u32 i = 0; i < 1024; ++i) image[i] = at<u32>(table + 4 * i);
  image[(slot & 0xfff) / 4] = low32(v);
  if (bytes == 8) image[(slot & 0xfff) / 4 + 1] = high32(v);
  u32 dst = table, src = address_of(image), count = 1024;
  asm volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
}
void exchange(u32 slot, u64 v, u32 bytes) {
  u32 x = low32(v);
  asm volatile("xchg %0, (%1)" : "+r"(x) : "r"(slot) : "memory");
  x = high32(v);
  if (bytes == 8) asm volatile("xchg %0, (%1)" : "+r"(x) : "r"(slot + 4) : "memory");
}
void compare_exchange(u32 slot, u64 v, u32 bytes) {
  for (u32 i = 0; i < bytes; i += 4) {
    u32 old = at<u32>(slot + i);
    const u32 word = i == 0 ? low32(v) : high32(v);
    asm volatile("lock cmpxchgl %1, (%2)" : "+a"(old) : "r"(word), "r"(slot + i) : "memory", "cc");
  }
}
// Eight bytes in one go; a 4-byte entry takes its aligned neighbour along, unchanged.
void compare_exchange8(u32 slot, u64 v, u32 bytes) {
  const u32 base = slot & ~7u;
  const u64 old = at<u64>(base);
  u64 value = v;
  if (bytes == 4) value = slot & 4 ? (old & 0xffffffff) | (v << 32) : (old & ~0xffffffffull) | low32(v);
  u32 a = low32(old), d = high32(old);
  asm volatile("lock cmpxchg8b (%2)"
               : "+a"(a), "+d"(d)
               : "S"(base), "b"(low32(value)), "c"(high32(value))
               : "memory", "cc");
}
void and_then_or(u32 slot, u64 v, u32 bytes) {
  for (u32 i = 0; i < bytes; i += 4) {
    const u32 word = i == 0 ? low32(v) : high32(v);
    asm volatile("lock andl %1, (%0)\n lock orl %1, (%0)" : : "r"(slot + i), "r"(word) : "memory", "cc");
  }
}
void add_difference(u32 slot, u64 v, u32 bytes) {
  for (u32 i = 0; i < bytes; i += 4) {
    u32 x = (i == 0 ? low32(v) : high32(v)) - at<u32>(slot + i);
    asm volatile("lock xaddl %0, (%1)" : "+r"(x) : "r"(slot + i) : "memory", "cc");
  }
}
void single_bits(u32 slot, u64 v, u32 bytes) {
  for (u32 i = 0; i < bytes * 8; ++i) {
    if ((v >> i) & 1)
      asm volatile("lock btsl %1, (%0)" : : "r"(slot), "r"(i) : "memory", "cc");
    else
      asm volatile("btrl %1, (%0)" : : "r"(slot), "r"(i) : "memory", "cc");
  }
}
void by_push(u32 slot, u64 v, u32 bytes) { store_by_push(slot, low32(v), high32(v), bytes); }
void by_sse(u32 slot, u64 v, u32 bytes) {
  if (!features.sse2) return dwords(slot, v, bytes);
  u64 image[2] = {v, at<u64>(slot + 8)};
  if (bytes == 4) {
    image[0] = (at<u64>(slot) & ~0xffffffffull) | low32(v);
  }
  asm volatile("movdqu (%0), %%xmm0\n movdqu %%xmm0, (%1)" : : "r"(image), "r"(slot) : "memory");
}
void by_wide(u32 slot, u64 v, u32 bytes) {
  probe_wide = bytes == 8 ? v : (at<u64>(slot) & ~0xffffffffull) | low32(v);
  probe.gva = slot;
  probe.op = address_of(now.mode == Mode::kLong ? op_write_wide64 : op_write_wide32);
  if (now.mode == Mode::kLong)
    probe_run64();
  else
    probe_run32();
}

constexpr Store kStores[] = {
    dwords,           dwords_high_first, words,         single_bytes,   bytes_downwards,  misaligned<1>,
    misaligned<2>,    misaligned<3>,     string_stores, string_moves,   whole_table_copy, exchange,
    compare_exchange, compare_exchange8, and_then_or,   add_difference, single_bits,      by_push,
    by_sse,           by_wide,
};

void every_store(const Scene& s) {
  const u64 page = s.region + 0x105000;  // its slots have neighbours on both sides
  const u64 frames[2] = {data_frame(), data_frame()};
  s.map(page, frames[0] | kAll);
  for (u32 level = 1; level <= s.last_level(); ++level) {
    const u64 slot = s.slot(page, level);
    const u64 old = s.load(slot);
    u64 values[6] = {old & ~kW, old & ~kU, old | s.nx(), old & ~kP, old, old & ~(kA | kD)};
    u64 table = frames[1];  // the other frame, by a second path from this level down
    for (u32 l = 1; l < level; ++l) {
      const u64 upper = frame();
      s.store(entry_address(s.mode, upper, page, l), table | kAll);
      table = upper;
    }
    values[4] = table | kAll;
    u32 turn = 0;
    for (const Store store : kStores) {
      for (const u64 value : values) {
        check(s.as(kWrite), page);
        store(low32(slot), value, entry_bytes(s.mode));
        if (!expect(s.load(slot) == value, "stored entry", value, s.load(slot))) continue;
        if (++turn & 1)
          flush_by_invlpg(page);
        else
          flush_by_cr3();
        check(s.as(kRead), page);
        check(s.as(kWrite), page);
        check(s.as(kUserFetch), page);
        store(low32(slot), old, entry_bytes(s.mode));
        flush_by_invlpg(page);
        check(s.as(kUserWrite), page);
      }
    }
    s.store(slot, old);
    flush_by_cr3();
  }
}

// Stores that leave more than one entry, or one that no sane kernel would write.
void odd_stores(const Scene& s) {
  const u64 page = s.region + 0x108000;  // slot 32-byte aligned
  const u64 frames[2] = {data_frame(), data_frame()};
  const u64 slot = s.map(page, frames[0] | kAll);
  for (u32 i = 0; i < 8; ++i) {
    check(s.as(kRead), page);
    at<u32>(slot + 4) = 0;
    store_by_call(low32(slot));
    flush_by_invlpg(page);
    check(s.as(kUserRead), page);
    check(s.as(kRead), page);
    s.store(slot, frames[0] | kAll);
    flush_by_invlpg(page);
    if (s.mode == Mode::kLegacy) {
      store_by_pushes(low32(slot), low32(frames[i & 1] | kAll));
      flush_by_cr3();
      for (u32 p = 0; p < 8; ++p) check(s.as(kRead), page + p * kPageSize);
    }
    zero_frame(slot & kFrameMask);
    flush_by_cr3();
    check_is(s.as(kRead), page, 0);
    s.store(slot, frames[1] | kAll);
    check_after_faults(s.as(kRead), page, 1);
    s.store(slot, frames[0] | kAll);
    flush_by_invlpg(page);
  }
}

}  // namespace

void write_tests() {
  for_each_scene(every_store);
  for_each_scene(odd_stores);
}

}  // namespace paging
