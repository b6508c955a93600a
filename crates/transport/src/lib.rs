//! Node channels: authenticated, framed and, where they leave the machine, encrypted TCP connections between the
//! nodes of one giant VM.
//!
//! One side [`connect`]s, the other [`Listener::accept`]s; both hold [`Credentials`] made from the same cluster
//! description. A [`Channel`] then splits into a [`Sender`] (many threads, never blocks) and a [`Receiver`] (one
//! thread). Frames are `lev_wire::frame`: a header of 16 bytes and up to 1 MiB of payload.
//!
//! Threads only, no runtime, no output: this code runs inside QEMU's process. It never panics on what a peer sends;
//! every way in which a channel ends is a [`TransportError`] with numbers. What is trusted, and what is not, stands in
//! `docs/design/0005-node-channels.md`.
#![deny(unsafe_code)]

mod channel;
mod credentials;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod hello;
mod listener;
mod outbox;
mod receiver;
mod record;
mod sender;
mod sys;
mod window;

pub use channel::{connect, Channel};
pub use credentials::{Credentials, Purpose};
pub use error::TransportError;
pub use lev_wire::cluster::Encrypt;
pub use lev_wire::frame::{Header, HEADER_LEN, MAX_PAYLOAD};
pub use lev_wire::NodeId;
pub use listener::{Accepted, Listener};
pub use receiver::Receiver;
pub use sender::Sender;

use std::time::Duration;

/// How long a stranger may take from connecting to proving that it belongs to the run.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the peer's machine may be silent before a channel that leaves this machine fails; idle channels are probed every
/// second. Nodes find a lost one sooner, by beats that they count: this is a clock, and goes on while a machine stands
/// still. Linux also counts the time in which a living peer reads nothing while its receive buffer is full
/// (`TCP_USER_TIMEOUT`, tcp(7)), so this is the longest pause that a slow reader may make.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that a [`Sender`] keeps for a slow peer before it refuses more.
pub const QUEUE_LIMIT: usize = 64 << 20;
