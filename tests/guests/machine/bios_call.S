// SPDX-License-Identifier: BSL-1.0
// void bios_call(): from 32-bit code without paging to real mode, one INT there, and back.
// Requires: the blob copied to REAL_CODE, struct BiosRegisters (firmware.cpp) at REAL_REGISTERS. Interrupts stay off.

#include "selectors.inc"

#define REAL(label) (REAL_CODE + (label - bios_blob))
#define REGISTER(n) (REAL_REGISTERS + 4 * (n))

        .text
        .globl bios_call, bios_blob, bios_blob_end
bios_call:
        pushal
        mov %esp, saved_esp
        sidt saved_idt
        lidt real_idt
        ljmp $SEL_CODE16, $REAL_CODE
bios_back:
        mov $SEL_DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov %eax, %fs
        mov %eax, %gs
        mov saved_esp, %esp
        lidt saved_idt
        popal
        ret

        .section .rodata
        .code16
bios_blob:
        mov $SEL_DATA16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov %ax, %fs
        mov %ax, %gs
        mov %cr0, %eax
        and $0xfe, %al
        mov %eax, %cr0
        ljmp $0, $REAL(bios_real)
bios_real:
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $REAL_STACK, %sp
        movb REGISTER(6), %al           // the vector goes into the instruction
        movb %al, REAL(bios_int) + 1
        mov REGISTER(0), %eax
        mov REGISTER(1), %ebx
        mov REGISTER(2), %ecx
        mov REGISTER(3), %edx
        mov REGISTER(4), %edi
        jmp bios_int
bios_int:
        int $0
        mov %eax, REGISTER(0)
        mov %ebx, REGISTER(1)
        mov %ecx, REGISTER(2)
        mov %edx, REGISTER(3)
        mov %edi, REGISTER(4)
        pushfl
        popl REGISTER(5)
        cli
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $SEL_CODE32, $bios_back
bios_blob_end:
        .code32
        .balign 4
real_idt:
        .word 0x3ff
        .long 0

        .bss
        .balign 4
saved_esp:
        .space 4
saved_idt:
        .space 8

        .section .note.GNU-stack, "", @progbits
