//! The protocol as a model for exhaustive exploration: a few nodes and pages, channels that keep their order.
//!
//! Contents are modelled exactly by one bit per copy: is it what was written last? A write makes every other copy,
//! pages in flight included, old. That keeps the number of states finite without a bound on the number of writes.
//!
//! - `state`: what there is, and what an action of the protocol does to it;
//! - `steps`: what may happen next;
//! - `properties`: what must be true;
//! - `explore`: that nobody waits for ever, which needs the graph and not only its states.

pub(crate) mod explore;
mod properties;
mod state;
mod steps;

pub(crate) use properties::ALWAYS;
pub(crate) use steps::Keeper;
use steps::Step;

use crate::mutation::Mutation;
use lev_wire::NodeId;

/// What is explored.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: usize,
    /// Homes of the pages, by node.
    pub(crate) homes: Vec<usize>,
    /// 0: no pool. Each page may have one slot.
    pub(crate) promote_after: u32,
    /// Pages leave the pool again.
    pub(crate) demotes: bool,
    /// So many nodes, the last ones, may discard pages.
    pub(crate) discards: usize,
    /// Holders may put demands off.
    pub(crate) holds: bool,
    /// The home gives away copies that nobody asked for, at any time that the protocol allows: as if a neighbour of the
    /// page had just been asked for.
    pub(crate) unasked: bool,
    /// Readers of migratory pages get the right to write.
    pub(crate) migratory: bool,
    /// Nodes may give pages back at any time.
    pub(crate) returns: bool,
    /// Whom the home may choose to keep a page that was given back.
    pub(crate) keepers: Vec<Keeper>,
    /// These nodes may be lost, one of them, at any time.
    pub(crate) losses: Vec<usize>,
    /// The pages have contents at first, owned by this node.
    pub(crate) populated_on: Option<usize>,
    pub(crate) mutation: Option<Mutation>,
}

impl Cluster {
    /// So many nodes, one page, at home on the first.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            homes: vec![0],
            promote_after: 0,
            demotes: false,
            discards: 0,
            holds: true,
            unasked: false,
            migratory: false,
            returns: false,
            keepers: vec![],
            losses: vec![],
            populated_on: None,
            mutation: None,
        }
    }

    pub(crate) fn home(&self, page: usize) -> NodeId {
        NodeId(self.homes[page] as u16)
    }
}
