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
    /// Join the region; the answer is where it lies in this process.
    Join {
        cluster: Box<Cluster>,
        node: u16,
        /// Longest wait for the others, milliseconds; 0: a minute.
        #[serde(default)]
        limit_ms: u64,
    },
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
    /// Let threads work on the region for so long and judge all that they read.
    Work {
        plan: SoakPlan,
        ms: u64,
        /// A thread that gets nowhere for so long hangs.
        stall_s: u64,
    },
    /// Meet the others and judge all of the region; all must be told before the answers are waited for.
    Verify,
    /// Work for so long, or until a node is lost if it is 0; then leave. The answer says how it ended.
    Live { plan: SoakPlan, ms: u64 },
    /// Which threads this process has, and what its descriptors are.
    Census,
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

/// What a soak is derived from.
#[derive(Clone, Copy, Deserialize)]
pub struct SoakPlan {
    pub seed: u64,
    /// Threads of each node.
    pub threads: u64,
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
    /// First byte of the region in this process, and its bytes.
    Joined {
        base: u64,
        len: u64,
    },
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
    /// Operations done in this region so far, and words that were wrong.
    Worked {
        operations: BTreeMap<&'static str, u64>,
        findings: Vec<String>,
    },
    /// What the memory holds, next to what this node's threads did.
    Verified {
        findings: Vec<String>,
        digests: Vec<u64>,
        counters: Vec<u64>,
        added: Vec<u64>,
        versions: Vec<u64>,
        made: Vec<u64>,
    },
    /// Why it did not end well, if so, and when that was known: nanoseconds of the monotonic clock.
    Lived {
        lost: Option<String>,
        at_ns: u64,
    },
    Census {
        threads: Vec<String>,
        descriptors: Vec<String>,
    },
}
