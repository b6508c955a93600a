//! Threads that touch the region when a node was lost: the memory is gone, and its access ends in a signal. Here they stop
//! for good instead of ending the process, so that its first thread can still say what happened.

use std::sync::atomic::{AtomicU64, Ordering};

static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);

/// Stops threads that fault within `len` bytes from `base` on. One region of a process at a time.
///
/// # Errors
/// The handler could not be installed.
pub fn watch(base: u64, len: u64) -> Result<(), String> {
    START.store(base, Ordering::SeqCst);
    END.store(base + len, Ordering::SeqCst);
    // SAFETY: all of the structure is plain data, and a mask of zero is an empty one on Linux.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = stop as *const () as usize;
    // SAFETY: a handler of the type that SA_SIGINFO asks for, which calls only what may be called in one.
    match unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(format!("sigaction: {}", std::io::Error::last_os_error())),
    }
}

extern "C" fn stop(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid structure, which for SIGSEGV holds an address.
    let at = unsafe { (*info).si_addr() } as u64;
    if (START.load(Ordering::SeqCst)..END.load(Ordering::SeqCst)).contains(&at) {
        loop {
            // SAFETY: takes nothing, and may be called in a handler (signal-safety(7)).
            unsafe { libc::pause() };
        }
    }
    // SAFETY: plain numbers. Back in the instruction, the fault comes again and ends the process as it should.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
}
