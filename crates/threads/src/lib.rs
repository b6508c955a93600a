//! Threads that no signal reaches: in QEMU's process signals belong to QEMU's threads, in a Python program to Python's.

use std::thread::{Builder, JoinHandle};

/// Starts a thread in which all signals are blocked from its first instruction on, and in the threads that it starts.
///
/// # Errors
/// The system has no room for a thread.
pub fn spawn_quiet<T: Send + 'static>(
    builder: Builder,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises `all`; pthread_sigmask reads it and initialises `old`. A thread inherits the
    // mask of its creator, so the creator's is changed for a moment.
    let blocked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr())
    };
    if blocked != 0 {
        return Err(std::io::Error::from_raw_os_error(blocked));
    }
    let thread = builder.spawn(body);
    // SAFETY: `old` was initialised by the successful call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    thread
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the calling thread blocks SIGUSR1.
    fn blocks() -> bool {
        let mut now = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: without a new set pthread_sigmask only initialises `now`, which sigismember reads.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), now.as_mut_ptr());
            libc::sigismember(now.as_ptr(), libc::SIGUSR1) == 1
        }
    }

    #[test]
    fn signals_are_blocked_there_and_not_here() {
        let there = spawn_quiet(Builder::new().name("quiet".into()), || {
            let name = std::thread::current().name().map(str::to_owned);
            (blocks(), name)
        });
        assert_eq!(there.unwrap().join().unwrap(), (true, Some("quiet".into())));
        assert!(!blocks());
    }
}
