//! What can go wrong between nodes.

use lev_transport::TransportError;
use lev_wire::NodeId;
use std::fmt;

/// Failure of a channel or of a peer's answer.
#[derive(Debug)]
pub enum MeshError {
    /// The channel broke or refused.
    Channel(TransportError),
    /// The peer answered with an errno and a sentence.
    Refused {
        /// The peer.
        node: NodeId,
        /// Its errno.
        errno: i32,
        /// Its sentence; may be empty.
        message: String,
    },
    /// The peer sent something that the protocol does not have here.
    Protocol {
        /// The peer.
        node: NodeId,
        /// What, with numbers.
        what: String,
    },
    /// The peer did not answer within the limit.
    Silent {
        /// The peer.
        node: NodeId,
        /// What was asked.
        request: u16,
        /// The limit, seconds.
        seconds: u64,
    },
}

impl fmt::Display for MeshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => write!(f, "{error}"),
            Self::Refused {
                node,
                errno,
                message,
            } if message.is_empty() => {
                write!(
                    f,
                    "{node} refused: {}",
                    std::io::Error::from_raw_os_error(*errno)
                )
            }
            Self::Refused { node, message, .. } => write!(f, "{node}: {message}"),
            Self::Protocol { node, what } => write!(f, "{node} broke the protocol: {what}"),
            Self::Silent {
                node,
                request,
                seconds,
            } => {
                write!(
                    f,
                    "{node} did not answer request {request} within {seconds} s"
                )
            }
        }
    }
}

impl std::error::Error for MeshError {}

impl From<TransportError> for MeshError {
    fn from(error: TransportError) -> Self {
        Self::Channel(error)
    }
}
