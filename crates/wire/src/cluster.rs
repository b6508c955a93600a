//! The cluster description: written by the control plane, read by the head, sent by the head to every worker.

use crate::NodeId;
use serde::{Deserialize, Serialize};

/// One run of one giant VM, complete: the file is private to the user (mode 0600) because it holds the secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Layout version of this description; 1.
    pub schema: u32,
    /// 32 hexadecimal digits, new for every run.
    pub run_id: String,
    /// 64 hexadecimal digits, new for every run: the pre-shared key of every node channel.
    pub secret: String,
    /// All nodes, the head first; a node's position is its [`NodeId`].
    pub nodes: Vec<Node>,
    /// Homes of guest physical memory; ranges outside are at home on the head.
    #[serde(default)]
    pub memory: Vec<HomeRange>,
    /// The hot-page pool, if the nodes share memory.
    #[serde(default)]
    pub pool: Option<Pool>,
    /// Encryption of node channels.
    #[serde(default)]
    pub encrypt: Encrypt,
    /// What carries the coherence engine's frames, where there is a choice.
    #[serde(default, skip_serializing_if = "Transport::is_tcp")]
    pub transport: Transport,
    /// Tunables of the coherence engine, by name; absent ones have their defaults.
    #[serde(default)]
    pub engine: EngineOptions,
    /// Where the head writes events (JSON lines), while it runs; none: stderr only.
    #[serde(default)]
    pub events: Option<String>,
    /// Where the head writes the report (JSON) when the VM ends.
    #[serde(default)]
    pub report: Option<String>,
    /// Where the head writes its trace of guest memory while the file of this name and `.on` says `on`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Files on the head's machine whose contents are guest memory that outlives the VM: what QEMU maps of them into the
    /// guest is kept coherent in memory, and written back at the end. Nobody else may use them meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The name shown to users.
    pub name: String,
    /// `HOST:PORT` where the node listens; absent for the head, which only connects.
    #[serde(default)]
    pub address: Option<String>,
    /// vCPUs that run here.
    pub vcpus: Vec<u32>,
}

/// Guest physical range `[gpa, gpa+len)` is at home on `node`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HomeRange {
    /// First byte, a multiple of 4096.
    pub gpa: u64,
    /// Bytes, a multiple of 4096.
    pub len: u64,
    /// The home.
    pub node: NodeId,
}

/// Memory that all nodes map, for pages whose ownership bounces.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// A file or device that every node can map: `/sys/bus/pci/devices/…/resource2`, `/dev/dax0.0`. `None`: nodes
    /// on one host, the head makes a memfd and tells the workers where to open it.
    #[serde(default)]
    pub path: Option<String>,
    /// Bytes, a multiple of 4096.
    pub len: u64,
}

/// Encryption of node channels; authentication is always on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encrypt {
    /// On for channels that leave the loopback interface.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: only for measurements on a private network.
    Off,
}

/// What carries the coherence engine's frames. VMs have TCP; memory shared by plain processes has the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The node channels.
    #[default]
    Tcp,
    /// UCX, in builds that have it; node channels authenticate the nodes.
    Ucx,
}

impl Transport {
    /// Whether it is what need not be said.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        *self == Self::Tcp
    }
}

/// Tunables of the coherence engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineOptions {
    /// Move a page into the pool after so many ownership changes.
    pub promote_after: u32,
    /// Shortest time that a page stays in the pool, milliseconds, while other pages find no slot; 0: pages never leave it.
    pub demote_after_ms: u32,
    /// Shortest time that a granted page stays, microseconds.
    pub hold_us: u32,
    /// userfaultfd contexts that guest memory is striped over.
    pub stripes: u32,
    /// Largest zero-fill at once, pages.
    pub zero_block: u32,
    /// Most pages, the asked one included, that a home sends for one read; 0: never more than the asked one.
    pub read_ahead: u32,
    /// Most pages, the faulting one included, that a node asks for when its faults run through memory; 0: never more
    /// than the faulting one.
    pub prefetch: u32,
    /// Blocks that only their home has touched are left to the kernel, which can back them with huge pages.
    pub huge_pages: bool,
    /// Who asks to read a page that its readers write next gets the right to write it at once.
    pub migratory: bool,
    /// Most guest memory that each node keeps resident, bytes; 0: no limit.
    pub node_memory: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            promote_after: 2,
            demote_after_ms: 10,
            hold_us: 50,
            stripes: 1,
            zero_block: 512,
            read_ahead: 256,
            prefetch: 16,
            huge_pages: true,
            migratory: true,
            node_memory: 0,
        }
    }
}
