// SPDX-License-Identifier: BSL-1.0
// void svm_run(uint64_t vmcb_physical, uint64_t gpr[16]): one trip into the guest. RAX and RSP travel in the VMCB.
// What VMRUN
// leaves alone of the guest's state (FS, GS, TR, system MSRs, x87, SSE) stays in the CPU: the host uses none.
    .section .text
    .globl svm_run
svm_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rsi
    movq %rdi, %rax
    movq 1*8(%rsi), %rcx
    movq 2*8(%rsi), %rdx
    movq 3*8(%rsi), %rbx
    movq 5*8(%rsi), %rbp
    movq 7*8(%rsi), %rdi
    movq 8*8(%rsi), %r8
    movq 9*8(%rsi), %r9
    movq 10*8(%rsi), %r10
    movq 11*8(%rsi), %r11
    movq 12*8(%rsi), %r12
    movq 13*8(%rsi), %r13
    movq 14*8(%rsi), %r14
    movq 15*8(%rsi), %r15
    movq 6*8(%rsi), %rsi
    vmrun %rax
    pushq %rsi
    movq 8(%rsp), %rsi
    popq 6*8(%rsi)
    movq %rcx, 1*8(%rsi)
    movq %rdx, 2*8(%rsi)
    movq %rbx, 3*8(%rsi)
    movq %rbp, 5*8(%rsi)
    movq %rdi, 7*8(%rsi)
    movq %r8, 8*8(%rsi)
    movq %r9, 9*8(%rsi)
    movq %r10, 10*8(%rsi)
    movq %r11, 11*8(%rsi)
    movq %r12, 12*8(%rsi)
    movq %r13, 13*8(%rsi)
    movq %r14, 14*8(%rsi)
    movq %r15, 15*8(%rsi)
    popq %rsi
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    cld
    ret

    .section .note.GNU-stack, "", @progbits
