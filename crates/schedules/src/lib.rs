//! Pieces with locks or atomics of their own, run under many schedules by shuttle: the files of production as they are, with
//! shuttle's primitives in the place of the standard ones, and copies with one deliberate mistake each, which must be
//! found (`build.rs` makes them).
//!
//! - a vCPU's door (`crates/vcpu/src/door.rs`): no kick is lost, nobody enters the guest with an old clock;
//! - the sending half of a channel (`crates/transport/src/sender.rs`): frames whole and in order, the flusher ends;
//! - discards that wait (`crates/dsm/src/discards.rs`): everybody wakes.
//!
//! Shuttle explores sequentially consistent executions; all three use locks or `SeqCst` where order matters.
#![forbid(unsafe_code)]
#![cfg(test)]
#![allow(dead_code)] // each model uses a part of a file

mod discards_model;
mod door_model;
mod explore;
mod sender_model;
mod socket;

/// What the files under test take for `std::sync`.
mod sync {
    pub(crate) use shuttle::sync::*;
    pub(crate) use std::sync::PoisonError;
}

/// A file of production, or a broken copy of it.
macro_rules! files {
    ($($name:ident)*) => {
        $(mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        })*
    };
}

files! {
    door door_pokes_late door_looks_early door_announces_late
    sender sender_keeps_silent sender_overtakes sender_leaves_silently sender_fails_silently outbox
    discards discards_gives_up_unlocked discards_wakes_one
}

// What the sender expects around it.
use lev_transport::TransportError;
use socket::{record, sys};

/// Small, so that a full queue is one of the things that happen.
const QUEUE_LIMIT: usize = 64;
