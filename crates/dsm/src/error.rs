//! What can go wrong in the engine.

use lev_wire::{NodeId, PageNumber};
use std::fmt;

/// An error of the engine; the doc comment of a variant is its message.
#[derive(Debug)]
pub enum DsmError {
    /// userfaultfd failed.
    Uffd(lev_uffd::UffdError),
    /// A system call on guest memory failed.
    System {
        /// Which call.
        call: &'static str,
        /// Address or size it was about.
        at: u64,
        /// Its error number.
        errno: i32,
    },
    /// The configuration cannot work.
    Config(&'static str),
    /// The segment is not valid: alignment, homes or overlap.
    Segment {
        /// First page of the segment.
        first_page: PageNumber,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No segment starts at this page.
    UnknownSegment(PageNumber),
    /// A peer sent a frame that the protocol does not allow.
    Peer {
        /// The peer.
        from: NodeId,
        /// Kind of the frame.
        kind: u16,
        /// Operand of the frame (a page number).
        arg: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The state of a page does not fit an event of this node itself.
    Broken(&'static str),
    /// Memory that somebody waits for was lost together with a node.
    Lost(NodeId),
    /// The engine has stopped.
    Stopped,
}

impl fmt::Display for DsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uffd(error) => write!(f, "userfaultfd failed: {error}"),
            Self::System { call, at, errno } => {
                write!(f, "{call} at {at:#x} failed with errno {errno}")
            }
            Self::Config(why) => write!(f, "the memory engine cannot start: {why}"),
            Self::Segment { first_page, why } => {
                write!(f, "segment at page {first_page:#x} is not valid: {why}")
            }
            Self::UnknownSegment(page) => write!(f, "no segment starts at page {page:#x}"),
            Self::Peer {
                from,
                kind,
                arg,
                why,
            } => {
                write!(
                    f,
                    "{from} sent a frame of kind {kind} about page {arg:#x}: {why}"
                )
            }
            Self::Broken(why) => write!(f, "the memory engine lost its way: {why}"),
            Self::Lost(node) => write!(f, "guest memory was lost together with {node}"),
            Self::Stopped => write!(f, "the memory engine has stopped"),
        }
    }
}

impl std::error::Error for DsmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Uffd(error) => Some(error),
            _ => None,
        }
    }
}

impl From<lev_uffd::UffdError> for DsmError {
    fn from(error: lev_uffd::UffdError) -> Self {
        Self::Uffd(error)
    }
}
