// SPDX-License-Identifier: BSL-1.0
// void real_mode_excursion(): from 32-bit code with paging off to real mode, some work there, and back.
// Requires: the blob copied to REAL_BASE, vector 0x60 of the real-mode table aimed at real_handler.

#include "layout.inc"

#define REAL_BASE 0x8000
#define REAL(label) (REAL_BASE + (label - real_blob))

        .text
        .globl real_mode_excursion, real_blob, real_blob_end, real_handler_offset
real_mode_excursion:
        pushal
        mov %esp, real_saved_esp
        lidt real_idt
        ljmp $SEL_CODE16, $REAL_BASE
real_back:
        mov $SEL_DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov $SEL_STACK, %eax
        mov %eax, %ss
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
        mov real_saved_esp, %esp
        popal
        ret

        .section .rodata
        .code16
real_blob:
        mov $SEL_DATA16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov %ax, %fs
        mov %ax, %gs
        mov %cr0, %eax
        and $0xfe, %al
        mov %eax, %cr0
        ljmp $0, $REAL(real_here)
real_here:
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7c00, %sp
        movw $0x1234, 0x9000
        mov $0x0900, %ax
        mov %ax, %es
        incw %es:0                      // the same word by another segment
        int $0x60
        pushw $0x4321
        popw 0x9004
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $SEL_CODE32, $real_back
real_handler:
        incw 0x9002
        iret
real_blob_end:
        .code32
        .balign 4
real_handler_offset:
        .long REAL(real_handler)
real_idt:
        .word 0x3ff
        .long 0

        .bss
        .balign 4
real_saved_esp:
        .space 4

        .section .note.GNU-stack, "", @progbits
