// SPDX-License-Identifier: BSL-1.0
// The NMI: keeps the interrupted thread's registers on its stack and goes on with whatever nmi_switch says.
    .section .text
    .globl nmi_entry
nmi_entry:
    .irp r, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\r
    .endr
    movq %rsp, %rdi
    cld
    call nmi_switch
    movq %rax, %rsp
    .irp r, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
    popq %\r
    .endr
    stgi  // off where give_way came here
    iretq

// void svm_run_interruptibly(uint64_t vmcb_physical, uint64_t gpr[16]): an NMI that ended the guest's time is taken
// right behind STGI, so that the handler can tell.
    .globl svm_run_interruptibly, after_vmexit
svm_run_interruptibly:
    subq $8, %rsp
    call svm_run
    stgi
after_vmexit:
    addq $8, %rsp
    ret

    .section .note.GNU-stack, "", @progbits
