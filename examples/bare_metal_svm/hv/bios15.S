// SPDX-License-Identifier: BSL-1.0
// The guest's INT 15h of real mode, in front of the BIOS's: memory is what `answers` says, all else goes on to the BIOS.
// bios.cpp copies it into a page of the guest's, where it begins at offset 0 of its segment. ACPI 6.4, 15.1 (E820).
#define AT(label) (label - bios15)
#define OLD_VECTOR AT(bios15_answers)  // struct Answers of bios.cpp
#define COUNT (AT(bios15_answers) + 4)
#define BELOW_16M (AT(bios15_answers) + 8)
#define ABOVE_16M (AT(bios15_answers) + 10)
#define BELOW_64M (AT(bios15_answers) + 12)
#define ENTRIES (AT(bios15_answers) + 14)
#define ENTRY_BYTES 20

    .section .rodata
    .code16
    .globl bios15, bios15_answers
bios15:
    cmpw $0xE820, %ax
    je map
    cmpw $0xE801, %ax
    je two_sizes
    cmpw $0xE881, %ax
    je two_wide_sizes
    cmpb $0x88, %ah
    je one_size
    ljmpw *%cs:OLD_VECTOR

map:
    cmpl $0x534D4150, %edx  // "SMAP"
    jne refuse
    cmpl $ENTRY_BYTES, %ecx
    jb refuse
    cmpl %cs:COUNT, %ebx
    jae refuse
    pushw %si
    pushw %di
    imulw $ENTRY_BYTES, %bx, %si
    addw $ENTRIES, %si
    movw $(ENTRY_BYTES / 2), %cx
    cld  // the IRET gives DF back
    rep movsw %cs:(%si), %es:(%di)
    popw %di
    popw %si
    incl %ebx
    cmpl %cs:COUNT, %ebx
    jb 1f
    xorl %ebx, %ebx
1:  movl %edx, %eax
    movl $ENTRY_BYTES, %ecx
    jmp done

two_wide_sizes:
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
two_sizes:
    movw %cs:BELOW_16M, %ax
    movw %ax, %cx
    movw %cs:ABOVE_16M, %bx
    movw %bx, %dx
    jmp done

one_size:
    movw %cs:BELOW_64M, %ax
done:
    pushw %bp
    movw %sp, %bp
    andb $0xFE, 6(%bp)  // CF, in the flags behind BP, IP and CS
    popw %bp
    iretw

refuse:
    movb $0x86, %ah  // no such function
    pushw %bp
    movw %sp, %bp
    orb $1, 6(%bp)
    popw %bp
    iretw
    .balign 4
bios15_answers:
    .code64

    .section .note.GNU-stack, "", @progbits
