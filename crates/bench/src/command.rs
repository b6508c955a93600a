//! What this program can be told, and what it answers.

use lev_wire::cluster::Cluster;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of input.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Listen; the answer is the address.
    Listen {
        /// `HOST:PORT`; left out: a free port of the loopback interface.
        #[serde(default)]
        at: Option<String>,
    },
    /// Join the region.
    Join { cluster: Box<Cluster>, node: u16 },
    /// Meet the other nodes.
    Barrier,
    /// Touch pages, one after the other.
    Touch(Touch),
    /// The same from several threads at once, each in its own part; the answer is the time of all.
    Threads { threads: usize, touch: Touch },
    /// Add to a word of a page for so many milliseconds.
    Duel { page: u64, ms: u64 },
    /// Take turns in a word of a page: this node waits for numbers of its parity and makes them one more.
    Turns { page: u64, turns: u64, parity: u64 },
    /// The word of a page that duels and turns change.
    Word { page: u64 },
    /// The engine's counters.
    Counters,
    /// Leave the region.
    Leave,
    /// What userfaultfd costs without any network.
    Local { pages: u64 },
    /// Serve raw requests on TCP; the answer is the address.
    Serve,
    /// Ask raw servers, all at the same time, and wait for all answers.
    Ask {
        addresses: Vec<String>,
        rounds: usize,
        /// Bytes of each answer.
        answer: u32,
        /// Tell the servers that the answer has come; nobody waits for that.
        #[serde(default)]
        acknowledge: bool,
    },
    /// Let a raw server send so many answers in one go.
    Stream {
        address: String,
        count: u32,
        answer: u32,
    },
}

/// Pages to touch.
#[derive(Clone, Copy, Deserialize)]
pub struct Touch {
    pub first: u64,
    pub pages: u64,
    pub access: Access,
    /// In an order without pattern.
    #[serde(default)]
    pub random: bool,
}

/// What is done with a page.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    Read,
    Write,
    /// First read, then written: what a program that changes something does.
    ReadWrite,
}

/// One line of output.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Answer {
    Error {
        error: String,
    },
    Address {
        address: String,
    },
    Done {},
    /// Nanoseconds of each sample.
    Samples {
        ns: Vec<u64>,
    },
    /// Samples of several kinds.
    Kinds {
        kinds: BTreeMap<&'static str, Vec<u64>>,
    },
    /// Nanoseconds of all of it.
    Total {
        total_ns: u64,
    },
    /// Additions made, and the times of those that had to wait for the page.
    Duel {
        additions: u64,
        ns: Vec<u64>,
    },
    Counters {
        counters: BTreeMap<&'static str, u64>,
    },
    Word {
        value: u64,
    },
}
