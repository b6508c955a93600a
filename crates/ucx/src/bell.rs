//! Waking the thread that sleeps for UCX.

use crate::UcxError;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The calling thread's last errno, for a system call named `what`.
pub(crate) fn failed(what: &'static str) -> UcxError {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    UcxError::System { what, errno }
}

/// A bell that one thread waits for and any thread rings.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> Result<Self, UcxError> {
        // SAFETY: eventfd takes plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(failed("eventfd"));
        }
        // SAFETY: the kernel just returned this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Ends the wait that is under way, or the next one.
    pub(crate) fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from `one`, which has them. A full counter (EAGAIN) rings as well.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Waits until the bell rings, `other` can be read, or `limit` is over.
    pub(crate) fn wait(&self, other: RawFd, limit: Duration) {
        let poll = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [poll(self.0.as_raw_fd()), poll(other)];
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: two pollfds of our own. An error (a signal) is as good as the end of the time: the caller looks itself.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, limit) };
        let mut count = [0u8; 8];
        // SAFETY: eight bytes are written to `count`, which has them; nothing to read (EAGAIN) is what we want.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Fills `bytes` with random ones.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), UcxError> {
    // SAFETY: the pointer and length are those of one exclusively borrowed buffer. Up to 256 bytes come at once or not at all
    // (getrandom(2)); here it is 16.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) == Ok(bytes.len()) {
        Ok(())
    } else {
        Err(failed("getrandom"))
    }
}
