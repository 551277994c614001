// SPDX-License-Identifier: BSL-1.0
// Multiboot v1 entry: a flat 32-bit machine with paging off.

        .section .multiboot, "a"
        .balign 4
        .long 0x1badb002                // magic
        .long 0x00000003                // page-align modules, give memory information
        .long -(0x1badb002 + 0x00000003)

        .text
        .globl start
start:
        cli
        cld
        mov $boot_stack_top, %esp
        push %ebx                       // multiboot information
        push %eax                       // multiboot magic
        call guest_main
1:      hlt
        jmp 1b

        .bss
        .balign 4096
        .space 32768
boot_stack_top:
        .globl trap_stack_top
        .space 16384
trap_stack_top:

        .section .note.GNU-stack, "", @progbits
