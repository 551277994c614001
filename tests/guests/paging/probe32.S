// SPDX-License-Identifier: BSL-1.0
// One access from 32-bit code (legacy or compatibility mode), and the place where every probe ends.

#include "layout.inc"

        .text
        .globl probe_run32, probe_done32, probe_recover32
probe_run32:
        pushal
        mov %esp, probe + PROBE_SAVED_ESP
        movl $0x100, probe + PROBE_VECTOR
        movl $1, probe + PROBE_ARMED
        mov probe + PROBE_GVA, %edx
        mov probe + PROBE_VALUE, %eax
        jmp *(probe + PROBE_OP)
probe_done32:
        mov %eax, probe + PROBE_VALUE
probe_recover32:
        mov probe + PROBE_SAVED_ESP, %esp
        movl $0, probe + PROBE_ARMED
        push $2
        popf
        popal
        ret

        .globl op_read32, op_write32, op_fetch32, op_user32, op_read_wide32, op_load_fs32
        .globl op_stac_read32, op_clac_read32, op_write_wide32
op_read32:
        pushl probe + PROBE_FLAGS
        popf
        mov (%edx), %eax
        jmp probe_done32
op_write32:
        pushl probe + PROBE_FLAGS
        popf
        mov %eax, (%edx)
        jmp probe_done32
op_fetch32:
        pushl probe + PROBE_FLAGS
        popf
        call *%edx
        jmp probe_done32
op_read_wide32:                         // eight bytes at once, through the FPU (whose stack a fault leaves used)
        fninit
        fildll (%edx)
        fistpll probe_wide
        jmp probe_done32
op_write_wide32:
        fninit
        fildll probe_wide
        fistpll (%edx)
        jmp probe_done32
op_load_fs32:
        pushl probe + PROBE_FLAGS
        popf
        mov %eax, %fs
        jmp probe_done32
op_stac_read32:
        stac
        mov (%edx), %eax
        jmp probe_done32
op_clac_read32:
        pushl $0x40002
        popf
        clac
        mov (%edx), %eax
        jmp probe_done32
op_user32:
        pushl $SEL_DATA
        pushl $0
        pushl probe + PROBE_FLAGS
        pushl $SEL_USER32
        pushl probe + PROBE_USER_STUB
        iret

        .bss
        .balign 8
        .globl probe_wide
probe_wide:
        .space 8

        .section .note.GNU-stack, "", @progbits
