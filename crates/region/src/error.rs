//! What can go wrong with a region.

use lev_dsm::DsmError;
use lev_transport::TransportError;
use lev_ucx::UcxError;
use lev_uffd::UffdError;
use lev_wire::NodeId;
use std::fmt;

/// An error of a region.
#[derive(Debug)]
pub enum RegionError {
    /// The description does not fit: what is wrong with it.
    Shape(String),
    /// A system call failed.
    System {
        /// Which call.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// The engine could not start.
    Engine(DsmError),
    /// A channel could not be made.
    Channel {
        /// To whom, if that is known.
        node: Option<NodeId>,
        /// Why not.
        error: TransportError,
    },
    /// UCX cannot be used.
    Ucx(UcxError),
    /// UCX would carry in the clear what is to be encrypted.
    Clear {
        /// The node that is reached over a network; `None`: the description wants all of it encrypted.
        node: Option<NodeId>,
    },
    /// A node is gone, and the memory of the region with it.
    Lost {
        /// The node.
        node: NodeId,
        /// What was seen of it last.
        why: String,
    },
    /// Not all nodes came in time.
    Missing {
        /// What for.
        what: &'static str,
        /// Who did not.
        nodes: Vec<NodeId>,
        /// Milliseconds waited.
        waited_ms: u64,
    },
    /// This process has left the region.
    Closed,
    /// A place outside of the region, or not aligned to its size.
    Place {
        /// Offset asked for, bytes.
        offset: u64,
        /// Size of the region, bytes.
        len: u64,
    },
}

impl RegionError {
    /// What the user can do about it, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Engine(DsmError::Uffd(UffdError::Permission { .. })) => Some(
                "needs one of: root, CAP_SYS_PTRACE, access to /dev/userfaultfd, sysctl vm.unprivileged_userfaultfd=1",
            ),
            Self::Channel { error, .. } => error.hint(),
            Self::Ucx(error) => error.hint(),
            Self::Clear { .. } => Some(
                "set `encrypt` to \"off\" where the network is private, or choose the transport \"tcp\", which encrypts",
            ),
            Self::Missing { .. } => Some("every node calls it the same number of times; is one still busy or not started?"),
            _ => None,
        }
    }
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(what) => write!(f, "the region cannot be made: {what}"),
            Self::System { call, errno } => {
                let text = std::io::Error::from_raw_os_error(*errno);
                write!(f, "{call} failed: {text}")
            }
            Self::Engine(error) => error.fmt(f),
            Self::Channel {
                node: Some(node),
                error,
            } => write!(f, "{node}: {error}"),
            Self::Channel { node: None, error } => error.fmt(f),
            Self::Ucx(error) => error.fmt(f),
            Self::Clear { node: None } => {
                write!(f, "UCX does not encrypt, and the region is to be encrypted")
            }
            Self::Clear { node: Some(node) } => write!(
                f,
                "UCX does not encrypt, and what leaves the machine for {node} is to be encrypted"
            ),
            Self::Lost { node, why } => write!(f, "{node} is lost: {why}"),
            Self::Missing {
                what,
                nodes,
                waited_ms,
            } => {
                let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "{} did not come to {what} within {waited_ms} ms",
                    names.join(", ")
                )
            }
            Self::Closed => write!(f, "this process has left the region"),
            Self::Place { offset, len } => write!(
                f,
                "offset {offset} is not a multiple of 8 inside of the region of {len} bytes"
            ),
        }
    }
}

impl std::error::Error for RegionError {}

impl From<DsmError> for RegionError {
    fn from(error: DsmError) -> Self {
        Self::Engine(error)
    }
}
