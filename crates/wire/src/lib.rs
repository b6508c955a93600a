//! Names and numbers that every node of one giant VM agrees on: who is who, which pages are whose, and
//! the layout of the frames between nodes. No I/O and no `unsafe`.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod frame;

use serde::{Deserialize, Serialize};

/// Index of a node in the cluster's node list. Node 0 is the head, the one that runs QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The node that runs QEMU.
    pub const HEAD: NodeId = NodeId(0);

    /// The index as a `usize`, for table look-ups.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node{}", self.0)
    }
}

/// A guest vCPU, numbered as QEMU numbers it, the same on every node.
pub type VcpuId = u32;

/// Bytes in a page, the unit of coherence.
pub const PAGE_SIZE: usize = 4096;

/// Global number of a page of guest memory: the virtual address that QEMU on the head gave it, divided by
/// [`PAGE_SIZE`]. Several guest physical addresses may show the same page (aliases, PAM windows).
pub type PageNumber = u64;
