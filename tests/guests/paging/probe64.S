// SPDX-License-Identifier: BSL-1.0
// One access from 64-bit code; the caller is in compatibility mode and gets control back there.

#include "layout.inc"

        .text
        .globl probe_run64
probe_run64:
        pushal
        mov %esp, probe + PROBE_SAVED_ESP
        movl $0x100, probe + PROBE_VECTOR
        movl $1, probe + PROBE_ARMED
        ljmp $SEL_CODE64, $enter64

        .code64
enter64:
        mov $probe, %ebx
        mov %esp, %esp
        mov PROBE_GVA(%rbx), %rdx
        mov PROBE_VALUE(%rbx), %eax
        mov PROBE_OP(%rbx), %ecx
        jmp *%rcx
done64:
        mov $far_done, %ecx
        ljmpl *(%rcx)

        .globl op_read64, op_write64, op_fetch64, op_user64, op_invlpg64, op_write_wide64, op_read_wide64
        .macro load_flags
        mov PROBE_FLAGS(%rbx), %ecx
        push %rcx
        popfq
        .endm
op_read64:
        load_flags
        mov (%rdx), %eax
        jmp done64
op_write64:
        load_flags
        mov %eax, (%rdx)
        jmp done64
op_fetch64:
        load_flags
        call *%rdx
        jmp done64
op_invlpg64:
        invlpg (%rdx)
        jmp done64
op_write_wide64:
        mov $probe_wide, %ecx
        mov (%rcx), %rax
        mov %rax, (%rdx)
        jmp done64
op_read_wide64:
        mov (%rdx), %rax
        mov $probe_wide, %ecx
        mov %rax, (%rcx)
        jmp done64
op_user64:
        pushq $SEL_DATA
        pushq $0
        mov PROBE_FLAGS(%rbx), %ecx
        push %rcx
        pushq $SEL_USER64
        mov PROBE_USER_STUB(%rbx), %ecx
        push %rcx
        iretq

        .data
        .balign 4
far_done:
        .long probe_done32
        .word SEL_CODE32

        .section .note.GNU-stack, "", @progbits
