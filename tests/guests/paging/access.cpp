// SPDX-License-Identifier: BSL-1.0
#include "access.hpp"

#include "print.hpp"
#include "report.hpp"

extern "C" {
void probe_run32();
void probe_run64();
extern char op_read32[], op_write32[], op_fetch32[], op_user32[];
extern char op_read64[], op_write64[], op_fetch64[], op_user64[];
extern char user_read[], user_write[], user_fetch[];
}

namespace paging {
namespace {

u32 next_value = 0x01000001;

struct Expected {
  u64 must, may;
};

// What each used entry may look like afterwards; an entry used at several levels gathers all its bits.
void expected_entries(const Walk& w, const Access& a, Expected (&e)[4]) {
  const bool ok = w.result == Walk::Result::kOk;
  u64 set[4] = {}, optional[4] = {};
  for (u32 i = 0; i < w.used; ++i) {
    const bool last = i + 1 == w.used;
    if (w.step[i].pointer) {
      if (!strict) optional[i] = kA;  // TCG 7.2 sets it
    } else if (ok) {
      set[i] = kA | (last && a.op == Op::kWrite ? kD : 0);
    } else if (!last || (!strict && w.step[i].level == 3 && (w.step[i].value & kP))) {
      optional[i] = kA;  // TCG 7.2 sets A of a 1 GiB page before it checks it
    }
  }
  for (u32 i = 0; i < w.used; ++i) {
    e[i] = {w.step[i].value, 0};
    for (u32 j = 0; j < w.used; ++j) {
      if (w.step[j].address != w.step[i].address) continue;
      e[i].must |= set[j];
      e[i].may |= optional[j];
    }
  }
}

// The bytes that a 4-byte store put into an entry.
void overlay(Expected& e, u64 entry, u64 gpa, u32 value, u32 bytes) {
  for (u32 i = 0; i < 4; ++i) {
    const u64 byte = gpa + i;
    if (byte < entry || byte >= entry + bytes) continue;
    const u32 shift = static_cast<u32>(byte - entry) * 8;
    e.must = (e.must & ~(0xffull << shift)) | (static_cast<u64>((value >> (8 * i)) & 0xff) << shift);
  }
}

void print_case(const Access& a, u64 address, const Walk& w, const Outcome& o, const char* why) {
  put(a.user ? " user" : " supervisor");
  put(a.op == Op::kRead ? " read" : a.op == Op::kWrite ? " write" : " fetch");
  if (a.ac) put(" ac");
  if (a.wide) put(" 64-bit");
  put_field("gva", address);
  for (u32 i = 0; i < w.used; ++i) put_field("entry", w.step[i].value);
  put("; expected");
  if (w.result == Walk::Result::kOk) {
    put(" ok");
    put_field("gpa", w.gpa);
  } else {
    put_field("error", w.error);
  }
  put("; actual");
  if (o.vector == kNoTrap) {
    put(" ok");
    put_field("value", o.value);
  } else {
    put_field("vector", o.vector);
    put_field("error", o.error);
    put_field("cr2", o.cr2);
  }
  for (u32 i = 0; i < w.used; ++i) put_field("after", read_entry(now.mode, w.step[i].address));
  put("; ");
  put(why);
  put("\n");
}

const char* compare(const Walk& w, const Access& a, u64 address, const Outcome& o, u32 write_value, u32 memory_before) {
  const bool ok = w.result == Walk::Result::kOk;
  if (ok && o.vector != kNoTrap) return "must not fault";
  if (!ok && o.vector == kNoTrap) return "must fault";
  if (!ok) {
    if (o.vector != kPageFault) return "wrong vector";
    if (o.error != w.error) return "wrong error code";
    if (o.cr2 != address) return "wrong cr2";
  }
  const bool known = w.leaf_reached && w.gpa + 8 <= kIdentityLimit;
  Expected e[4];
  expected_entries(w, a, e);
  for (u32 i = 0; i < w.used; ++i) {
    if (ok && a.op == Op::kWrite && known) overlay(e[i], w.step[i].address, w.gpa, write_value, entry_bytes(now.mode));
    const u64 after = read_entry(now.mode, w.step[i].address);
    if ((after & ~e[i].may) != (e[i].must & ~e[i].may)) return "wrong entry";
    if ((e[i].must & ~after) != 0) return "entry lost a bit";
  }
  if (!known) return nullptr;
  if (!ok) {
    if (a.op == Op::kWrite && (at<u32>(w.gpa) ^ memory_before) != 0) {
      for (u32 i = 0; i < w.used; ++i)  // the bytes may belong to an entry, which was compared above
        if (w.gpa + 4 > w.step[i].address && w.gpa < w.step[i].address + 8) return nullptr;
      return "memory changed by a faulting write";
    }
    return nullptr;
  }
  if (a.op == Op::kWrite && at<u32>(w.gpa) != write_value) return "write went elsewhere";
  if (a.op == Op::kRead && at<u32>(w.gpa) != o.value) return "wrong value read";
  if (a.op == Op::kFetch && at<u32>(w.gpa + 1) != o.value) return "wrong code ran";
  return nullptr;
}

}  // namespace

u64 cell_address(const Access& a, u64 page) {
  const u64 cell = page + kCellOffset;
  if (a.op == Op::kRead) return cell + kCellRead;
  if (a.op == Op::kWrite) return cell + kCellWrite;
  return cell + (a.user ? kCellUserCode : kCellCode);
}

Outcome perform(const Access& a, u64 address, u32 write_value) {
  const u32 op = static_cast<u32>(a.op);
  char* const narrow[] = {op_read32, op_write32, op_fetch32};
  char* const wide[] = {op_read64, op_write64, op_fetch64};
  char* const user[] = {user_read, user_write, user_fetch};
  probe.gva = address;
  probe.value = write_value;
  probe.flags = kFlagsFixed | (a.ac ? kFlagsAc : 0);
  probe.user_stub = address_of(user[op]);
  if (a.wide) {
    probe.op = address_of(a.user ? op_user64 : wide[op]);
    probe_run64();
  } else {
    probe.op = address_of(a.user ? op_user32 : narrow[op]);
    probe_run32();
  }
  asm volatile("" : : : "memory");
  return {probe.vector, probe.error, probe.cr2, probe.value};
}

bool check_at(const Access& a, u64 address, u32 write_value) {
  const Walk w = walk(a, address);
  if (w.result == Walk::Result::kUnknown) return true;
  const u32 before = w.leaf_reached && w.gpa + 8 <= kIdentityLimit ? at<u32>(w.gpa) : 0;
  const Outcome o = perform(a, address, write_value);
  const char* why = compare(w, a, address, o, write_value, before);
  if (why == nullptr) {
    case_ok();
    return true;
  }
  if (case_failed_printing()) print_case(a, address, w, o, why);
  return false;
}

bool check(const Access& a, u64 page) { return check_at(a, cell_address(a, page), next_value++); }

bool check_after_faults(const Access& a, u64 page, u32 tries) {
  for (u32 i = 0; i < tries; ++i) {
    const Outcome o = perform(a, cell_address(a, page), next_value++);
    if (o.vector == kNoTrap) break;
  }
  return check(a, page);
}

bool check_is(const Access& a, u64 page, u32 expected_error) {
  const Walk w = walk(a, cell_address(a, page));
  const u32 predicted = w.result == Walk::Result::kOk ? kExpectOk : w.error;
  const bool agrees = expect(predicted == expected_error, "oracle", expected_error, predicted);
  return check(a, page) && agrees;
}

}  // namespace paging
