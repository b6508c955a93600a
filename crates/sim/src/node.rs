//! One simulated node: its pages, its work, its thread.

use crate::rng::Rng;
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
}

/// What the node's thread is doing.
pub(crate) struct Thread {
    pub(crate) step: u64,
    pub(crate) rng: Rng,
    /// The access under way, and since when it waits.
    pub(crate) waits: Option<(u64, Access, u64)>,
}

pub(crate) struct Node {
    pub(crate) copies: HashMap<u64, Copy>,
    pub(crate) entries: HashMap<u64, HomePage>,
    pub(crate) inbox: VecDeque<Work>,
    pub(crate) busy: bool,
    pub(crate) busy_ns: u64,
    /// When the link has sent everything given to it.
    pub(crate) link_free: u64,
    pub(crate) thread: Thread,
}

impl Node {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            copies: HashMap::new(),
            entries: HashMap::new(),
            inbox: VecDeque::new(),
            busy: false,
            busy_ns: 0,
            link_free: 0,
            thread: Thread {
                step: 0,
                rng: Rng::new(seed),
                waits: None,
            },
        }
    }

    /// Whether the thread may do this now.
    pub(crate) fn allows(&self, page: u64, access: Access) -> bool {
        let state = self.copies.get(&page).map(|copy| copy.page.state);
        match state {
            Some(NodeState::Exclusive | NodeState::Pooled) => true,
            Some(NodeState::Shared) => access == Access::Read,
            Some(NodeState::Invalid) | None => false,
        }
    }
}
