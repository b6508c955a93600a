//! The accepting side.

use crate::channel::{addresses, resolve, silence_limit, Channel};
use crate::handshake::{self, Stranger};
use crate::sys::{self, Deadline, Woken};
use crate::{Credentials, Purpose, TransportError, HANDSHAKE_TIMEOUT};
use lev_wire::NodeId;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Handshakes at a time; further connections wait in the kernel.
const HANDSHAKES_MAX: usize = 64;

/// Accepts channels at one address. Every handshake runs on a short-lived thread of its own, so that a stranger who
/// says nothing keeps nobody waiting; several threads may call [`Listener::accept`].
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    handshake_timeout: Duration,
    shared: Arc<Shared>,
}

/// A channel that a node asked for.
pub struct Accepted {
    /// Who asked.
    pub from: NodeId,
    /// What for.
    pub purpose: Purpose,
    /// The channel.
    pub channel: Channel,
}

/// What the listener and its handshake threads share.
struct Shared {
    desk: Mutex<Desk>,
    /// Counts the entries of `Desk::done`.
    event: OwnedFd,
}

/// Handshakes under way and over.
#[derive(Default)]
struct Desk {
    running: usize,
    done: VecDeque<Result<Accepted, TransportError>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Listens at `address` (`HOST:PORT`; port 0: any free one).
    ///
    /// # Errors
    /// [`TransportError::Address`] if it is no address, [`TransportError::Io`] if it cannot be listened at.
    pub fn bind(address: &str) -> Result<Self, TransportError> {
        let failed = |error| TransportError::io("listening", &error);
        let socket = TcpListener::bind(&resolve(address)?[..]).map_err(failed)?;
        // A connection may be gone between the wait and the accept: the accept must not block then.
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            desk: Mutex::default(),
            event: sys::event()?,
        });
        Ok(Self {
            socket,
            address,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            shared,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// How long a stranger may take; [`HANDSHAKE_TIMEOUT`] unless set.
    pub fn set_handshake_timeout(&mut self, timeout: Duration) {
        self.handshake_timeout = timeout;
    }

    /// The next channel. A handshake that is under way when `timeout` ends is given out by a later call.
    ///
    /// # Errors
    /// [`TransportError::Refused`]: one connection was refused, with the reason, for the log; the listener goes on.
    /// [`TransportError::Timeout`]: nobody came. Anything else: this machine is out of a resource.
    pub fn accept(
        &self,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<Accepted, TransportError> {
        let deadline = Deadline::new("node connected", timeout);
        loop {
            let mut desk = self.shared.lock();
            if let Some(result) = desk.done.pop_front() {
                sys::lower(&self.shared.event);
                return result;
            }
            let room = desk.running < HANDSHAKES_MAX;
            drop(desk);
            let socket = room.then(|| self.socket.as_raw_fd());
            let event = self.shared.event.as_raw_fd();
            let woken = sys::wait(event, socket, libc::POLLIN, None, Some(deadline.left()?))?;
            if matches!(woken, Woken::Ready(_, true)) {
                self.greet(credentials)?;
            }
        }
    }

    /// Takes one connection from the kernel and starts its handshake.
    fn greet(&self, credentials: &Credentials) -> Result<(), TransportError> {
        let (stream, peer) = match self.socket.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        Err(TransportError::io("accept", &error))
                    }
                    // Errors of the connection, which is gone: accept(2), "Error handling".
                    _ => Ok(()),
                };
            }
        };
        self.shared.lock().running += 1;
        let ticket = Ticket {
            shared: Arc::clone(&self.shared),
            result: None,
        };
        let (credentials, timeout) = (credentials.clone(), self.handshake_timeout);
        sys::spawn("lev-handshake", move || {
            let result = welcome(stream, &credentials, timeout);
            let refused = |reason| TransportError::Refused {
                peer: peer.to_string(),
                reason: Box::new(reason),
            };
            ticket.hand_in(result.map_err(refused));
        })
    }
}

/// A running handshake; hands in its result, if it has one, however its thread ends.
struct Ticket {
    shared: Arc<Shared>,
    result: Option<Result<Accepted, TransportError>>,
}

impl Ticket {
    /// The handshake is over.
    fn hand_in(mut self, result: Result<Accepted, TransportError>) {
        self.result = Some(result);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut desk = self.shared.lock();
        desk.running -= 1;
        if let Some(result) = self.result.take() {
            desk.done.push_back(result);
            sys::raise(&self.shared.event);
        }
    }
}

/// The handshake with one stranger.
fn welcome(
    stream: TcpStream,
    credentials: &Credentials,
    timeout: Duration,
) -> Result<Accepted, TransportError> {
    let addresses = addresses(&stream)?;
    sys::tune(stream.as_raw_fd(), silence_limit(addresses))?;
    let deadline = Deadline::new("end of the handshake", timeout);
    let stranger = Stranger {
        fd: stream.as_raw_fd(),
        addresses,
        deadline: &deadline,
    };
    let agreed = handshake::accept(&stranger, credentials)?;
    let (from, purpose) = (agreed.peer, agreed.purpose);
    Ok(Accepted {
        from,
        purpose,
        channel: Channel::new(stream, addresses, agreed)?,
    })
}
