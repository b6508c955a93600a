//! Who is there: barriers, departures, losses. Pure bookkeeping under one lock.

use crate::RegionError;
use lev_wire::NodeId;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is known of the other nodes.
pub(crate) struct Members {
    me: NodeId,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// By node: it has said that its region is like ours.
    agreed: Vec<bool>,
    /// By node: the last barrier that it came to.
    arrived: Vec<u64>,
    /// By node: it has said goodbye.
    gone: Vec<bool>,
    lost: Option<(NodeId, String)>,
    closing: bool,
}

impl Members {
    pub(crate) fn new(me: NodeId, nodes: usize) -> Self {
        Self {
            me,
            state: Mutex::new(State {
                agreed: vec![false; nodes],
                arrived: vec![0; nodes],
                gone: vec![false; nodes],
                lost: None,
                closing: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    pub(crate) fn agreed(&self, node: NodeId) {
        self.change(|state| state.agreed[node.index()] = true);
    }

    pub(crate) fn arrived(&self, node: NodeId, barrier: u64) {
        self.change(|state| {
            let last = &mut state.arrived[node.index()];
            *last = barrier.max(*last);
        });
    }

    pub(crate) fn gone(&self, node: NodeId) {
        self.change(|state| {
            state.gone[node.index()] = true;
            state.arrived[node.index()] = u64::MAX;
        });
    }

    /// A channel ended. `true`: that is a loss, and the first one.
    pub(crate) fn ended(&self, node: NodeId, why: String) -> bool {
        let mut state = self.lock();
        let first = state.lost.is_none() && !state.gone[node.index()] && !state.closing;
        if first {
            state.lost = Some((node, why));
        }
        drop(state);
        self.changed.notify_all();
        first
    }

    /// This process leaves: channels that end from now on are no loss.
    pub(crate) fn close(&self) {
        self.change(|state| state.closing = true);
    }

    /// The loss, if there was one.
    pub(crate) fn check(&self) -> Result<(), RegionError> {
        match &self.lock().lost {
            Some((node, why)) => Err(RegionError::Lost {
                node: *node,
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Waits until all others have agreed.
    pub(crate) fn all_agreed(&self, limit: Duration) -> Result<(), RegionError> {
        self.wait("the agreement about the region", limit, |state, node| {
            state.agreed[node]
        })
    }

    /// Waits until all others have come to a barrier.
    pub(crate) fn all_arrived(&self, barrier: u64, limit: Duration) -> Result<(), RegionError> {
        self.wait("the barrier", limit, |state, node| {
            state.arrived[node] >= barrier
        })
    }

    /// Waits until all others have said goodbye.
    pub(crate) fn all_gone(&self, limit: Duration) -> Result<(), RegionError> {
        self.wait("the end", limit, |state, node| state.gone[node])
    }

    fn wait(
        &self,
        what: &'static str,
        limit: Duration,
        there: impl Fn(&State, usize) -> bool,
    ) -> Result<(), RegionError> {
        let start = Instant::now();
        let missing = |state: &State| -> Vec<NodeId> {
            let others = (0..state.gone.len()).filter(|node| *node != self.me.index());
            others
                .filter(|node| !there(state, *node))
                .map(|node| NodeId(node as u16))
                .collect()
        };
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| {
                state.lost.is_none() && !missing(state).is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((node, why)) = &state.lost {
            return Err(RegionError::Lost {
                node: *node,
                why: why.clone(),
            });
        }
        match missing(&state) {
            nodes if nodes.is_empty() => Ok(()),
            nodes => Err(RegionError::Missing {
                what,
                nodes,
                waited_ms: start.elapsed().as_millis() as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    #[test]
    fn a_barrier_names_who_is_missing() {
        let members = Members::new(NodeId(1), 3);
        members.arrived(NodeId(0), 2);
        let error = members.all_arrived(1, SHORT).unwrap_err().to_string();
        assert!(
            error.starts_with("node2 did not come to the barrier within"),
            "{error}"
        );
        members.arrived(NodeId(2), 1);
        members.all_arrived(1, SHORT).unwrap();
        members.all_arrived(2, SHORT).unwrap_err();
    }

    #[test]
    fn who_said_goodbye_is_not_lost_and_delays_nobody() {
        let members = Members::new(NodeId(0), 2);
        members.gone(NodeId(1));
        assert!(!members.ended(NodeId(1), "closed".into()));
        members.all_arrived(9, SHORT).unwrap();
        members.all_gone(SHORT).unwrap();
    }

    #[test]
    fn a_loss_ends_every_wait_and_is_told_once() {
        let members = Members::new(NodeId(0), 3);
        assert!(members.ended(NodeId(2), "cut off".into()));
        assert!(!members.ended(NodeId(1), "follows".into()));
        let error = members.all_agreed(Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.to_string(), "node2 is lost: cut off");
        assert!(members.check().is_err());
    }
}
