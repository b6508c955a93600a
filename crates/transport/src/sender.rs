//! The sending half of a channel: many threads, whole frames, and nobody waits for a slow peer.

use crate::outbox::Outbox;
use crate::record::{sealed_len, Sealer};
use crate::sys::{self, Moved};
use crate::{TransportError, QUEUE_LIMIT};
use lev_wire::frame::{Header, HEADER_LEN, MAX_PAYLOAD};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Parts of a frame that go to the socket without being copied together first.
const PARTS_MAX: usize = 15;

/// Sends frames. Clones share the channel; the socket lives as long as any half of the channel.
#[derive(Clone)]
pub struct Sender {
    handle: Arc<Handle>,
}

/// Tells the flusher, when the last clone is dropped, to finish what is queued and end.
struct Handle {
    shared: Arc<Shared>,
}

/// What the senders and the flusher share.
struct Shared {
    socket: Arc<OwnedFd>,
    state: Mutex<State>,
    /// Signalled when the queue gets bytes and when the senders are gone.
    work: Condvar,
    bytes: AtomicU64,
    frames: AtomicU64,
}

/// What the lock protects.
struct State {
    outbox: Outbox,
    sealer: Option<Sealer>,
    /// The first error; a channel that lost bytes never sends again.
    failed: Option<TransportError>,
    flusher: bool,
    closing: bool,
}

impl Shared {
    /// The state; a panic elsewhere cannot leave it half-changed in a way that matters here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// The sender of a channel; `sealer` if it is encrypted.
    pub(crate) fn new(socket: Arc<OwnedFd>, sealer: Option<Sealer>) -> Self {
        let outbox = Outbox::default();
        let state = State {
            outbox,
            sealer,
            failed: None,
            flusher: false,
            closing: false,
        };
        let shared = Arc::new(Shared {
            socket,
            state: Mutex::new(state),
            work: Condvar::new(),
            bytes: AtomicU64::new(0),
            frames: AtomicU64::new(0),
        });
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    /// Sends one frame whose payload is `parts` one after the other. The frame goes out whole, behind every frame
    /// whose `send` returned before. Never waits for the peer: what the socket does not take at once is copied to a
    /// queue that a thread, started when it is first needed, drains.
    ///
    /// `parts` are read during the call only. In the process that serves userfaultfd they must be resident: the
    /// kernel reads them while the channel's lock is held.
    ///
    /// # Errors
    /// [`TransportError::FrameTooLarge`] and [`TransportError::QueueFull`]: the frame was not taken, the channel goes
    /// on. Anything else: the channel has ended, and every later call says so again.
    pub fn send(
        &self,
        kind: u16,
        tag: u16,
        arg: u64,
        parts: &[&[u8]],
    ) -> Result<(), TransportError> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let too_large = TransportError::FrameTooLarge {
            len,
            limit: MAX_PAYLOAD,
        };
        let len = match u32::try_from(len) {
            Ok(announced) if len <= MAX_PAYLOAD => announced,
            _ => return Err(too_large),
        };
        let header = Header {
            kind,
            tag,
            len,
            arg,
        }
        .encode();
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let wire = transmit(shared, &mut state, &header, parts)?;
        shared.bytes.fetch_add(wire as u64, Ordering::Relaxed);
        shared.frames.fetch_add(1, Ordering::Relaxed);
        if state.outbox.len() > 0 {
            return self.flush_later(&mut state);
        }
        Ok(())
    }

    /// Sees to it that the flusher runs and knows that there is work.
    fn flush_later(&self, state: &mut State) -> Result<(), TransportError> {
        let shared = &self.handle.shared;
        if !state.flusher {
            let body = Arc::clone(shared);
            if let Err(error) = sys::spawn("lev-flush", move || flush(&body)) {
                return Err(fail(shared, state, error));
            }
            state.flusher = true;
        }
        shared.work.notify_one();
        Ok(())
    }

    /// Bytes given to this channel so far, queued ones included, as they are on the wire.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.handle.shared.bytes.load(Ordering::Relaxed)
    }

    /// Frames given to this channel so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.handle.shared.frames.load(Ordering::Relaxed)
    }

    /// Bytes that wait for the peer to read.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.handle.shared.lock().outbox.len()
    }

    /// Ends the channel in both directions. What the kernel has taken still reaches the peer, queued bytes do not.
    /// Both receivers see the end; later sends fail.
    pub fn shutdown(&self) {
        let mut state = self.handle.shared.lock();
        fail(&self.handle.shared, &mut state, TransportError::Closed);
    }
}

/// Sends what the socket takes and queues the rest; the frame's bytes on the wire.
fn transmit(
    shared: &Shared,
    state: &mut State,
    header: &[u8; HEADER_LEN],
    parts: &[&[u8]],
) -> Result<usize, TransportError> {
    let frame = HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
    let wire = if state.sealer.is_some() {
        sealed_len(frame)
    } else {
        frame
    };
    let queued = state.outbox.len();
    // Before sealing: a record number that is used must be sent.
    if queued + wire > QUEUE_LIMIT {
        return Err(TransportError::QueueFull {
            queued,
            frame: wire,
            limit: QUEUE_LIMIT,
        });
    }
    let mut slices = [IoSlice::new(&[]); PARTS_MAX + 1];
    let joined;
    let used = if let Some(sealer) = &mut state.sealer {
        match sealer.seal(header, parts) {
            Ok(sealed) => slices[0] = IoSlice::new(sealed),
            // Record numbers may be used up that the peer will miss.
            Err(error) => return Err(fail(shared, state, error)),
        }
        1
    } else {
        slices[0] = IoSlice::new(header);
        if parts.len() <= PARTS_MAX {
            for (slice, part) in slices[1..].iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
            }
            1 + parts.len()
        } else {
            joined = parts.concat();
            slices[1] = IoSlice::new(&joined);
            2
        }
    };
    let mut sent = 0;
    if queued == 0 {
        match sys::send_now(shared.socket.as_raw_fd(), &slices[..used]) {
            Ok(Moved::Bytes(count)) => sent = count,
            Ok(Moved::WouldBlock) => {}
            Err(error) => return Err(fail(shared, state, error)),
        }
    }
    for slice in &slices[..used] {
        let skip = sent.min(slice.len());
        sent -= skip;
        state.outbox.push(&slice[skip..]);
    }
    Ok(wire)
}

/// Ends the channel for good, unless it has ended already; the error that senders are told.
fn fail(shared: &Shared, state: &mut State, error: TransportError) -> TransportError {
    state.outbox = Outbox::default();
    sys::shutdown(shared.socket.as_raw_fd());
    shared.work.notify_one();
    state.failed.get_or_insert(error).clone()
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }
}

/// The flusher: waits for queued bytes, then for the socket, and ends when the senders are gone or the channel failed.
fn flush(shared: &Shared) {
    let fd = shared.socket.as_raw_fd();
    loop {
        let mut state = shared.lock();
        while state.outbox.len() == 0 && !state.closing && state.failed.is_none() {
            state = shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed.is_some() || state.outbox.len() == 0 {
            return;
        }
        drop(state);
        // No time limit: TCP_USER_TIMEOUT or a shutdown ends the wait if the peer never reads.
        let woken = sys::wait(fd, None, libc::POLLOUT, None, None);
        let mut state = shared.lock();
        if state.failed.is_some() {
            return;
        }
        let moved = woken.and_then(|_| sys::send_now(fd, &state.outbox.front()));
        match moved {
            Ok(Moved::Bytes(count)) => state.outbox.advance(count),
            Ok(Moved::WouldBlock) => {}
            Err(error) => {
                fail(shared, &mut state, error);
                return;
            }
        }
    }
}
