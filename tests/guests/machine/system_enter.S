// SPDX-License-Identifier: BSL-1.0
// void system_enter_once(): from compatibility mode in ring 0 to ring 3, by SYSENTER to 64-bit code in ring 0, and back.
// Requires: long mode, SYSENTER_CS = SEL_CODE64, SYSENTER_EIP = system_entry, all memory mapped at its own address for
// ring 3 as well.

#include "selectors.inc"

        .text
        .globl system_enter_once, system_entry, system_exits
system_enter_once:
        pushal
        mov %esp, saved_esp
        pushl $SEL_USER_DATA
        pushl $user_stack_top
        pushl $2
        pushl $SEL_USER_CODE
        pushl $user_code
        iret
user_code:
        sysenter
        ud2
system_back:
        mov $SEL_DATA, %eax
        mov %eax, %ss
        mov %eax, %ds
        mov %eax, %es
        mov saved_esp, %esp
        popal
        ret

        .code64
system_entry:
        xor %eax, %eax
        cpuid                           // exits, so that VMRUN has to take this code segment back
        mov $system_exits, %ebx
        mov $0x123456789, %rax          // only 64-bit code can
        shr $32, %rax
        inc %eax
        add %eax, (%rbx)
        mov $far_back, %ebx
        ljmpl *(%rbx)
        .code32

        .data
        .balign 4
far_back:
        .long system_back
        .word SEL_CODE32

        .bss
        .balign 16
        .space 256
user_stack_top:
system_exits:
        .space 4
saved_esp:
        .space 4

        .section .note.GNU-stack, "", @progbits
