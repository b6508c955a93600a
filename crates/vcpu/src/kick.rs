//! Waking a vCPU's thread: one real-time signal, blocked everywhere but inside `KVM_RUN` and `ppoll`.
//!
//! The kernel swaps signal masks atomically on entry to both, so a kick between "nothing to do" and the wait ends the
//! wait at once. The local APIC's timer uses the same signal through a POSIX timer aimed at the thread.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// The kick signal: above the ones that glibc keeps for itself, unused by QEMU.
pub const SIGNAL: i32 = 39;

extern "C" fn nothing(_signal: i32) {}

/// Gives the signal an empty handler, once a process: ending a wait is all that it is for.
///
/// # Errors
/// `sigaction` failed.
pub fn install() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid; the handler touches nothing, so it is safe in any thread.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        if libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The set that holds only the kick signal.
#[must_use]
pub fn set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the set before sigaddset changes it; SIGNAL is a valid number.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), SIGNAL);
        set.assume_init()
    }
}

/// Blocks the kick signal in the calling thread; returns the mask that lets it through, for `KVM_RUN` and `ppoll`.
#[must_use]
pub fn block_in_this_thread() -> libc::sigset_t {
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid; pthread_sigmask fills `old`.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &set(), old.as_mut_ptr());
        let mut old = old.assume_init();
        libc::sigdelset(&mut old, SIGNAL);
        old
    }
}

/// Every signal blocked in the calling thread, until dropped: what a signal handler sets cannot change between a look at
/// it and the wait, which lets signals through by [`Blocked::before`].
pub struct Blocked {
    before: libc::sigset_t,
    /// The mask belongs to the thread that made it.
    not_send: PhantomData<*mut ()>,
}

impl Blocked {
    /// Blocks all signals.
    #[must_use]
    pub fn all() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initializes `all`; pthread_sigmask, which cannot fail with SIG_SETMASK and valid pointers,
        // fills `before`.
        let before = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            before.assume_init()
        };
        Self {
            before,
            not_send: PhantomData,
        }
    }

    /// The mask that the thread had.
    #[must_use]
    pub fn before(&self) -> &libc::sigset_t {
        &self.before
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the mask that this thread had; the guard does not leave its thread.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Takes pending kicks out of the calling thread's queue.
pub fn drain() {
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: valid set and time; no information is asked for.
    unsafe { while libc::sigtimedwait(&set(), std::ptr::null_mut(), &zero) > 0 {} }
}

/// Sends the kick signal to a thread of this process.
pub fn thread(tid: i32) {
    // SAFETY: a signal number and ids; a thread that has ended is an error that does not matter.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, SIGNAL);
    }
}

/// The calling thread's kernel id.
#[must_use]
pub fn current_thread() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// A timer that kicks one thread.
#[derive(Debug)]
pub struct KickTimer {
    timer: libc::timer_t,
    armed_for: Option<u64>,
}

// SAFETY: a timer id is a kernel handle that any thread of the process may use.
unsafe impl Send for KickTimer {}

impl KickTimer {
    /// A timer for the calling thread.
    ///
    /// # Errors
    /// `timer_create` failed.
    pub fn for_this_thread() -> io::Result<Self> {
        let mut timer = MaybeUninit::<libc::timer_t>::uninit();
        // SAFETY: the event is zeroed and then filled; timer_create writes the id on success.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = SIGNAL;
            event.sigev_notify_thread_id = current_thread();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, timer.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self {
                timer: timer.assume_init(),
                armed_for: None,
            })
        }
    }

    /// Kicks at `deadline` (nanoseconds of CLOCK_MONOTONIC) instead of at any earlier setting; `None` stops it.
    pub fn set(&mut self, deadline: Option<u64>) {
        if deadline == self.armed_for {
            return;
        }
        let at = deadline.unwrap_or(0);
        let value = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: (at / 1_000_000_000) as i64,
                // A deadline of zero would mean "stop".
                tv_nsec: ((at % 1_000_000_000) as i64).max(i64::from(deadline.is_some())),
            },
        };
        // SAFETY: the timer exists until drop; the value is valid.
        unsafe {
            libc::timer_settime(
                self.timer,
                libc::TIMER_ABSTIME,
                &value,
                std::ptr::null_mut(),
            )
        };
        self.armed_for = deadline;
    }
}

impl Drop for KickTimer {
    fn drop(&mut self) {
        // SAFETY: created by timer_create, deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// Sleeps until a signal that `mask` lets through, or for `timeout_ns`.
pub fn wait(mask: &libc::sigset_t, timeout_ns: Option<u64>) {
    let time = timeout_ns.map(|ns| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: no descriptors; time and mask are valid or null.
    unsafe { libc::ppoll(std::ptr::null_mut(), 0, time, mask) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic_ns;

    #[test]
    fn a_kick_before_the_wait_ends_it() {
        install().unwrap();
        let mask = block_in_this_thread();
        thread(current_thread());
        let start = monotonic_ns();
        wait(&mask, Some(5_000_000_000));
        assert!(monotonic_ns() - start < 4_000_000_000);
    }

    #[test]
    fn a_blocked_signal_waits_for_the_guards_end() {
        install().unwrap();
        let blocked = Blocked::all();
        thread(current_thread());
        let pending = || {
            let mut set = set();
            // SAFETY: sigpending fills a set of ours.
            unsafe {
                libc::sigpending(&mut set);
                libc::sigismember(&set, SIGNAL) == 1
            }
        };
        assert!(pending());
        // SAFETY: a valid set and number.
        assert_eq!(unsafe { libc::sigismember(blocked.before(), SIGNAL) }, 0);
        drop(blocked);
        assert!(!pending());
    }

    #[test]
    fn the_timer_kicks_its_thread() {
        install().unwrap();
        let mask = block_in_this_thread();
        let mut timer = KickTimer::for_this_thread().unwrap();
        let start = monotonic_ns();
        timer.set(Some(start + 20_000_000));
        wait(&mask, Some(5_000_000_000));
        let took = monotonic_ns() - start;
        assert!((20_000_000..4_000_000_000).contains(&took), "{took} ns");
        drain();
    }
}
