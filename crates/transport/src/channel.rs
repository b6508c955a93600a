//! Making a channel, and the channel before it is split.

use crate::handshake::{self, Agreed, Stranger};
use crate::record::{Keys, Opener, Sealer};
use crate::sys::{self, Deadline};
use crate::{
    Credentials, Purpose, Receiver, Sender, TransportError, HANDSHAKE_TIMEOUT, PEER_TIMEOUT,
};
use lev_wire::NodeId;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// First and longest pause between two attempts to connect.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// How long the other end may be silent. On one machine nothing lies between the ends, and a process that ends closes its
/// sockets; but the machine may stand still (a lab machine that gets no time, a laptop that sleeps), and its clocks would
/// say of each end that the other one was silent.
pub(crate) fn silence_limit(addresses: [SocketAddr; 2]) -> Option<Duration> {
    let inside = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    (!addresses.iter().all(inside)).then_some(PEER_TIMEOUT)
}

/// An authenticated connection to one node for one purpose.
pub struct Channel {
    socket: OwnedFd,
    addresses: [SocketAddr; 2],
    peer: NodeId,
    purpose: Purpose,
    keys: Option<Keys>,
    first_sent: u64,
    first_received: u64,
}

impl Channel {
    /// A channel from a socket whose handshake is over.
    pub(crate) fn new(
        stream: TcpStream,
        addresses: [SocketAddr; 2],
        agreed: Agreed,
    ) -> Result<Self, TransportError> {
        Ok(Self {
            socket: stream.into(),
            addresses,
            peer: agreed.peer,
            purpose: agreed.purpose,
            keys: agreed.keys,
            first_sent: agreed.first_sent,
            first_received: agreed.first_received,
        })
    }

    /// The two halves. The connection closes when both are dropped.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        let socket = Arc::new(self.socket);
        let sealer = self
            .keys
            .clone()
            .map(|keys| Sealer::new(keys, self.first_sent));
        let opener = self.keys.map(|keys| Opener::new(keys, self.first_received));
        (
            Sender::new(Arc::clone(&socket), sealer),
            Receiver::new(socket, opener),
        )
    }

    /// The other node.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// What the channel is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Whether frames are encrypted.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.keys.is_some()
    }

    /// Our end's address.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The peer's end's address.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.addresses[1]
    }
}

/// Makes a channel to node `to`, which listens at `address` (`HOST:PORT`: a name, an IPv4 address or an IPv6 address
/// in brackets). Either side may start first: while the connection is refused, cannot be routed, or is closed before
/// a greeting or not answered (a port forwarder whose target does not listen yet), it tries again until `timeout`, which also limits
/// the handshake. Looking up a name is not limited.
///
/// # Errors
/// [`TransportError::Connect`] if nobody answered in time; otherwise what was wrong with the handshake, at once.
pub fn connect(
    address: &str,
    to: NodeId,
    purpose: Purpose,
    credentials: &Credentials,
    timeout: Duration,
) -> Result<Channel, TransportError> {
    let deadline = Deadline::new("handshake", timeout);
    let mut pause = PAUSE_MIN;
    loop {
        let errno = match attempt(address, to, purpose, credentials, &deadline)? {
            Attempt::Made(channel) => return Ok(*channel),
            Attempt::Again(errno) => errno,
        };
        let left = deadline.left().unwrap_or(Duration::ZERO);
        if left <= pause {
            let waited_ms = deadline.waited_ms();
            return Err(TransportError::Connect {
                address: address.to_owned(),
                waited_ms,
                errno,
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// How one attempt to connect ended.
enum Attempt {
    /// With a channel.
    Made(Box<Channel>),
    /// With an errno that time may cure; 0: closed before a greeting.
    Again(i32),
}

/// Tries every address of `address` once.
fn attempt(
    address: &str,
    to: NodeId,
    purpose: Purpose,
    credentials: &Credentials,
    deadline: &Deadline,
) -> Result<Attempt, TransportError> {
    let mut errno = libc::ECONNREFUSED;
    for target in resolve(address)? {
        let Ok(left) = deadline.left() else { break };
        let stream = match TcpStream::connect_timeout(&target, left) {
            Ok(stream) => stream,
            Err(error) => {
                errno = error.raw_os_error().unwrap_or(libc::ETIMEDOUT);
                continue;
            }
        };
        let addresses = addresses(&stream)?;
        // A port of the ephemeral range to which nobody listens can be answered by the very socket that asks.
        if addresses[0] == addresses[1] {
            continue;
        }
        sys::tune(stream.as_raw_fd(), silence_limit(addresses))?;
        // An attempt to whose end nobody listens must not use up the time of the next ones.
        let limit = deadline.left().unwrap_or(Duration::ZERO);
        let deadline = Deadline::new("answer to the handshake", limit.min(HANDSHAKE_TIMEOUT));
        let stranger = Stranger {
            fd: stream.as_raw_fd(),
            addresses,
            deadline: &deadline,
        };
        match handshake::initiate(&stranger, to, purpose, credentials) {
            Ok(agreed) => {
                let channel = Channel::new(stream, addresses, agreed)?;
                return Ok(Attempt::Made(Box::new(channel)));
            }
            // A port forwarder: nobody listens behind it yet.
            Err(
                TransportError::Closed
                | TransportError::Io {
                    errno: libc::ECONNRESET,
                    ..
                },
            ) => errno = 0,
            Err(TransportError::Timeout { .. }) => errno = libc::ETIMEDOUT,
            Err(error) => return Err(error),
        }
    }
    match errno {
        0
        | libc::ECONNREFUSED
        | libc::ECONNRESET
        | libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::ETIMEDOUT
        | libc::EAGAIN => Ok(Attempt::Again(errno)),
        _ => Err(TransportError::Io {
            what: "connect",
            errno,
        }),
    }
}

/// The addresses of `HOST:PORT`.
pub(crate) fn resolve(address: &str) -> Result<Vec<SocketAddr>, TransportError> {
    let bad = |reason: String| TransportError::Address {
        address: address.to_owned(),
        reason,
    };
    let found: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| bad(error.to_string()))?
        .collect();
    if found.is_empty() {
        return Err(bad("the name has no address".to_owned()));
    }
    Ok(found)
}

/// Our end and the peer's end of a connected socket.
pub(crate) fn addresses(stream: &TcpStream) -> Result<[SocketAddr; 2], TransportError> {
    let local = stream
        .local_addr()
        .map_err(|error| TransportError::io("getsockname", &error))?;
    let peer = stream
        .peer_addr()
        .map_err(|error| TransportError::io("getpeername", &error))?;
    Ok([local, peer])
}
