//! What one node did, as JSON.

use crate::interrupts::InterruptPeers;
use lev_dsm::Engine;
use lev_vcpu::Fabric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Pages with something under way that are described.
const UNSETTLED: usize = 16;

/// Everything that a node counts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node's number.
    pub node: u16,
    /// The name shown to users.
    pub name: String,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuReport>,
    /// Interrupts to and from other nodes.
    pub interrupts: BTreeMap<String, u64>,
    /// Steps of the guest's clock on this node after the start, and their ticks together.
    pub clock: BTreeMap<String, u64>,
    /// The coherence engine's counters.
    pub memory: BTreeMap<String, u64>,
    /// Round trips of remote faults, nanoseconds: p50, p99.
    pub fault_latency_ns: BTreeMap<String, u64>,
    /// Pages with the most faults: global page number, faults.
    pub hot_pages: Vec<(u64, u64)>,
    /// Pages with a request under way at this moment, some of them, in words.
    #[serde(default)]
    pub unsettled: Vec<String>,
    /// Peak resident memory of the process, bytes.
    pub peak_rss: u64,
    /// CPU time of the process, nanoseconds.
    pub cpu_ns: u64,
}

/// Everything that a vCPU counts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct VcpuReport {
    /// Its number.
    pub id: u32,
    /// Exits by reason.
    pub exits: BTreeMap<String, u64>,
    /// The other counters; times in nanoseconds.
    pub counters: BTreeMap<String, u64>,
}

fn map(pairs: Vec<(&'static str, u64)>) -> BTreeMap<String, u64> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Collects a node's counters.
#[must_use]
pub fn collect(
    node: u16,
    name: &str,
    fabric: &Fabric,
    engine: Option<&Engine>,
    peers: Option<&InterruptPeers>,
) -> NodeReport {
    let counters = engine.map(Engine::counters).unwrap_or_default();
    let total = |numbers: &[std::sync::atomic::AtomicU64]| {
        numbers
            .iter()
            .map(|number| number.load(Ordering::Relaxed))
            .sum()
    };
    let mut latency = BTreeMap::new();
    for percent in [50, 99] {
        if let Some(ns) = counters.latency_percentile_ns(percent) {
            latency.insert(format!("p{percent}"), ns);
        }
    }
    let (peak_rss, cpu_ns) = resources();
    NodeReport {
        node,
        name: name.to_owned(),
        vcpus: fabric
            .all_local()
            .map(|vcpu| VcpuReport {
                id: vcpu.id,
                exits: map(vcpu.stats.exits_by_name()),
                counters: map(vcpu.stats.named()),
            })
            .collect(),
        interrupts: BTreeMap::from([
            (
                "sent".to_owned(),
                peers.map_or(0, |peers| total(&peers.counters().sent)),
            ),
            (
                "received".to_owned(),
                peers.map_or(0, |peers| total(&peers.counters().received)),
            ),
        ]),
        clock: BTreeMap::from([
            (
                "steps".to_owned(),
                fabric.clock.steps.load(Ordering::Relaxed),
            ),
            (
                "ticks".to_owned(),
                fabric.clock.stepped.load(Ordering::Relaxed),
            ),
        ]),
        memory: if engine.is_some() {
            map(counters.named())
        } else {
            BTreeMap::new()
        },
        fault_latency_ns: latency,
        hot_pages: counters
            .hot_pages
            .iter()
            .map(|page| (page.page, page.faults))
            .collect(),
        unsettled: engine.map_or_else(Vec::new, |engine| engine.describe_unsettled(UNSETTLED)),
        peak_rss,
        cpu_ns,
    }
}

fn resources() -> (u64, u64) {
    // SAFETY: an all-zero rusage is valid; getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    (
        usage.ru_maxrss as u64 * 1024,
        ns(usage.ru_utime) + ns(usage.ru_stime),
    )
}
