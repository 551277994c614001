// SPDX-License-Identifier: BSL-1.0
// Probes of control-register writes, interrupts from ring 0, and stores into tables by way of the stack.

#include "layout.inc"

        .text
        .globl op_write_cr0, op_write_cr3, op_write_cr4, op_write_efer, op_int3
op_write_cr0:
        mov %eax, %cr0
        jmp probe_done32
op_write_cr3:
        mov %eax, %cr3
        jmp probe_done32
op_write_cr4:
        mov %eax, %cr4
        jmp probe_done32
op_write_efer:
        mov $0xc0000080, %ecx
        xor %edx, %edx
        wrmsr
        jmp probe_done32
op_int3:
        int3
        jmp probe_done32

        // void store_by_push(u32 slot, u32 low, u32 high, u32 bytes)
        .globl store_by_push, store_by_call, store_by_pushes
store_by_push:
        mov 4(%esp), %eax
        mov 8(%esp), %ecx
        mov 12(%esp), %edx
        push %ebx
        mov %esp, %ebx
        cmpl $8, 20(%esp)
        jne 1f
        lea 8(%eax), %esp
        push %edx
        jmp 2f
1:      lea 4(%eax), %esp
2:      push %ecx
        mov %ebx, %esp
        pop %ebx
        ret

        // void store_by_call(u32 slot): the return address becomes the low half of the entry
store_by_call:
        mov 4(%esp), %eax
        push %ebx
        mov %esp, %ebx
        lea 4(%eax), %esp
        jmp 2f
        .balign 256
        .skip 0x62, 0x90
2:      call 1f                         // five bytes long: the address ends in 0x67, a fine set of rights
1:      mov %ebx, %esp
        pop %ebx
        ret

        // void store_by_pushes(u32 slot, u32 value): eight copies of value, upwards from slot
store_by_pushes:
        mov %esp, saved
        pushal
        mov %esp, saved2
        mov saved, %eax
        mov 8(%eax), %ecx
        mov 4(%eax), %eax
        lea 32(%eax), %esp
        mov %ecx, %eax
        mov %ecx, %edx
        mov %ecx, %ebx
        mov %ecx, %ebp
        mov %ecx, %esi
        mov %ecx, %edi
        push %eax
        push %ecx
        push %edx
        push %ebx
        push %eax
        push %ebp
        push %esi
        push %edi
        mov saved2, %esp
        popal
        ret

        .bss
        .balign 4
saved:  .space 4
saved2: .space 4

        .section .note.GNU-stack, "", @progbits
