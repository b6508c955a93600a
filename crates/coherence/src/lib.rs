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
//! A node that has no room gives pages back: the home lets it drop a copy that others have, too, and finds a keeper for
//! the only one. Pages leave the pool again; [`Stays`] says which. A node may be lost at any moment: its homes are gone with it, all others
//! strike it from their directories and answer for it; who asked for contents that are gone is told so.
#![forbid(unsafe_code)]

mod grant;
mod habit;
mod home;
mod loss;
mod message;
mod node;
mod page;
mod sharers;
mod stays;

#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod mutation;

pub use home::{HomePage, HomeState};
pub use message::{Access, Action, Demand, Illegal, Message, Slot};
pub use node::{NodePage, NodeState};
pub use page::{Page, Rules, Surroundings};
pub use sharers::Sharers;
pub use stays::Stays;
