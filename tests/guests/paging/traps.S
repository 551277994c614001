// SPDX-License-Identifier: BSL-1.0
// Exception entries. A stub is 16 bytes, so that the vector tables need no list of addresses. Both widths fill
// struct Trap, ask trap_decide() whether to resume or to abandon the probe, and end a probe on int 0x80.

#include "layout.inc"

        .set has_error_mask, 0x00227d00 // 8, 10-14, 17, 21


        .text
        .globl trap_stubs32, trap_stubs64
        .balign 16
trap_stubs32:
        .set n, 0
        .rept 33
        .balign 16
        .if (n == 32) || !((has_error_mask >> (n & 31)) & 1)
        push $0
        .endif
        .if n == 32
        pushl $0x80
        .else
        push $n
        .endif
        jmp common32
        .set n, n + 1
        .endr

common32:
        cmpl $0x80, (%esp)
        je syscall32
        pushal
        mov 32(%esp), %eax
        mov %eax, trap + TRAP_VECTOR
        mov 36(%esp), %eax
        mov %eax, trap + TRAP_ERROR
        mov 40(%esp), %eax
        mov %eax, trap + TRAP_IP
        movl $0, trap + TRAP_IP + 4
        mov 44(%esp), %eax
        mov %eax, trap + TRAP_CS
        mov 48(%esp), %eax
        mov %eax, trap + TRAP_FLAGS
        mov %cr2, %eax
        mov %eax, trap + TRAP_CR2
        movl $0, trap + TRAP_CR2 + 4
        cld
        call trap_decide
        test %eax, %eax
        jz probe_recover32
        popal
        add $8, %esp
        iret
syscall32:
        mov %eax, probe + PROBE_VALUE
        jmp probe_recover32

trap64_in32:                            // compatibility mode, rsp below 4 GiB
        cld
        mov %esp, %ebp
        and $-16, %esp
        call trap_decide
        mov %ebp, %esp
        test %eax, %eax
        jz probe_recover32
        ljmp $SEL_CODE64, $trap64_resume

        .code64
        .balign 16
trap_stubs64:
        .set n, 0
        .rept 33
        .balign 16
        .if (n == 32) || !((has_error_mask >> (n & 31)) & 1)
        pushq $0
        .endif
        .if n == 32
        pushq $0x80
        .else
        pushq $n
        .endif
        jmp common64
        .set n, n + 1
        .endr

common64:
        cmpl $0x80, (%rsp)
        je syscall64
        push %rax
        push %rcx
        push %rdx
        push %rbx
        push %rbp
        push %rsi
        push %rdi
        mov $trap, %ebx
        mov 56(%rsp), %eax
        mov %eax, TRAP_VECTOR(%rbx)
        mov 64(%rsp), %eax
        mov %eax, TRAP_ERROR(%rbx)
        mov 72(%rsp), %rax
        mov %rax, TRAP_IP(%rbx)
        mov 80(%rsp), %eax
        mov %eax, TRAP_CS(%rbx)
        mov 88(%rsp), %eax
        mov %eax, TRAP_FLAGS(%rbx)
        mov %cr2, %rax
        mov %rax, TRAP_CR2(%rbx)
        mov $SEL_STACK, %eax
        mov %eax, %ss
        mov $far_trap, %ecx
        ljmpl *(%rcx)
trap64_resume:
        mov %esp, %esp
        pop %rdi
        pop %rsi
        pop %rbp
        pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        add $16, %rsp
        iretq
syscall64:
        mov $SEL_STACK, %ecx
        mov %ecx, %ss
        mov $probe, %ebx
        mov %eax, PROBE_VALUE(%rbx)
        mov $far_recover, %ecx
        ljmpl *(%rcx)

        .data
        .balign 4
far_trap:
        .long trap64_in32
        .word SEL_CODE32
        .balign 4
far_recover:
        .long probe_recover32
        .word SEL_CODE32

        .section .note.GNU-stack, "", @progbits
