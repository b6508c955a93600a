//! Coming together: every node makes a channel with every other one, then the memory becomes coherent.

use crate::members::Members;
use crate::memory::Mapping;
use crate::message::{digest, reason, LOST};
use crate::pages::Pages;
use crate::region::{OnFailure, Region};
use crate::RegionError;
use lev_dsm::{Backing, Engine, EngineConfig, PoolMapping, SegmentSpec};
use lev_transport::{connect, Channel, Credentials, Listener, Purpose, TransportError};
use lev_wire::cluster::Cluster;
use lev_wire::{NodeId, PAGE_SIZE};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const PAGE: u64 = PAGE_SIZE as u64;
/// The region's first page: any number does, as long as it is the same everywhere.
const FIRST_PAGE: u64 = 0;

/// How long a node may take to answer before the next one is tried.
const FIRST_TRY: Duration = Duration::from_millis(250);
/// The same, when it was tried often.
const LONGEST_TRY: Duration = Duration::from_secs(4);
/// Shortest time between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// How large a region is and where its pages are at home; the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pages at home on each node, in order of their addresses: node 0's first.
    pub homes: Vec<(u64, NodeId)>,
}

impl Shape {
    /// `bytes` (rounded up to whole pages) in equal runs, one for each of `nodes`.
    #[must_use]
    pub fn even(bytes: u64, nodes: u16) -> Self {
        let (pages, nodes) = (bytes.div_ceil(PAGE), u64::from(nodes.max(1)));
        let run = |node: u64| pages * (node + 1) / nodes - pages * node / nodes;
        let homes = (0..nodes).map(|node| (run(node), NodeId(node as u16)));
        Self {
            homes: homes.filter(|(pages, _)| *pages > 0).collect(),
        }
    }

    /// What `cluster.memory` says: ranges one after the other, beginning at 0.
    ///
    /// # Errors
    /// There is a gap, or a range is not whole pages.
    pub fn of(cluster: &Cluster) -> Result<Self, RegionError> {
        let (mut end, mut homes) = (0, Vec::new());
        for range in &cluster.memory {
            if range.gpa != end || range.len % PAGE != 0 {
                let text = format!(
                    "memory at {:#x} with {:#x} bytes: ranges are whole pages, one after the other from 0 on",
                    range.gpa, range.len
                );
                return Err(RegionError::Shape(text));
            }
            end = end.saturating_add(range.len);
            homes.push((range.len / PAGE, range.node));
        }
        let shape = Self { homes };
        shape.check(cluster.nodes.len())?;
        Ok(shape)
    }

    /// Pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.homes.iter().map(|(pages, _)| pages).sum()
    }

    fn check(&self, nodes: usize) -> Result<(), RegionError> {
        let fits = self
            .homes
            .iter()
            .try_fold(0u64, |sum, (pages, _)| sum.checked_add(*pages))
            .is_some_and(|pages| pages > 0 && pages <= 1 << 40);
        if !fits {
            return Err(RegionError::Shape(
                "its size must be 1 byte to 4 PiB".into(),
            ));
        }
        match self.homes.iter().find(|(_, node)| node.index() >= nodes) {
            Some((_, node)) => Err(RegionError::Shape(format!(
                "{node} is a home but not in the node list"
            ))),
            None => Ok(()),
        }
    }
}

/// A place in a region that is about to be made: somebody listens there.
pub struct Seat {
    listener: Listener,
}

impl Seat {
    /// Listens at `address` (`HOST:PORT`; port 0: any free one).
    ///
    /// # Errors
    /// The address is none, or cannot be listened at.
    pub fn at(address: &str) -> Result<Self, RegionError> {
        let listener =
            Listener::bind(address).map_err(|error| RegionError::Channel { node: None, error })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_address()
    }

    /// Joins as node `me` of `cluster`; returns when all nodes have, at most after `limit`. Every node connects to
    /// those after it in the node list.
    ///
    /// # Errors
    /// The description cannot be used, userfaultfd is not allowed, a node did not come or disagrees about the shape.
    pub fn join(
        self,
        cluster: &Cluster,
        me: NodeId,
        shape: &Shape,
        limit: Duration,
    ) -> Result<Region, RegionError> {
        Region::join(Some(&self.listener), cluster, me, shape, limit)
    }
}

impl Region {
    /// Joins as node `me` of `cluster`. Nodes before it in the list come to `listener`; node 0 needs none.
    pub(crate) fn join(
        listener: Option<&Listener>,
        cluster: &Cluster,
        me: NodeId,
        shape: &Shape,
        limit: Duration,
    ) -> Result<Self, RegionError> {
        let deadline = Instant::now() + limit;
        shape.check(cluster.nodes.len())?;
        let credentials = Credentials::from_cluster(cluster, me)
            .map_err(|error| RegionError::Channel { node: None, error })?;
        let mapping = Arc::new(Mapping::new(shape.pages() * PAGE)?);
        let pages = Arc::new(Pages::new(cluster, me)?);
        let members = Arc::new(Members::new(me, cluster.nodes.len()));
        // The engine may give up before the region is complete.
        let fail: Arc<OnceLock<OnFailure>> = Arc::default();
        let told = Arc::clone(&fail);
        let config = EngineConfig {
            me,
            nodes: u16::try_from(cluster.nodes.len()).unwrap_or(u16::MAX),
            options: cluster.engine.clone(),
            pool: pool(cluster)?,
            on_fatal: Box::new(move |error| {
                if let Some(fail) = told.get() {
                    fail(error.to_string());
                }
            }),
        };
        let engine = Engine::start(config, Arc::clone(&pages) as Arc<dyn lev_dsm::PageLink>)?;
        engine.prepare(SegmentSpec {
            first_page: FIRST_PAGE,
            pages: shape.pages(),
            local: mapping.base(),
            homes: shape.homes.clone(),
            backing: Backing::Anonymous,
        })?;
        let channels = meet(listener, cluster, me, &credentials, deadline)?;
        if let Err(error) = pages.check(&channels) {
            say_why(channels, me, &error);
            return Err(error);
        }
        let words = shape
            .homes
            .iter()
            .flat_map(|(pages, node)| [*pages, u64::from(node.0)])
            .chain(pages.word());
        let digest = digest(words);
        let region = Self::new(mapping, engine, pages, members, digest);
        let _ = fail.set(region.failure(me));
        region.start(channels)?;
        region.agree(deadline.saturating_duration_since(Instant::now()))?;
        region.engine().activate(FIRST_PAGE, &[])?;
        Ok(region)
    }

    /// [`Seat::join`] for node 0, to which nobody connects.
    ///
    /// # Errors
    /// As [`Seat::join`].
    pub fn join_first(
        cluster: &Cluster,
        shape: &Shape,
        limit: Duration,
    ) -> Result<Self, RegionError> {
        Self::join(None, cluster, NodeId::HEAD, shape, limit)
    }
}

/// Memory for pages that bounce, if the description names a file that all nodes can map.
fn pool(cluster: &Cluster) -> Result<Option<PoolMapping>, RegionError> {
    let Some(pool) = &cluster.pool else {
        return Ok(None);
    };
    let Some(path) = &pool.path else {
        return Err(RegionError::Shape(
            "a pool needs the path of a file that every node can map".into(),
        ));
    };
    let pool = PoolMapping::open(path, pool.len);
    pool.map(Some)
        .map_err(|error| RegionError::Shape(error.to_string()))
}

/// Makes a channel with every other node: connects to those after this one, accepts those before it.
fn meet(
    listener: Option<&Listener>,
    cluster: &Cluster,
    me: NodeId,
    credentials: &Credentials,
    deadline: Instant,
) -> Result<Vec<Channel>, RegionError> {
    let gave_up = AtomicBool::new(false);
    let (mut channels, mut accepted) = (Vec::new(), Vec::new());
    let (reached, came) = std::thread::scope(|scope| {
        // At the same time: those before this node must not wait until those after it have come.
        let accepting =
            scope.spawn(|| accept(listener, me, credentials, deadline, &gave_up, &mut accepted));
        let reached = reach(cluster, me, credentials, deadline, &mut channels);
        gave_up.store(reached.is_err(), Ordering::Release);
        let came = accepting.join().unwrap_or(Err(RegionError::Closed));
        (reached, came)
    });
    channels.append(&mut accepted);
    match reached.and(came) {
        Ok(()) => Ok(channels),
        Err(error) => {
            say_why(channels, me, &error);
            Err(error)
        }
    }
}

/// Tells the nodes that did come why this one gives up: they would take it for the cause.
fn say_why(channels: Vec<Channel>, me: NodeId, error: &RegionError) {
    let node = match error {
        RegionError::Channel { node, .. } => *node,
        RegionError::Missing { nodes, .. } => nodes.first().copied(),
        _ => None,
    };
    let (node, why) = (node.unwrap_or(me), error.to_string());
    for channel in channels {
        let (sender, _receiver) = channel.split();
        let _ = sender.send(LOST, 0, node.0.into(), &[reason(&why)]);
    }
}

/// Connects to all nodes after this one. One that does not answer does not keep it from the others, who would take this
/// node for the one that is missing: it is tried again later, with more patience.
fn reach(
    cluster: &Cluster,
    me: NodeId,
    credentials: &Credentials,
    deadline: Instant,
    channels: &mut Vec<Channel>,
) -> Result<(), RegionError> {
    let (start, mut patience) = (Instant::now(), FIRST_TRY);
    let nodes = cluster.nodes.iter().enumerate().skip(me.index() + 1);
    let mut missing: Vec<(NodeId, &str)> = Vec::new();
    for (index, node) in nodes {
        let to = NodeId(index as u16);
        let Some(address) = &node.address else {
            let text = format!("{to} ({}) has no address", node.name);
            return Err(RegionError::Shape(text));
        };
        missing.push((to, address));
    }
    loop {
        let (began, mut failed) = (Instant::now(), None);
        for (to, address) in std::mem::take(&mut missing) {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.min(patience);
            match connect(address, to, Purpose::Page, credentials, limit) {
                Ok(channel) => channels.push(channel),
                Err(error) => {
                    let again = matches!(error, TransportError::Connect { .. });
                    if again {
                        missing.push((to, address));
                    }
                    let node = Some(to);
                    failed.get_or_insert((again, RegionError::Channel { node, error }));
                }
            }
        }
        match failed {
            None => return Ok(()),
            // Which of them is to blame for the others is not known here.
            Some((true, _)) if missing.len() > 1 && Instant::now() >= deadline => {
                return Err(RegionError::Missing {
                    what: "the region",
                    nodes: missing.into_iter().map(|(node, _)| node).collect(),
                    waited_ms: start.elapsed().as_millis() as u64,
                });
            }
            Some((again, error)) if !again || Instant::now() >= deadline => return Err(error),
            // Near the deadline a try ends at once.
            Some(_) if began.elapsed() < PAUSE => std::thread::sleep(PAUSE),
            Some(_) => patience = (patience * 2).min(LONGEST_TRY),
        }
    }
}

/// Waits until all nodes before this one have come, or the other half has given up.
fn accept(
    listener: Option<&Listener>,
    me: NodeId,
    credentials: &Credentials,
    deadline: Instant,
    gave_up: &AtomicBool,
    channels: &mut Vec<Channel>,
) -> Result<(), RegionError> {
    const STEP: Duration = Duration::from_millis(100);
    let start = Instant::now();
    let missing = |channels: &[Channel]| -> Vec<NodeId> {
        let before = (0..me.0).map(NodeId);
        before
            .filter(|node| channels.iter().all(|channel| channel.peer() != *node))
            .collect()
    };
    while !missing(channels).is_empty() && !gave_up.load(Ordering::Acquire) {
        let Some(listener) = listener else {
            return Err(RegionError::Shape(format!(
                "{me} must listen for the nodes before it"
            )));
        };
        match listener.accept(credentials, STEP) {
            // A node that tried twice means its last try.
            Ok(accepted) if accepted.from < me && accepted.purpose == Purpose::Page => {
                channels.retain(|channel| channel.peer() != accepted.from);
                channels.push(accepted.channel);
            }
            // Strangers, and nodes that are wrong here, do not keep the others away.
            Ok(_) | Err(TransportError::Refused { .. } | TransportError::Timeout { .. }) => {}
            Err(error) => return Err(RegionError::Channel { node: None, error }),
        }
        let nodes = missing(channels);
        if Instant::now() >= deadline && !nodes.is_empty() {
            return Err(RegionError::Missing {
                what: "the region",
                nodes,
                waited_ms: start.elapsed().as_millis() as u64,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_homes_cover_every_page_once() {
        for (bytes, nodes, runs) in [
            (1, 3, 1),
            (4096 * 10, 3, 3),
            (4096 * 10 + 1, 4, 4),
            (4096, 1, 1),
        ] {
            let shape = Shape::even(bytes, nodes);
            assert_eq!(shape.pages(), bytes.div_ceil(4096));
            assert_eq!(shape.homes.len(), runs);
            shape.check(nodes.into()).unwrap();
        }
    }

    #[test]
    fn a_description_without_gaps_is_a_shape() {
        let cluster = |ranges: &str| -> Cluster {
            let text = format!(
                r#"{{"schema": 1, "run_id": "", "secret": "", "memory": {ranges},
                    "nodes": [{{"name": "a", "vcpus": []}}, {{"name": "b", "vcpus": []}}]}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let two = r#"[{"gpa": 0, "len": 8192, "node": 1}, {"gpa": 8192, "len": 4096, "node": 0}]"#;
        let homes = vec![(2, NodeId(1)), (1, NodeId(0))];
        assert_eq!(Shape::of(&cluster(two)).unwrap(), Shape { homes });
        for bad in [
            "[]",
            r#"[{"gpa": 4096, "len": 4096, "node": 0}]"#,
            r#"[{"gpa": 0, "len": 100, "node": 0}]"#,
            r#"[{"gpa": 0, "len": 4096, "node": 2}]"#,
        ] {
            assert!(Shape::of(&cluster(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        assert!(Shape { homes: vec![] }.check(2).is_err());
        assert!(Shape {
            homes: vec![(u64::MAX, NodeId(0)), (2, NodeId(0))]
        }
        .check(2)
        .is_err());
        let error = Shape {
            homes: vec![(1, NodeId(2))],
        }
        .check(2)
        .unwrap_err()
        .to_string();
        assert!(error.contains("node2"), "{error}");
    }
}
