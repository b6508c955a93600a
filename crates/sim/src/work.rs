//! What the threads of a simulated machine do.

use lev_coherence::Access;
use lev_trace::Pattern;
use lev_wire::NodeId;

/// An access that a thread makes at a time that may still come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issue {
    pub(crate) thread: usize,
    pub(crate) at: u64,
    /// `None`: the thread only works on until then.
    pub(crate) access: Option<(u64, Access)>,
}

impl Issue {
    pub(crate) fn new(thread: usize, at: u64, page: u64, access: Access) -> Self {
        Self {
            thread,
            at,
            access: Some((page, access)),
        }
    }

    pub(crate) fn rest(thread: usize, at: u64) -> Self {
        Self {
            thread,
            at,
            access: None,
        }
    }
}

/// Threads, and what they do.
pub(crate) trait Workload {
    /// The node of each thread.
    fn threads(&self) -> Vec<u16>;
    /// Home of a page.
    fn home(&self, page: u64) -> NodeId;
    /// How a page is shared.
    fn class(&self, page: u64) -> Pattern;
    /// A thread has done what it was to do, or begins; what can be done now is added, for whatever thread.
    fn free(&mut self, thread: usize, now: u64, issues: &mut Vec<Issue>);
    /// Accesses that have not been issued.
    fn left(&self) -> u64;
    /// The node that holds a page for writing at the start; `None`: it is zero.
    fn holder(&self, _page: u64) -> Option<NodeId> {
        None
    }
}
