//! One simulated node: its pages and its work.

use crate::slots::Slots;
use crate::Pool;
use lev_coherence::{Access, Demand, HomePage, Message, NodePage, NodeState};
use lev_wire::NodeId;
use std::collections::{HashMap, VecDeque};

/// A page as a node has it.
#[derive(Default)]
pub(crate) struct Copy {
    pub(crate) page: NodePage,
    /// Which write its contents are.
    pub(crate) version: u64,
    /// When it was granted; `None`: it came unasked or never.
    pub(crate) granted: Option<u64>,
}

/// Something that a node's engine has to do.
pub(crate) enum Work {
    Message {
        from: NodeId,
        page: u64,
        message: Message,
        /// Which write the bytes that came along are.
        version: u64,
    },
    Fault {
        page: u64,
        access: Access,
    },
    Resume {
        page: u64,
        demand: Demand,
    },
    /// A page of this home is to leave the pool.
    Demote {
        page: u64,
    },
}

/// What a thread is doing.
pub(crate) struct Thread {
    pub(crate) node: u16,
    /// The access under way, and since when it waits; `None`: for its own work.
    pub(crate) waits: Option<(u64, Access, u64)>,
    /// The access that comes next.
    pub(crate) next: Option<(u64, Access)>,
}

#[derive(Default)]
pub(crate) struct Node {
    pub(crate) copies: HashMap<u64, Copy>,
    pub(crate) entries: HashMap<u64, HomePage>,
    pub(crate) inbox: VecDeque<Work>,
    pub(crate) busy: bool,
    pub(crate) busy_ns: u64,
    /// When the link has sent everything given to it.
    pub(crate) link_free: u64,
    /// Of the pool, this home's part.
    pub(crate) slots: Slots,
    /// Threads that wait for a page.
    pub(crate) waiting: Vec<usize>,
}

impl Node {
    pub(crate) fn new(pool: Pool) -> Self {
        Self {
            slots: Slots::new(pool),
            ..Self::default()
        }
    }

    /// Whether a thread may do this now.
    pub(crate) fn allows(&self, page: u64, access: Access) -> bool {
        let state = self.copies.get(&page).map(|copy| copy.page.state);
        match state {
            Some(NodeState::Exclusive | NodeState::Pooled) => true,
            Some(NodeState::Shared | NodeState::Clean) => access == Access::Read,
            Some(NodeState::Invalid) | None => false,
        }
    }
}
