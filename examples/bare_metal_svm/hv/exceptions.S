// SPDX-License-Identifier: BSL-1.0
// Exceptions of the hypervisor itself: all of them are bugs, so report and stop.
    .section .text
    .altmacro
    .macro thunk vector
stub_\vector:
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21)
    .else
    pushq $0
    .endif
    pushq $\vector
    jmp common
    .endm
    .set i, 0
    .rept 32
    thunk %i
    .set i, i + 1
    .endr

common:
    movq %rsp, %rdi
    cld
    call host_exception
1:  hlt
    jmp 1b

    .section .rodata
    .globl exception_stubs
    .balign 8
exception_stubs:
    .macro entry vector
    .quad stub_\vector
    .endm
    .set i, 0
    .rept 32
    entry %i
    .set i, i + 1
    .endr

    .section .note.GNU-stack, "", @progbits
