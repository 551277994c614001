// SPDX-License-Identifier: BSL-1.0
// Task switches by the CPU, to a task with a CR3 of its own. SDM vol. 3A, chapter 8.
#include "cases.hpp"

extern "C" void task_b_entry();

namespace machine {
namespace {

using paging::kPageSize;

constexpr u32 kVector = 0x30, kPresent = 0x80;
constexpr u32 kTss32 = 0x9, kTss16 = 0x1, kBusy = 0x2, kTaskGate = 0x5;
constexpr u32 kNestedTask = 1u << 14;

// Two roots of the same map, so that the task's own CR3 can be told from the other.
alignas(kPageSize) u32 directory[2][1024];
alignas(128) u32 task[2][26];
alignas(16) u64 idt[kVector + 1];
u32 expected_cr3;  // task B's; 0 where none is loaded

void describe(u32 selector, u32 base, u32 type) {
  gdt[selector / 8] = 103u | static_cast<u64>(base & 0xffffff) << 16 | static_cast<u64>(kPresent | type) << 40 |
                      static_cast<u64>(base >> 24) << 56;
}

void turn_paging_on() {
  for (u32 i = 0; i < 1024; ++i) directory[0][i] = directory[1][i] = i << 22 | 0x83;
  paging::write_cr4(paging::read_cr4() | paging::kCr4Pse);
  paging::write_cr3(address_of(directory[0]));
  paging::write_cr0(paging::read_cr0() | paging::kCr0Pg);
}

void prepare_tasks() {
  for (u32& word : task[1]) word = 0;
  task[1][7] = address_of(directory[1]);
  task[1][8] = address_of(task_b_entry);
  task[1][9] = paging::kFlagsFixed;
  for (u32 i = 18; i < 24; ++i) task[1][i] = SEL_DATA;
  task[1][19] = SEL_CODE32;
  describe(SEL_TASK_A, address_of(task[0]), kTss32);
  describe(SEL_TASK_B, address_of(task[1]), kTss32);
  paging::load_tr(SEL_TASK_A);
}

void prepare() {
  turn_paging_on();
  expected_cr3 = address_of(directory[1]);
  prepare_tasks();
}

}  // namespace

// Task B. It has arrived; nothing brings it back.
extern "C" [[noreturn]] void task_b() {
  const u32 got = paging::read_cr3();
  const bool good = expected_cr3 == 0 || got == expected_cr3 || wrong("CR3 of the task", expected_cr3, got);
  put(good ? "GUEST-OK\n" : "GUEST-FAILED\n");
  paging::leave_machine(good ? 0 : 1);
}
// In 16-bit tasks the upper half of ESP is undefined.
asm(".text\n .globl task_b_entry\n task_b_entry: mov $task_b_stack + 4096, %esp\n call task_b\n"
    ".bss\n .balign 16\n task_b_stack: .space 4096\n .text\n");

bool task_jump() {
  prepare();
  asm volatile("ljmp %0, $0" : : "i"(SEL_TASK_B) : "memory");
  return false;
}

bool task_call() {
  prepare();
  asm volatile("lcall %0, $0" : : "i"(SEL_TASK_B) : "memory");
  return false;
}

bool task_gate() {
  prepare();
  idt[kVector] = static_cast<u64>(kPresent | kTaskGate) << 40 | SEL_TASK_B << 16;
  paging::load_idt({sizeof idt - 1, address_of(idt), 0});
  asm volatile("int %0" : : "i"(kVector) : "memory");
  return false;
}

bool task_return() {
  prepare();
  describe(SEL_TASK_B, address_of(task[1]), kTss32 | kBusy);
  task[0][0] = SEL_TASK_B;
  asm volatile("pushfl; orl %0, (%%esp); popfl; iret" : : "i"(kNestedTask) : "memory");
  return false;
}

// Without paging CR3 is not loaded, and the hypervisor's own translation must not go either.
bool task_unpaged() {
  prepare_tasks();
  asm volatile("ljmp %0, $0" : : "i"(SEL_TASK_B) : "memory");
  return false;
}

// The task segment of the 80286 has no CR3; the switch sets CR0.TS all the same.
bool task_16() {
  turn_paging_on();
  prepare_tasks();
  static u16 old_a[22], old_b[22];
  describe(SEL_TASK_A, address_of(old_a), kTss16);
  describe(SEL_TASK_B, address_of(old_b), kTss16);
  paging::load_tr(SEL_TASK_A);
  asm volatile("clts");
  // IP and the registers are 16 bits wide: the task begins in low memory, with a far jump to the rest.
  constexpr u32 kCode = 0x8000, kStack = 0x7000;
  at<u8>(kCode) = 0xea;
  at<u32>(kCode + 1) = address_of(task_b_entry);
  at<u16>(kCode + 5) = SEL_CODE32;
  old_b[7] = kCode;
  old_b[8] = paging::kFlagsFixed;
  old_b[13] = kStack;
  old_b[17] = SEL_DATA;
  old_b[18] = SEL_CODE32;
  old_b[19] = SEL_DATA;
  old_b[20] = SEL_DATA;
  asm volatile("ljmp %0, $0" : : "i"(SEL_TASK_B) : "memory");
  return false;
}

}  // namespace machine
