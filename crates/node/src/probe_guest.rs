//! The guest of the probe: what every firmware and kernel does first, in the order in which they do it.
//!
//! It starts in real mode, as a processor does after reset, and goes on through protected mode to 64-bit code with paging,
//! reads CPUID and a device register, takes an exception and a page fault. Before each step it writes the step's number
//! to a port, so that whoever runs it knows how far it came. A paravirtual KVM runs some of this (64-bit code above all) and
//! no ordinary kernel.

use std::arch::global_asm;

/// Guest physical address at which the code is put, and its first instruction.
pub const BASE: usize = 0x8000;
/// Bytes of guest memory from address 0.
pub const MEMORY: usize = 0x1_0000;
/// Port of the step numbers.
pub const PORT: u16 = 0xe9;
/// Guest physical address of the device register: no memory is there.
pub const REGISTER: u64 = 0x2_0000;
/// What the guest writes to the device register.
pub const WRITTEN: u32 = 0x1e71_0001;
/// What the device register reads as.
pub const READ: u32 = 0x1e71_a7a4;
/// Steps by number, as users see them.
pub const STEPS: [&str; 7] = [
    "start",
    "real mode",
    "protected mode",
    "64-bit mode with paging",
    "CPUID and time-stamp counter",
    "access to a device register",
    "exceptions",
];

/// Where the guest leaves what it found.
pub mod result {
    /// Vendor from CPUID leaf 0: EBX, EDX, ECX.
    pub const VENDOR: usize = 0x6000;
    /// The time-stamp counter, two words.
    pub const CLOCK: usize = 0x6020;
    /// What the device register read as.
    pub const READ: usize = 0x6010;
    /// Exceptions taken: one for an undefined instruction, 0x100 for a page fault at an unmapped address.
    pub const EXCEPTIONS: usize = 0x6018;
}

const TABLES: usize = 0x1000;

global_asm!(
    r#"
    .section .rodata.lev_probe, "a"
    .globl lev_probe_start
    .globl lev_probe_end
    lev_probe_start:
    .code16
        cli
        movb $1, %al
        outb %al, ${port}
        lgdtl %cs:(3f - lev_probe_start)
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $0x08, $(2f - lev_probe_start + {base})
    .code32
    2:  movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movb $2, %al
        outb %al, ${port}
        movl $0x20, %eax
        movl %eax, %cr4
        movl ${tables}, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx
        rdmsr
        orl $0x100, %eax
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        ljmpl $0x18, $(4f - lev_probe_start + {base})
    .code64
    4:  movb $3, %al
        outb %al, ${port}
        movl $0x7ff0, %esp
        movb $4, %al
        outb %al, ${port}
        xorl %eax, %eax
        xorl %ecx, %ecx
        cpuid
        movl %ebx, {vendor}
        movl %edx, {vendor} + 4
        movl %ecx, {vendor} + 8
        rdtsc
        movl %eax, {clock}
        movl %edx, {clock} + 4
        movb $5, %al
        outb %al, ${port}
        movl ${register}, %edi
        movl ${written}, %eax
        movl %eax, (%rdi)
        movl (%rdi), %eax
        movl %eax, {read}
        movb $6, %al
        outb %al, ${port}
        movq $0, {exceptions}
        movl $(8f - lev_probe_start + {base}), %eax
        movl ${idt} + 6 * 16, %edi
        movw %ax, (%rdi)
        movl $0x8e000018, 2(%rdi)
        movw $0, 6(%rdi)
        movq $0, 8(%rdi)
        movl $(9f - lev_probe_start + {base}), %eax
        movl ${idt} + 14 * 16, %edi
        movw %ax, (%rdi)
        movl $0x8e000018, 2(%rdi)
        movw $0, 6(%rdi)
        movq $0, 8(%rdi)
        lidt 7f - lev_probe_start + {base}
        ud2
        movl $0x40000000, %edi
        movb (%rdi), %al
        hlt
    8:  addl $1, {exceptions}
        addq $2, (%rsp)
        iretq
    9:  movq %cr2, %rax
        cmpq %rdi, %rax
        jne 5f
        addl $0x100, {exceptions}
    5:  addq $8, %rsp
        addq $2, (%rsp)
        iretq
    3:  .word 31
        .long 6f - lev_probe_start + {base}
    7:  .word 15 * 16 - 1
        .quad {idt}
        .balign 8
    6:  .quad 0
        .quad 0x00cf9b000000ffff
        .quad 0x00cf93000000ffff
        .quad 0x00af9b000000ffff
    lev_probe_end:
    .code64
    .text
    "#,
    base = const BASE,
    port = const PORT,
    tables = const TABLES,
    vendor = const result::VENDOR,
    clock = const result::CLOCK,
    read = const result::READ,
    exceptions = const result::EXCEPTIONS,
    register = const REGISTER,
    written = const WRITTEN,
    idt = const 0x5000,
    options(att_syntax)
);

extern "C" {
    static lev_probe_start: u8;
    static lev_probe_end: u8;
}

/// The machine code, for address [`BASE`].
pub fn code() -> &'static [u8] {
    // SAFETY: both labels stand in one read-only section, the second behind the first.
    unsafe {
        let start = std::ptr::addr_of!(lev_probe_start);
        let end = std::ptr::addr_of!(lev_probe_end);
        std::slice::from_raw_parts(start, end as usize - start as usize)
    }
}

/// The guest's memory at the start: page tables that map the first 2 MiB onto themselves, and the code.
pub fn memory() -> Vec<u8> {
    let mut memory = vec![0; MEMORY];
    let mut entry = |at: usize, value: u64| {
        memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    entry(TABLES, 0x2003);
    entry(0x2000, 0x3003);
    entry(0x3000, 0x83);
    memory[BASE..BASE + code().len()].copy_from_slice(code());
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_its_place() {
        let code = code();
        assert!((100..0x1000).contains(&code.len()), "{}", code.len());
        // cli; mov $1, %al; out %al, $0xe9
        assert_eq!(code[..5], [0xfa, 0xb0, 1, 0xe6, 0xe9]);
        assert_eq!(memory()[BASE], 0xfa);
    }
}
