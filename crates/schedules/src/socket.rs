//! A socket with little room, and the rest of what the sender has around it.

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread::JoinHandle;
use std::cell::RefCell;
use std::collections::HashMap;

/// Bytes that the socket takes before its reader must read.
const ROOM: usize = 24;

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

/// The socket.
#[derive(Default)]
pub(crate) struct Socket {
    state: Mutex<State>,
    changed: Condvar,
}

impl Socket {
    /// Takes all that is there; waits for something. `None`: the end.
    pub(crate) fn read(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock().unwrap();
        while state.bytes.is_empty() && !state.ended {
            state = self.changed.wait(state).unwrap();
        }
        let bytes = std::mem::take(&mut state.bytes);
        self.changed.notify_all();
        (!bytes.is_empty()).then_some(bytes)
    }

    fn take(&self, slices: &[std::io::IoSlice<'_>]) -> Result<usize, ()> {
        let mut state = self.state.lock().unwrap();
        if state.ended {
            return Err(());
        }
        let before = state.bytes.len();
        for slice in slices {
            let room = ROOM - state.bytes.len();
            state
                .bytes
                .extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.changed.notify_all();
        Ok(state.bytes.len() - before)
    }

    fn wait_for_room(&self) {
        let mut state = self.state.lock().unwrap();
        while state.bytes.len() == ROOM && !state.ended {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn end(&self) {
        self.state.lock().unwrap().ended = true;
        self.changed.notify_all();
    }
}

// All of a schedule's threads run on one thread of the system.
thread_local! {
    static SOCKETS: RefCell<HashMap<RawFd, Arc<Socket>>> = RefCell::default();
    static SPAWNED: RefCell<Vec<JoinHandle<()>>> = RefCell::default();
}

/// What the sender takes for the library's.
pub(crate) type RawFd = i32;

/// See [`RawFd`].
pub(crate) struct OwnedFd(RawFd);

/// See [`RawFd`].
pub(crate) trait AsRawFd {
    fn as_raw_fd(&self) -> RawFd;
}

impl AsRawFd for OwnedFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// A new socket, and nobody's threads.
pub(crate) fn open() -> (Arc<OwnedFd>, Arc<Socket>) {
    let socket = Arc::new(Socket::default());
    SOCKETS.with_borrow_mut(|sockets| sockets.insert(1, Arc::clone(&socket)));
    SPAWNED.with_borrow_mut(Vec::clear);
    (Arc::new(OwnedFd(1)), socket)
}

/// Waits for the threads that the sender started.
pub(crate) fn join_spawned() {
    for thread in SPAWNED.take() {
        thread.join().unwrap();
    }
}

fn socket(fd: RawFd) -> Arc<Socket> {
    SOCKETS.with_borrow(|sockets| Arc::clone(&sockets[&fd]))
}

/// `crates/transport/src/sys.rs`, as far as the sender uses it.
pub(crate) mod sys {
    use super::{socket, RawFd, SPAWNED};
    use crate::TransportError;
    use std::io::IoSlice;
    use std::time::Duration;

    #[derive(Debug, PartialEq, Eq)]
    pub(crate) enum Moved {
        Bytes(usize),
        WouldBlock,
    }

    pub(crate) fn send_now(fd: RawFd, slices: &[IoSlice<'_>]) -> Result<Moved, TransportError> {
        match socket(fd).take(slices) {
            Ok(0) => Ok(Moved::WouldBlock),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(()) => Err(TransportError::Io {
                what: "send",
                errno: libc::EPIPE,
            }),
        }
    }

    pub(crate) fn wait(
        fd: RawFd,
        _second: Option<RawFd>,
        _events: i16,
        _mask: Option<()>,
        _limit: Option<Duration>,
    ) -> Result<(), TransportError> {
        socket(fd).wait_for_room();
        Ok(())
    }

    pub(crate) fn shutdown(fd: RawFd) {
        socket(fd).end();
    }

    pub(crate) fn spawn(
        _name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), TransportError> {
        let thread = shuttle::thread::spawn(body);
        SPAWNED.with_borrow_mut(|spawned| spawned.push(thread));
        Ok(())
    }
}

/// No encryption in the models.
pub(crate) mod record {
    use crate::TransportError;
    use lev_wire::frame::HEADER_LEN;

    pub(crate) struct Sealer;

    pub(crate) fn sealed_len(plain: usize) -> usize {
        plain
    }

    impl Sealer {
        pub(crate) fn seal(
            &mut self,
            _header: &[u8; HEADER_LEN],
            _parts: &[&[u8]],
        ) -> Result<&[u8], TransportError> {
            Err(TransportError::Closed)
        }
    }
}
