//! What can go wrong on a node channel.

use crate::Purpose;
use lev_wire::NodeId;
use std::fmt;

/// Why a channel could not be made, or ended. The doc comment of a variant is its meaning; system errors are kept
/// as `errno` so that errors can be cloned, compared and sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The cluster description has a field that cannot be used.
    Credentials {
        /// Which field, and what is wrong with it.
        what: String,
    },
    /// The address is not `HOST:PORT` or its name does not resolve.
    Address {
        /// The address as given.
        address: String,
        /// The resolver's reason.
        reason: String,
    },
    /// Nobody answered at the address in time.
    Connect {
        /// The address as given.
        address: String,
        /// Milliseconds tried.
        waited_ms: u64,
        /// The last attempt's errno; 0: the connection was closed before a greeting.
        errno: i32,
    },
    /// A system call failed.
    Io {
        /// The call.
        what: &'static str,
        /// Its errno.
        errno: i32,
    },
    /// Nothing happened in time.
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// Milliseconds waited.
        waited_ms: u64,
    },
    /// The channel was closed, by the peer or by our own `shutdown`, between two frames.
    Closed,
    /// The channel ended inside a frame or record.
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes announced.
        need: usize,
    },
    /// The peer announced a frame that is too long.
    Oversized {
        /// The frame's kind as announced.
        kind: u16,
        /// Payload bytes announced.
        len: u32,
        /// Payload bytes allowed.
        limit: usize,
    },
    /// The caller wants to send a frame that is too long; nothing was sent.
    FrameTooLarge {
        /// Payload bytes.
        len: usize,
        /// Payload bytes allowed.
        limit: usize,
    },
    /// The peer does not read: the queue is full, the frame was not taken.
    QueueFull {
        /// Bytes queued.
        queued: usize,
        /// Bytes of the frame.
        frame: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// An encrypted record has an impossible length.
    RecordLength {
        /// Bytes announced.
        len: usize,
        /// Shortest possible.
        min: usize,
    },
    /// An encrypted record was changed, dropped, repeated or moved.
    Tampered {
        /// Number of the record on this channel and direction.
        record: u64,
    },
    /// What connected does not speak this protocol.
    NotLeviathan {
        /// Its first bytes.
        bytes: [u8; 8],
    },
    /// The peer speaks another version of the channel protocol.
    Protocol {
        /// Ours.
        ours: u16,
        /// The peer's.
        theirs: u16,
    },
    /// The peer is another version of Leviathan.
    Version {
        /// Ours.
        ours: String,
        /// The peer's.
        theirs: String,
    },
    /// The peer belongs to another run.
    Run,
    /// The peer does not hold the run's secret.
    Secret,
    /// The peer closed the connection during the handshake without a word.
    Rejected,
    /// The peer repeated somebody's handshake but could not confirm the session key.
    NotConfirmed,
    /// A handshake message has an impossible length.
    HandshakeLength {
        /// Bytes announced.
        len: usize,
        /// Shortest possible.
        min: usize,
        /// Longest allowed.
        max: usize,
    },
    /// An authenticated handshake message has contents that make no sense.
    HandshakeContents {
        /// Bytes of contents.
        len: usize,
    },
    /// The connection reached another node than was meant.
    Node {
        /// Who was meant.
        expected: NodeId,
        /// Who it was.
        found: NodeId,
    },
    /// A node called itself by our own number.
    SameNode {
        /// The number.
        node: NodeId,
    },
    /// The two sides mean different purposes of this channel.
    PurposeMismatch {
        /// What was asked for.
        expected: Purpose,
        /// What was confirmed.
        found: Purpose,
    },
    /// The peer asks for a channel of a purpose that does not exist.
    PurposeUnknown {
        /// The purpose's number.
        code: u8,
        /// Its operand.
        operand: u32,
    },
    /// One side insists on encryption, the other forbids it.
    Encryption {
        /// Our side encrypts.
        ours: bool,
        /// The peer encrypts.
        theirs: bool,
    },
    /// A connection was refused; the listener goes on.
    Refused {
        /// Who connected, `ADDRESS:PORT`.
        peer: String,
        /// Why it was refused.
        reason: Box<TransportError>,
    },
}

impl TransportError {
    /// The calling thread's last errno, for a system call named `what`.
    pub(crate) fn last(what: &'static str) -> Self {
        Self::io(what, &std::io::Error::last_os_error())
    }

    /// An `std::io::Error` of a call named `what`.
    pub(crate) fn io(what: &'static str, error: &std::io::Error) -> Self {
        Self::Io {
            what,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// What the user can do about it, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Credentials { .. } => "the cluster description is written by the control plane; do not edit it by hand",
            Self::Address { .. } => "give HOST:PORT, with an IPv6 address in brackets: [::1]:7000",
            Self::Connect { .. } => "is the worker started, and do firewalls on both machines let the port through?",
            Self::Io { errno: libc::EADDRINUSE, .. } => "another process listens there: choose another port",
            Self::Io { errno: libc::EADDRNOTAVAIL, .. } => "no interface of this machine has that address",
            Self::Io { errno: libc::ETIMEDOUT, .. } => "the peer's machine is cut off or hangs",
            Self::Timeout { .. } | Self::QueueFull { .. } => "is the peer overloaded, stopped or cut off?",
            Self::Protocol { .. } | Self::Version { .. } => "install the same version on every node",
            Self::Run => "a worker of an earlier run may still hold the port: stop it",
            Self::Secret | Self::Rejected => {
                "every node must be started with the same cluster description; the peer's log has its reason"
            }
            Self::Node { .. } | Self::SameNode { .. } => "check the addresses in the node list",
            Self::Encryption { .. } => "set `encrypt` to the same value on every node",
            Self::Tampered { .. } => "something between the nodes changes the traffic",
            Self::Refused { reason, .. } => return reason.hint(),
            _ => return None,
        })
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused { reason, .. } => Some(reason.as_ref()),
            _ => None,
        }
    }
}

/// The system's text for an errno.
fn errno_text(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

/// `true` as a word.
fn on_off(encrypts: bool) -> &'static str {
    if encrypts {
        "on"
    } else {
        "off"
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials { what } => write!(f, "The cluster description cannot be used: {what}"),
            Self::Address { address, reason } => write!(f, "The address {address:?} cannot be used: {reason}"),
            Self::Connect { address, waited_ms, errno: 0 } => {
                write!(f, "No node answered at {address} for {waited_ms} ms: connections are closed without a greeting")
            }
            Self::Connect { address, waited_ms, errno } => {
                write!(f, "No node answered at {address} for {waited_ms} ms: {}", errno_text(*errno))
            }
            Self::Io { what, errno } => write!(f, "Node channel: {what} failed: {}", errno_text(*errno)),
            Self::Timeout { what, waited_ms } => write!(f, "Node channel: no {what} for {waited_ms} ms"),
            Self::Closed => write!(f, "The node channel was closed"),
            Self::Truncated { have, need } => {
                write!(f, "The node channel ended inside a frame: {have} of {need} bytes came")
            }
            Self::Oversized { kind, len, limit } => {
                write!(f, "The peer announced a frame of kind {kind:#x} with {len} bytes; the limit is {limit}")
            }
            Self::FrameTooLarge { len, limit } => {
                write!(f, "A frame of {len} bytes cannot be sent; the limit is {limit}")
            }
            Self::QueueFull { queued, frame, limit } => write!(
                f,
                "The peer does not read: {queued} bytes wait, a frame of {frame} more would pass the limit of {limit}"
            ),
            Self::RecordLength { len, min } => {
                write!(f, "The peer announced an encrypted record of {len} bytes; the shortest has {min}")
            }
            Self::Tampered { record } => {
                write!(f, "Encrypted record {record} was changed, dropped, repeated or moved on the way")
            }
            Self::NotLeviathan { bytes } => {
                write!(f, "What connected is no Leviathan node: it began with \"{}\"", bytes.escape_ascii())
            }
            Self::Protocol { ours, theirs } => {
                write!(f, "The peer speaks channel protocol {theirs}, this node speaks {ours}")
            }
            Self::Version { ours, theirs } => {
                write!(f, "The peer is Leviathan {theirs}, this node is Leviathan {ours}")
            }
            Self::Run => write!(f, "The peer belongs to another run"),
            Self::Secret => write!(f, "The peer does not hold this run's secret"),
            Self::Rejected => write!(f, "The peer closed the connection during the handshake without a reason"),
            Self::NotConfirmed => {
                write!(f, "The peer did not confirm the session key: it may have repeated a recorded handshake")
            }
            Self::HandshakeLength { len, min, max } => {
                write!(f, "The peer announced a handshake message of {len} bytes; {min} to {max} are possible")
            }
            Self::HandshakeContents { len } => {
                write!(f, "The peer's handshake has contents of {len} bytes that make no sense")
            }
            Self::Node { expected, found } => write!(f, "The connection was meant for {expected} but reached {found}"),
            Self::SameNode { node } => write!(f, "The peer calls itself {node}, which is this node"),
            Self::PurposeMismatch { expected, found } => {
                write!(f, "A channel for {expected} was asked for, the peer confirmed one for {found}")
            }
            Self::PurposeUnknown { code, operand } => {
                write!(f, "The peer asks for a channel of unknown purpose {code} (operand {operand})")
            }
            Self::Encryption { ours, theirs } => write!(
                f,
                "Encryption is {} on this node and {} on the peer",
                on_off(*ours),
                on_off(*theirs)
            ),
            Self::Refused { peer, reason } => write!(f, "A connection from {peer} was refused: {reason}"),
        }
    }
}
