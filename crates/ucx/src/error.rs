//! What can go wrong with UCX.

use lev_wire::NodeId;
use std::fmt;

/// Why UCX cannot be used, or a peer over it is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UcxError {
    /// This build does not have UCX in it.
    Missing,
    /// A call of UCX failed.
    Call {
        /// The function.
        what: &'static str,
        /// UCX's number for it, negative.
        status: i32,
        /// UCX's words for it.
        text: String,
    },
    /// A system call failed.
    System {
        /// The call.
        what: &'static str,
        /// Its errno.
        errno: i32,
    },
    /// The peer has closed its link.
    Closed,
    /// The peer does not take what is sent to it.
    QueueFull {
        /// Bytes queued.
        queued: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A frame that proved who sent it does not fit what came before.
    Frames(String),
    /// Not all was sent before the time for it was over.
    Unsent {
        /// To whom something was left.
        nodes: Vec<NodeId>,
        /// Milliseconds waited.
        waited_ms: u64,
    },
    /// What a peer said of its address makes no sense.
    Introduction {
        /// Bytes it sent.
        len: usize,
    },
}

impl UcxError {
    /// What the user can do about it, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing => {
                Some("install libucx-dev and build with `--features ucx`, or choose the transport \"tcp\"")
            }
            Self::Call { what: "libucp.so.0", .. } => Some("install libucx0"),
            Self::Call { .. } => Some(
                "UCX_TLS names transports that this machine has (`ucx_info -d` of the package ucx-utils lists them), UCX_NET_DEVICES its devices",
            ),
            Self::QueueFull { .. } | Self::Unsent { .. } => {
                Some("is the peer overloaded, stopped or cut off?")
            }
            Self::Closed | Self::System { .. } | Self::Frames(_) | Self::Introduction { .. } => None,
        }
    }
}

impl fmt::Display for UcxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "this build of Leviathan does not have UCX in it"),
            Self::Call { what, status, text } => {
                write!(f, "UCX: {what} failed: {text} ({status})")
            }
            Self::System { what, errno } => {
                let text = std::io::Error::from_raw_os_error(*errno);
                write!(f, "UCX: {what} failed: {text}")
            }
            Self::Closed => write!(f, "UCX: the peer has closed its link"),
            Self::QueueFull { queued, limit } => write!(
                f,
                "UCX: the peer does not read: {queued} bytes wait, the limit is {limit}"
            ),
            Self::Frames(what) => write!(f, "UCX: {what}"),
            Self::Unsent { nodes, waited_ms } => {
                let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
                let names = names.join(", ");
                write!(f, "UCX: not all was sent to {names} within {waited_ms} ms")
            }
            Self::Introduction { len } => {
                write!(f, "UCX: the peer's address of {len} bytes makes no sense")
            }
        }
    }
}

impl std::error::Error for UcxError {}
