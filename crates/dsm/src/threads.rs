//! The engine's threads: they live in QEMU's process, whose signals are none of their business.

use crate::DsmError;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A flag that wakes threads in `poll`: readable for ever once raised.
#[derive(Clone)]
pub(crate) struct StopFlag(Arc<OwnedFd>);

impl StopFlag {
    pub(crate) fn new() -> Result<Self, DsmError> {
        // SAFETY: eventfd takes plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_error("eventfd"));
        }
        // SAFETY: the kernel just returned this descriptor and nobody else knows it.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn raise(&self) {
        use std::os::fd::AsRawFd;
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from `one`, which has them. A full counter (EAGAIN) is as good as a raised one.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// Starts a thread in which all signals are blocked from its first instruction on.
///
/// # Errors
/// The system has no room for a thread.
pub fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, DsmError> {
    let builder = std::thread::Builder::new().name(name);
    lev_threads::spawn_quiet(builder, body).map_err(|error| DsmError::System {
        call: "pthread_create",
        at: 0,
        errno: error.raw_os_error().unwrap_or(0),
    })
}

/// Lets the calling thread run before any ordinary one, vCPUs above all: somebody waits for what it handles, and it works
/// for microseconds at a time. Where that is not allowed (no CAP_SYS_NICE, no RLIMIT_RTPRIO) it stays ordinary, and a
/// remote fault may wait for a time slice.
pub fn serve_first() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the calling thread (0), a valid policy and priority.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters)
    };
}

/// Asks the kernel not to add slack (50 us by default) to this thread's sleeps.
pub(crate) fn wake_exactly() {
    // SAFETY: PR_SET_TIMERSLACK takes plain numbers and concerns this thread only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

fn last_error(call: &'static str) -> DsmError {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    DsmError::System { call, at: 0, errno }
}
