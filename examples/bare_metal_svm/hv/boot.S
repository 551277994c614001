// SPDX-License-Identifier: BSL-1.0
// From the multiboot loader's 32-bit mode to hv_main in long mode, with the first 512 GiB mapped one to one, and
// once more behind them.
#define MB_MAGIC 0x1BADB002
#define MB_FLAGS 3  // modules on page boundaries, memory map wanted

    .section .multiboot, "a"
    .balign 4
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

    .section .bss
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_stack:
    .skip 65536
boot_stack_end:

    .section .rodata
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff  // 0x08: 64-bit code
    .quad 0x00cf93000000ffff  // 0x10: data
boot_gdt_pointer:
    .word boot_gdt_pointer - boot_gdt - 1
    .quad boot_gdt

    .section .text
    .code32
    .globl _start
_start:
    cli
    cld
    movl $boot_stack_end, %esp
    movl %eax, %edi  // the two arguments of hv_main
    movl %ebx, %esi

    movl $boot_pdpt + 3, boot_pml4
    movl $boot_pdpt + 3, boot_pml4 + 8
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $30, %eax
    orl $0x83, %eax
    movl %eax, boot_pdpt(, %ecx, 8)
    movl %ecx, %eax
    shrl $2, %eax
    movl %eax, boot_pdpt + 4(, %ecx, 8)
    incl %ecx
    cmpl $512, %ecx
    jne 1b

    movl $0x20, %eax  // PAE
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x100, %eax  // LME
    wrmsr
    movl $0x80010033, %eax  // PG WP NE ET MP PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $0x08, $2f

    .code64
2:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $boot_stack_end, %esp
    xorl %ebp, %ebp
    movl %edi, %edi
    movl %esi, %esi
    call hv_main
3:  hlt
    jmp 3b

    .section .note.GNU-stack, "", @progbits
