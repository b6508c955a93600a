//! The instructions that the checks are about, exactly as written here.
//!
//! No block carries `nomem` or `pure`, so the compiler neither moves memory accesses across
//! one nor merges two of them; what remains is the order that the machine gives.

use core::arch::asm;

/// Body of one litmus thread: two locations, two values to store, two registers loaded.
///
/// # Safety
/// Both pointers must be valid for aligned 4-byte reads and writes. Other threads may access
/// the same words at the same time, by these functions only.
pub type Body = unsafe fn(*mut u32, *mut u32, u32, u32) -> (u32, u32);

macro_rules! body {
    ($(#[$doc:meta])* $name:ident, $($line:literal),+) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`Body`].
        pub unsafe fn $name(a: *mut u32, b: *mut u32, va: u32, vb: u32) -> (u32, u32) {
            let (mut r0, mut r1) = (0u32, 0u32);
            // SAFETY: the instructions touch only *a and *b, which the caller guarantees to be
            // valid and aligned; no stack, and flags are left alone by mov and mfence.
            unsafe {
                asm!(
                    $($line),+,
                    "/* {a} {b} {va:e} {vb:e} {r0:e} {r1:e} */",
                    a = in(reg) a, b = in(reg) b, va = in(reg) va, vb = in(reg) vb,
                    r0 = inout(reg) r0, r1 = inout(reg) r1,
                    options(nostack, preserves_flags)
                );
            }
            (r0, r1)
        }
    };
}

body!(
    /// `a = va`
    store, "mov dword ptr [{a}], {va:e}"
);
body!(
    /// `a = va; b = vb`
    store_store, "mov dword ptr [{a}], {va:e}", "mov dword ptr [{b}], {vb:e}"
);
body!(
    /// `a = va; r0 = b`
    store_load, "mov dword ptr [{a}], {va:e}", "mov {r0:e}, dword ptr [{b}]"
);
body!(
    /// `a = va; mfence; r0 = b`
    store_fence_load, "mov dword ptr [{a}], {va:e}", "mfence", "mov {r0:e}, dword ptr [{b}]"
);
body!(
    /// `r0 = a; r1 = b`
    load_load, "mov {r0:e}, dword ptr [{a}]", "mov {r1:e}, dword ptr [{b}]"
);
body!(
    /// `r0 = a; b = vb`
    load_store, "mov {r0:e}, dword ptr [{a}]", "mov dword ptr [{b}], {vb:e}"
);

/// `lock xadd` of 8 bytes at any alignment; returns the old value.
///
/// # Safety
/// `p` must be valid for 8 bytes of reads and writes; concurrent accesses to these bytes must
/// be locked instructions or plain byte-wise ones of this module.
pub unsafe fn lock_xadd_u64(p: *mut u8, add: u64) -> u64 {
    let mut value = add;
    // SAFETY: touches only the 8 bytes at p, valid by the caller's promise.
    unsafe {
        asm!("lock xadd qword ptr [{p}], {v}", p = in(reg) p, v = inout(reg) value,
             options(nostack));
    }
    value
}

/// Adds (1, 2) to the two 64-bit halves of a 16-byte cell by `lock cmpxchg16b`; returns what the
/// low half held before.
///
/// # Safety
/// `p` must be 16-byte aligned, valid for 16 bytes, and the CPU must have CMPXCHG16B.
pub unsafe fn lock_cmpxchg16b_add(p: *mut u64) -> u64 {
    // Each half for itself: if another thread writes in between, the first attempt fails.
    // SAFETY: 16 valid bytes at p.
    let (mut lo, mut hi) = unsafe { (p.read_volatile(), p.add(1).read_volatile()) };
    loop {
        let (old_lo, old_hi) = (lo, hi);
        // SAFETY: touches the 16 bytes at p (valid, aligned by the caller's promise). rbx
        // belongs to the compiler: it is exchanged for the operand and put back.
        unsafe {
            asm!("xchg rbx, rsi", "lock cmpxchg16b xmmword ptr [rdi]", "mov rbx, rsi",
                 in("rdi") p,
                 inout("rsi") old_lo.wrapping_add(1) => _, in("rcx") old_hi.wrapping_add(2),
                 inout("rax") lo, inout("rdx") hi,
                 options(nostack));
        }
        if (lo, hi) == (old_lo, old_hi) {
            return old_lo;
        }
    }
}

/// Plain 8-byte store at any alignment.
///
/// # Safety
/// `p` must be valid for 8 bytes of writes.
pub unsafe fn store_u64(p: *mut u8, value: u64) {
    // SAFETY: writes only the 8 bytes at p, valid by the caller's promise.
    unsafe {
        asm!("mov qword ptr [{p}], {v}", p = in(reg) p, v = in(reg) value,
             options(nostack, preserves_flags));
    }
}

/// Plain 8-byte load at any alignment.
///
/// # Safety
/// `p` must be valid for 8 bytes of reads.
pub unsafe fn load_u64(p: *const u8) -> u64 {
    let value;
    // SAFETY: reads only the 8 bytes at p, valid by the caller's promise.
    unsafe {
        asm!("mov {v}, qword ptr [{p}]", p = in(reg) p, v = out(reg) value,
             options(nostack, preserves_flags));
    }
    value
}

/// `(eax, ebx, ecx, edx)` of CPUID; also the serialising instruction of the SDM's protocol for
/// cross-modified code.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (mut a, mut c) = (leaf, subleaf);
    let (b, d): (u64, u32);
    // SAFETY: CPUID is unprivileged on every x86-64 CPU and touches no memory; rbx is put back.
    unsafe {
        asm!("mov {b:r}, rbx", "cpuid", "xchg {b:r}, rbx",
             b = out(reg) b, inout("eax") a, inout("ecx") c, out("edx") d,
             options(nostack, preserves_flags));
    }
    [a, b as u32, c, d]
}

/// Whether the CPU has CMPXCHG16B (CPUID.1:ECX bit 13).
pub fn has_cmpxchg16b() -> bool {
    cpuid(1, 0)[2] & (1 << 13) != 0
}

/// Whether the CPU has RDTSCP (CPUID.80000001H:EDX bit 27).
pub fn has_rdtscp() -> bool {
    cpuid(0x8000_0000, 0)[0] >= 0x8000_0001 && cpuid(0x8000_0001, 0)[3] & (1 << 27) != 0
}

/// The time-stamp counter, unordered and cheap.
pub fn rdtsc() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: RDTSC is allowed in user space under Linux (CR4.TSD clear) and touches no memory.
    unsafe {
        asm!("rdtsc", out("eax") lo, out("edx") hi, options(nostack, preserves_flags));
    }
    u64::from(hi) << 32 | u64::from(lo)
}

/// The time-stamp counter, read after all earlier loads and before all later instructions.
pub fn rdtsc_ordered(rdtscp: bool) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: as for `rdtsc`; RDTSCP is used only where CPUID announces it (the caller's flag
    // comes from `has_rdtscp`). ecx receives IA32_TSC_AUX.
    unsafe {
        if rdtscp {
            asm!("lfence", "rdtscp", "lfence", out("eax") lo, out("edx") hi, out("ecx") _,
                 options(nostack, preserves_flags));
        } else {
            asm!("lfence", "rdtsc", "lfence", out("eax") lo, out("edx") hi,
                 options(nostack, preserves_flags));
        }
    }
    u64::from(hi) << 32 | u64::from(lo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_do_what_their_names_say() {
        let run = |body: Body| {
            let mut m = [5u32, 6];
            let [a, b] = &mut m;
            // SAFETY: both point to live, aligned words of this thread.
            let regs = unsafe { body(a, b, 1, 2) };
            (m, regs)
        };
        assert_eq!(run(store), ([1, 6], (0, 0)));
        assert_eq!(run(store_store), ([1, 2], (0, 0)));
        assert_eq!(run(store_load), ([1, 6], (6, 0)));
        assert_eq!(run(store_fence_load), ([1, 6], (6, 0)));
        assert_eq!(run(load_load), ([5, 6], (5, 6)));
        assert_eq!(run(load_store), ([5, 2], (5, 0)));
    }

    #[test]
    fn locked_and_wide_accesses_work_across_lines() {
        let mut bytes = [0u8; 256];
        let base = bytes.as_mut_ptr();
        // SAFETY: 60 + 8 bytes lie inside the array.
        unsafe {
            let p = base.add(60);
            assert_eq!(lock_xadd_u64(p, 3), 0);
            assert_eq!(lock_xadd_u64(p, 4), 3);
            assert_eq!(load_u64(p), 7);
            store_u64(p, u64::MAX);
            assert_eq!(load_u64(p), u64::MAX);
        }
        assert_eq!((bytes[59], bytes[68]), (0, 0));
    }

    #[test]
    fn sixteen_byte_add_carries_both_halves() {
        #[repr(align(16))]
        struct Cell([u64; 2]);
        let mut cell = Cell([7, 9]);
        if has_cmpxchg16b() {
            // SAFETY: aligned to 16 and live; the CPU has the instruction.
            assert_eq!(unsafe { lock_cmpxchg16b_add(cell.0.as_mut_ptr()) }, 7);
            assert_eq!(cell.0, [8, 11]);
        }
    }

    #[test]
    fn the_time_stamp_counter_advances() {
        let before = rdtsc_ordered(has_rdtscp());
        assert!(rdtsc_ordered(false) > before);
        assert!(rdtsc() > before);
    }
}
