//! How the coherence protocol behaves with many nodes: a discrete-event simulation that drives the transition function
//! of production (`lev-coherence`) with a model of the network and of the nodes' work.
//!
//! What is exact: every message, every state, who waits for whom; a read that would return old data is counted, and
//! there must be none. What is a model: a message leaves its node after those before it at the link's bandwidth and
//! arrives a fixed latency later; a node handles one event at a time, each action for a fixed time. One thread runs
//! on each node, or those of a trace. There is no clock and no randomness from outside: a run can be repeated.
#![forbid(unsafe_code)]

mod config;
mod machine;
mod mix;
mod node;
mod outcome;
mod pattern;
mod recorded;
mod replay;
mod rng;
mod scaled;
mod slots;
mod work;

pub use config::{Costs, Pool, Scenario};
pub use lev_trace::Pattern;
pub use machine::simulate;
pub use mix::{ClassMix, Mix};
pub use outcome::{ClassOutcome, Outcome};
pub use replay::Replay;
pub use scaled::Sharing;
