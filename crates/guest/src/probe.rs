//! Loads and stores that may fault, and say so instead of ending the process.

use crate::error::{Error, Result};
use std::arch::global_asm;
use std::sync::Once;

// Each probe returns its value in rax and 0 in rdx; the SIGSEGV handler sends a faulting one to
// `lev_probe_faulted`, which returns with 1 in rdx. Only the two marked instructions may fault.
global_asm!(
    ".global lev_probe_load, lev_probe_load_access",
    "lev_probe_load:",
    "xor edx, edx",
    "xor eax, eax",
    "lev_probe_load_access:",
    "mov rax, qword ptr [rdi]",
    "ret",
    ".global lev_probe_store, lev_probe_store_access",
    "lev_probe_store:",
    "xor edx, edx",
    "xor eax, eax",
    "lev_probe_store_access:",
    "mov qword ptr [rdi], rsi",
    "ret",
    ".global lev_probe_faulted",
    "lev_probe_faulted:",
    "mov edx, 1",
    "ret",
);

#[repr(C)]
struct Raw {
    value: u64,
    faulted: u64,
}

extern "C" {
    fn lev_probe_load(address: *const u64) -> Raw;
    fn lev_probe_store(address: *mut u64, value: u64) -> Raw;
    fn lev_probe_load_access();
    fn lev_probe_store_access();
    fn lev_probe_faulted();
}

extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: installed with SA_SIGINFO, so the kernel passes a ucontext_t that is ours to edit.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let at = *rip as usize;
    let may_fault = [
        lev_probe_load_access as *const (),
        lev_probe_store_access as *const (),
    ];
    if may_fault.iter().any(|probe| at == probe.addr()) {
        *rip = (lev_probe_faulted as *const ()).addr() as i64;
        return;
    }
    // Not a probe: a real fault. With the default action back, the instruction ends the process.
    // SAFETY: signal is async-signal-safe.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
}

/// Installs the handler, once for the process. Must come before any probe.
pub fn install() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is valid; the handler only edits the context.
        let rc = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = (on_fault as *const ()).addr();
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut())
        };
        if rc != 0 {
            result = Err(Error::last("sigaction"));
        }
    });
    result
}

fn value(raw: Raw) -> Option<u64> {
    (raw.faulted == 0).then_some(raw.value)
}

/// Loads 8 bytes; `None` when the access faults. Any address will do.
pub fn load(address: usize) -> Option<u64> {
    // SAFETY: reads 8 bytes; where they are not readable the handler turns the fault into a
    // return value. Racing stores are plain moves of aligned words: an old or a new value.
    value(unsafe { lev_probe_load(address as *const u64) })
}

/// Stores 8 bytes; `false` when the access faults.
///
/// # Safety
/// The 8 bytes must belong to a range that the caller may overwrite, mapped or not.
pub unsafe fn store(address: usize, new: u64) -> bool {
    // SAFETY: the caller owns the bytes; a fault becomes a return value.
    value(unsafe { lev_probe_store(address as *mut u64, new) }).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_see_values_and_faults() {
        install().expect("handler");
        let page = crate::sys::Mapping::new(1).expect("mmap");
        let at = page.at(16) as usize;
        // SAFETY: the word lies in the mapping made above.
        assert!(unsafe { store(at, 77) });
        assert_eq!(load(at), Some(77));
        assert_eq!(load(8), None);
        // SAFETY: page 0 is never mapped; the range is nobody's.
        assert!(!unsafe { store(8, 1) });
        // SAFETY: changes a mapping of this test only.
        unsafe { libc::mprotect(page.at(0).cast(), 4096, libc::PROT_READ) };
        assert_eq!(load(at), Some(77));
        // SAFETY: the word lies in the mapping made above.
        assert!(!unsafe { store(at, 78) });
        assert_eq!(load(at), Some(77));
    }
}
