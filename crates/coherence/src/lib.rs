//! Page ownership between nodes, as a pure state machine: no I/O, no clock, no `unsafe`.
//!
//! Every page has a *home*, whose [`HomePage`] knows who holds it, and on every node a [`NodePage`]: what this node
//! may do with it. [`Page`] joins the two for one event at a time; what must happen comes out as [`Action`]s, to be
//! carried out in order before the next event of that page. The engine, the model checker and the tests run the
//! same functions.
//!
//! Rules that the model holds this to: at any time a page has one writer or any number of readers; a read returns
//! the last write; every request is answered. The channel between two nodes must keep its order; nothing is assumed
//! between different pairs.
//!
//! Still to come, and why nothing here stands in the way: eviction (a node gives a copy back: one more request to
//! the home, which is busy for its time like for any other), demotion of pooled pages (one more demand to all
//! nodes), loss of a node (the home drops it from owner and sharers and answers for it).
#![forbid(unsafe_code)]

mod home;
mod message;
mod node;
mod page;
mod sharers;

#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;

pub use home::{HomePage, HomeState};
pub use message::{Access, Action, Demand, Illegal, Message, Slot};
pub use node::{NodePage, NodeState};
pub use page::{Page, Rules, Surroundings};
pub use sharers::Sharers;

#[cfg(test)]
pub(crate) use page::Mutation;
