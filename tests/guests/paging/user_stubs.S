// SPDX-License-Identifier: BSL-1.0
// What runs at CPL 3. Every encoding here means the same in 32-bit and in 64-bit code, so one page serves both.
// In: edx/rdx the address, eax the value. Out: eax, by int 0x80.

        .section .user, "ax"
        .globl user_read, user_write, user_fetch, user_load_fs, user_return
user_read:
        mov (%edx), %eax
        int $0x80
user_write:
        mov %eax, (%edx)
        int $0x80
user_fetch:
        jmp *%edx
user_load_fs:
        mov %eax, %fs
user_return:
        int $0x80

        .section .note.GNU-stack, "", @progbits
