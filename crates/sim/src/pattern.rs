//! How the threads of a program share pages.

use crate::rng::Rng;
use lev_coherence::Access;
use lev_wire::NodeId;
use serde::{Deserialize, Serialize};

/// A way of sharing, one thread on each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Every thread has pages of its own, at home elsewhere.
    Private,
    /// All read the same pages; one access in a hundred is a write.
    ReadMostly,
    /// Pages go from one thread to another: each reads a page, then writes it.
    Migratory,
    /// Threads in pairs: one writes a page, the other one reads it.
    ProducerConsumer,
    /// All read and write one word.
    HotCounter,
}

/// Pages of a thread of its own.
const PRIVATE_PAGES: u64 = 8;
/// Pages that all read.
const READ_PAGES: u64 = 64;
/// One in so many accesses to them is a write.
const READS_PER_WRITE: u64 = 100;

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Private,
        Self::ReadMostly,
        Self::Migratory,
        Self::ProducerConsumer,
        Self::HotCounter,
    ];

    /// What thread `node` of `nodes` does in its access number `step`.
    pub(crate) fn access(self, node: u16, nodes: u16, step: u64, rng: &mut Rng) -> (u64, Access) {
        let (node, nodes) = (u64::from(node), u64::from(nodes));
        let alternating = if step % 2 == 0 {
            Access::Read
        } else {
            Access::Write
        };
        match self {
            Self::Private => (node * PRIVATE_PAGES + rng.below(PRIVATE_PAGES), alternating),
            Self::ReadMostly => {
                let write = rng.below(READS_PER_WRITE) == 0;
                let access = if write { Access::Write } else { Access::Read };
                (rng.below(READ_PAGES), access)
            }
            // Two pages a thread; read and write go to the same one.
            Self::Migratory => {
                let choice = Rng::new((step / 2) << 16 | node).below(2 * nodes);
                (choice, alternating)
            }
            Self::ProducerConsumer => {
                let access = if node % 2 == 0 {
                    Access::Write
                } else {
                    Access::Read
                };
                (node / 2, access)
            }
            Self::HotCounter => (0, alternating),
        }
    }

    /// Home of a page: spread over the nodes, and for a thread's own pages another node than its.
    pub(crate) fn home(self, page: u64, nodes: u16) -> NodeId {
        let nodes = u64::from(nodes);
        let node = match self {
            Self::Private => page / PRIVATE_PAGES + 1,
            Self::ProducerConsumer => 2 * page + 2,
            _ => page,
        };
        NodeId((node % nodes) as u16)
    }
}
