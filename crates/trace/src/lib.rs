//! Traces of guest memory: what happened to which page, when and on which node.
//!
//! A node's engine puts [`Record`]s into a [`Ring`] without waiting and without allocating; a thread of its own drains
//! them into a file ([`Writer`]). The files of all nodes become one in the order of the head's clock ([`merge()`]).
//! [`Trace`] reads either, whatever a file holds; [`Pages`] says what each page is used for. The layout of a file and
//! the rules of the classes are in `docs/design/0016-traces.md`.
#![forbid(unsafe_code)]

mod classify;
mod error;
mod header;
mod homes;
mod merge;
mod read;
mod record;
mod ring;
mod summary;
mod writer;

pub use classify::{PageUse, Pages, Pattern};
pub use error::TraceError;
pub use header::{Header, HEADER_LEN, MERGED};
pub use homes::Homes;
pub use merge::merge;
pub use read::Trace;
pub use record::{flag, Kind, Record, RECORD_LEN};
pub use ring::Ring;
pub use summary::{ClassSummary, NodeSummary, Summary};
pub use writer::{Writer, MAX_RECORDS};
