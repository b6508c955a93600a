//! Runs of requests told apart: which one a page belongs to, and which is forgotten for a new one.

use lev_wire::NodeId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The last runs of each node's requests.
pub(crate) struct Streams<S> {
    /// Remembered of each node.
    most: usize,
    /// Latest first.
    nodes: Mutex<HashMap<NodeId, Vec<S>>>,
}

impl<S> Streams<S> {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            nodes: Mutex::default(),
        }
    }

    /// A request of `node` belongs to the latest run that is `near`, or to a new one. `next` makes of it the answer and what
    /// is remembered of the run; the one that was not used for longest may be forgotten for it.
    pub(crate) fn advance<R>(
        &self,
        node: NodeId,
        near: impl Fn(&S) -> bool,
        next: impl FnOnce(Option<S>) -> (R, S),
    ) -> R {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = nodes.entry(node).or_default();
        let known = streams.iter().position(near).map(|at| streams.remove(at));
        let (answer, stream) = next(known);
        streams.truncate(self.most - 1);
        streams.insert(0, stream);
        answer
    }
}
