//! Who is there: barriers, departures, losses. Pure bookkeeping under one lock.

use crate::RegionError;
use lev_wire::NodeId;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a peer's channel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, or because of what came: why.
    Channel(String),
    /// With the words that another node is lost: which one and why.
    Told(NodeId, String),
    /// This node's own engine has stopped: whoever stopped it says why.
    Stopped,
}

/// What is known of the other nodes.
pub(crate) struct Members {
    me: NodeId,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// By node: it has said that its region is like ours.
    agreed: Vec<bool>,
    /// By node: the way of the engine's frames to it and back works.
    met: Vec<bool>,
    /// By node: the last barrier that it came to.
    arrived: Vec<u64>,
    /// By node: it has said goodbye.
    gone: Vec<bool>,
    lost: Option<(NodeId, String)>,
    /// This process has said goodbye.
    leaving: bool,
    closing: bool,
}

impl Members {
    pub(crate) fn new(me: NodeId, nodes: usize) -> Self {
        Self {
            me,
            state: Mutex::new(State {
                agreed: vec![false; nodes],
                met: vec![false; nodes],
                arrived: vec![0; nodes],
                gone: vec![false; nodes],
                lost: None,
                leaving: false,
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

    pub(crate) fn met(&self, node: NodeId) {
        self.change(|state| state.met[node.index()] = true);
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

    /// What a peer's words about a loss mean: node number `lost` is lost, because of `why`.
    pub(crate) fn named(&self, lost: u64, why: String) -> End {
        let nodes = self.lock().gone.len() as u64;
        match NodeId(u16::try_from(lost).unwrap_or(u16::MAX)) {
            _ if lost >= nodes => End::Channel(format!("it lost node {lost} of {nodes}")),
            me if me == self.me => End::Channel(format!("it has lost this node: {why}")),
            node => End::Told(node, why),
        }
    }

    /// The channel of `from` has ended. If that is a loss, and the first one: who is lost and why, after `tell` was called
    /// with it and before anybody else hears of it, who might end the channels before all is said. A node that has said
    /// goodbye serves pages until all have.
    pub(crate) fn lost(
        &self,
        from: NodeId,
        end: End,
        tell: impl FnOnce(NodeId, &str),
    ) -> Option<(NodeId, String)> {
        let mut state = self.lock();
        let in_order = matches!(end, End::Channel(_)) && state.gone[from.index()] && state.leaving;
        if in_order || state.closing || state.lost.is_some() {
            return None;
        }
        let loss = match end {
            End::Channel(why) => (from, why),
            End::Told(node, why) => (node, why),
            End::Stopped => return None,
        };
        tell(loss.0, &loss.1);
        state.lost = Some(loss.clone());
        drop(state);
        self.changed.notify_all();
        Some(loss)
    }

    /// This process says goodbye.
    pub(crate) fn leave(&self) {
        self.change(|state| state.leaving = true);
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

    /// Waits until all others have been met.
    pub(crate) fn all_met(&self, limit: Duration) -> Result<(), RegionError> {
        self.wait("the first exchange over UCX", limit, |state, node| {
            state.met[node]
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

    fn quiet(_: NodeId, _: &str) {}

    fn closed() -> End {
        End::Channel("closed".into())
    }

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
        members.leave();
        assert_eq!(members.lost(NodeId(1), closed(), quiet), None);
        members.all_arrived(9, SHORT).unwrap();
        members.all_gone(SHORT).unwrap();
    }

    #[test]
    fn who_ends_before_all_have_said_goodbye_is_lost() {
        let members = Members::new(NodeId(0), 2);
        members.gone(NodeId(1));
        assert!(members.lost(NodeId(1), closed(), quiet).is_some());
    }

    #[test]
    fn the_loss_that_another_node_names_counts() {
        let members = Members::new(NodeId(0), 3);
        members.gone(NodeId(1));
        members.gone(NodeId(2));
        members.leave();
        let end = members.named(1, "killed".into());
        assert!(members.lost(NodeId(2), end, quiet).is_some());
        assert_eq!(members.lost(NodeId(2), closed(), quiet), None);
        let error = members.check().unwrap_err().to_string();
        assert_eq!(error, "node1 is lost: killed");
    }

    #[test]
    fn who_has_lost_this_node_or_none_is_lost_itself() {
        let members = Members::new(NodeId(0), 3);
        for (named, words) in [(0, "lost this node: slow"), (3, "node 3 of 3")] {
            match members.named(named, "slow".into()) {
                End::Channel(why) => assert!(why.contains(words), "{why}"),
                end => panic!("{end:?}"),
            }
        }
    }

    #[test]
    fn the_others_are_told_before_anybody_here_knows() {
        let members = Members::new(NodeId(0), 2);
        let told = std::cell::Cell::new(false);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| members.all_arrived(1, Duration::from_secs(60)));
            let tell = |node, why: &str| {
                assert_eq!((node, why), (NodeId(1), "closed"));
                std::thread::sleep(SHORT);
                assert!(!waits.is_finished());
                told.set(true);
            };
            assert!(members.lost(NodeId(1), closed(), tell).is_some());
        });
        assert!(told.get());
    }

    #[test]
    fn the_end_of_this_engine_is_no_fault_of_who_sent_the_frame() {
        let members = Members::new(NodeId(0), 2);
        assert_eq!(members.lost(NodeId(1), End::Stopped, quiet), None);
        members.check().unwrap();
        let why = "the page table has something else".to_owned();
        let own = End::Channel(why.clone());
        assert_eq!(members.lost(NodeId(0), own, quiet), Some((NodeId(0), why)));
    }

    #[test]
    fn a_loss_ends_every_wait_and_is_told_once() {
        let members = Members::new(NodeId(0), 3);
        assert!(members.lost(NodeId(2), closed(), quiet).is_some());
        assert_eq!(members.lost(NodeId(1), closed(), quiet), None);
        let error = members.all_agreed(Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.to_string(), "node2 is lost: closed");
        assert!(members.check().is_err());
    }
}
