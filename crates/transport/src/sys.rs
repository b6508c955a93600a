//! The system calls of a channel. All of the crate's `unsafe` is here.
#![allow(unsafe_code)]

use crate::TransportError;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// What a non-blocking transfer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes; 0 on a receive means the peer closed.
    Bytes(usize),
    /// Nothing to move now.
    WouldBlock,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// A descriptor is ready; for two, whether the first and the second are.
    Ready(bool, bool),
    /// A signal handler ran.
    Signal,
    /// Time over.
    Timeout,
}

/// What the result of a transfer means. A call that a signal cut off before any byte moved counts as
/// [`Moved::WouldBlock`]: the caller tries again or goes to wait.
fn moved(what: &'static str, result: isize) -> Result<Moved, TransportError> {
    if let Ok(bytes) = usize::try_from(result) {
        return Ok(Moved::Bytes(bytes));
    }
    match std::io::Error::last_os_error().raw_os_error() {
        // On Linux EWOULDBLOCK is EAGAIN.
        Some(libc::EAGAIN | libc::EINTR) => Ok(Moved::WouldBlock),
        // Sending on what the peer, or our own shutdown, has closed.
        Some(libc::EPIPE) => Err(TransportError::Closed),
        _ => Err(TransportError::last(what)),
    }
}

/// Sends what the socket takes at once; no SIGPIPE.
pub(crate) fn send_now(fd: RawFd, parts: &[IoSlice<'_>]) -> Result<Moved, TransportError> {
    // SAFETY: msghdr is a C struct of integers and pointers, for which all zeroes is a valid value (no name, no control data).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSlice is documented to be ABI-compatible with iovec; sendmsg only reads through the pointer.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len();
    // SAFETY: msg_iov points at msg_iovlen iovecs, each a live borrowed buffer; all outlive the call.
    let result = unsafe { libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    moved("send", result)
}

/// Receives what is there; `block`: waits until there is something (or a signal handler ran).
pub(crate) fn receive(fd: RawFd, into: &mut [u8], block: bool) -> Result<Moved, TransportError> {
    let flags = if block { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the pointer and length are those of one exclusively borrowed buffer.
    let result = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), flags) };
    moved("receive", result)
}

/// Waits until `first` (and `second`, if there) has one of `events`, with `sigmask` as the thread's signal mask while
/// waiting; `None`: no change of the mask, no time limit.
pub(crate) fn wait(
    first: RawFd,
    second: Option<RawFd>,
    events: libc::c_short,
    sigmask: Option<&libc::sigset_t>,
    limit: Option<Duration>,
) -> Result<Woken, TransportError> {
    let mut fds = [
        libc::pollfd {
            fd: first,
            events,
            revents: 0,
        },
        libc::pollfd {
            fd: second.unwrap_or(-1),
            events,
            revents: 0,
        },
    ];
    let limit = limit.map(|d| libc::timespec {
        tv_sec: libc::time_t::try_from(d.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(d.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let sigmask = sigmask.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: two pollfds of our own; timespec and sigset are null or borrowed for the call. ppoll skips negative fds.
    let result = unsafe { libc::ppoll(fds.as_mut_ptr(), 2, limit, sigmask) };
    match result {
        0 => Ok(Woken::Timeout),
        1.. => Ok(Woken::Ready(fds[0].revents != 0, fds[1].revents != 0)),
        _ => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => Ok(Woken::Signal),
            _ => Err(TransportError::last("ppoll")),
        },
    }
}

/// Ends both directions of a socket; threads that wait on it wake up.
pub(crate) fn shutdown(fd: RawFd) {
    // SAFETY: shutdown takes no pointers. Its only errors here (not connected any more) change nothing for the caller.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Sets an integer socket option.
fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> Result<(), TransportError> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the value pointer is to a live i32 and the length is its size.
    let result =
        unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), len) };
    if result == 0 {
        Ok(())
    } else {
        Err(TransportError::last("setsockopt"))
    }
}

/// Options of every channel: small frames leave at once, and a peer that is cut off is noticed within `silence`, if given.
pub(crate) fn tune(fd: RawFd, silence: Option<Duration>) -> Result<(), TransportError> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    let Some(silence) = silence else {
        return Ok(());
    };
    let millis = i32::try_from(silence.as_millis()).unwrap_or(i32::MAX);
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1)?;
    set_option(
        fd,
        libc::IPPROTO_TCP,
        libc::TCP_KEEPCNT,
        (millis / 1000).max(1),
    )?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis)
}

/// A counter that wakes [`wait`] when it is above zero.
pub(crate) fn event() -> Result<OwnedFd, TransportError> {
    // SAFETY: eventfd takes no pointers.
    let fd = unsafe {
        libc::eventfd(
            0,
            libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE,
        )
    };
    if fd < 0 {
        return Err(TransportError::last("eventfd"));
    }
    // SAFETY: eventfd just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an [`event`].
pub(crate) fn raise(event: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes of our own. It can only fail when the counter is full, which wakes as well.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Takes one from an [`event`]; nothing happens at zero.
pub(crate) fn lower(event: &OwnedFd) {
    let mut count = [0u8; 8];
    // SAFETY: eight bytes of our own; the descriptor does not block.
    unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// Starts a thread that no signal reaches.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), TransportError> {
    let builder = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 << 10);
    lev_threads::spawn_quiet(builder, body)
        .map(|_| ())
        .map_err(|error| TransportError::io("starting a thread", &error))
}

/// Receives exactly `into` before `deadline`; `Ok(n)` short of it when the peer closed.
pub(crate) fn receive_exact(
    fd: RawFd,
    into: &mut [u8],
    limit: &Deadline,
) -> Result<usize, TransportError> {
    let mut have = 0;
    while have < into.len() {
        match receive(fd, &mut into[have..], false)? {
            Moved::Bytes(0) => break,
            Moved::Bytes(n) => have += n,
            Moved::WouldBlock => limit.wait(fd, libc::POLLIN)?,
        }
    }
    Ok(have)
}

/// Sends all of `bytes` before `deadline`.
pub(crate) fn send_all(
    fd: RawFd,
    mut bytes: &[u8],
    limit: &Deadline,
) -> Result<(), TransportError> {
    while !bytes.is_empty() {
        match send_now(fd, &[IoSlice::new(bytes)])? {
            Moved::Bytes(n) => bytes = &bytes[n..],
            Moved::WouldBlock => limit.wait(fd, libc::POLLOUT)?,
        }
    }
    Ok(())
}

/// A point in time by which something must have happened.
pub(crate) struct Deadline {
    what: &'static str,
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now for `what`.
    pub(crate) fn new(what: &'static str, limit: Duration) -> Self {
        Self {
            what,
            start: Instant::now(),
            limit,
        }
    }

    /// Time left, or the error that says that there is none.
    pub(crate) fn left(&self) -> Result<Duration, TransportError> {
        let left = self.limit.saturating_sub(self.start.elapsed());
        if left.is_zero() {
            return Err(TransportError::Timeout {
                what: self.what,
                waited_ms: self.waited_ms(),
            });
        }
        Ok(left)
    }

    /// Milliseconds since the start.
    pub(crate) fn waited_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for `events`; signals do not shorten the time.
    fn wait(&self, fd: RawFd, events: libc::c_short) -> Result<(), TransportError> {
        wait(fd, None, events, None, Some(self.left()?)).map(|_| ())
    }
}
