//! More nodes than GiantVM's sixteen, and more than fit into one word of a set of sharers.

mod cluster;

use cluster::{fail, map, FIRST};
use lev_dsm::{Backing, DsmError, Engine, EngineConfig, PageLink, SegmentSpec};
use lev_wire::cluster::EngineOptions;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;

const NODES: u16 = 70;
const PAGES: u64 = 8;

type Frame = (NodeId, Header, Vec<u8>);

/// A network in memory with one queue for each node: frames of a pair stay in order.
struct Port {
    me: NodeId,
    inboxes: Vec<Sender<Frame>>,
}

impl PageLink for Port {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        let _ = self.inboxes[to.index()].send((self.me, header, parts.concat()));
    }
}

struct Node {
    engine: Arc<Engine>,
    base: u64,
}

impl Node {
    fn word(&self, page: u64) -> &AtomicU64 {
        // SAFETY: an aligned word of a mapping that is never unmapped.
        unsafe { AtomicU64::from_ptr((self.base + page * 4096) as *mut u64) }
    }
}

fn start(me: NodeId, inboxes: Vec<Sender<Frame>>, inbox: Receiver<Frame>) -> Node {
    let config = EngineConfig {
        me,
        nodes: NODES,
        // One page at a time, so that copies can be counted.
        options: EngineOptions {
            prefetch: 0,
            read_ahead: 0,
            ..EngineOptions::default()
        },
        pool: None,
        on_fatal: Box::new(move |error| fail(&format!("{me}: {error}"))),
    };
    let engine = Engine::start(config, Arc::new(Port { me, inboxes })).unwrap();
    let taking = Arc::clone(&engine);
    std::thread::spawn(move || {
        for (from, header, payload) in inbox {
            match taking.on_frame(from, header, &payload) {
                Ok(()) | Err(DsmError::Stopped) => {}
                Err(error) => fail(&format!("{me}: {error}")),
            }
        }
    });
    Node {
        engine,
        base: map(PAGES, Backing::Anonymous),
    }
}

fn nodes() -> Vec<Node> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..NODES).map(|_| channel()).unzip();
    let start = |(me, inbox)| start(NodeId(me as u16), senders.clone(), inbox);
    let nodes: Vec<Node> = receivers.into_iter().enumerate().map(start).collect();
    for node in nodes.iter().rev() {
        let spec = SegmentSpec {
            first_page: FIRST,
            pages: PAGES,
            local: node.base as *mut u8,
            homes: vec![(PAGES / 2, NodeId(0)), (PAGES / 2, NodeId(NODES - 1))],
            backing: Backing::Anonymous,
        };
        node.engine.prepare(spec).unwrap();
        node.engine.activate(FIRST, &[]).unwrap();
    }
    nodes
}

#[test]
fn seventy_nodes_share_pages() {
    let nodes = nodes();
    // Everybody has a copy of a page of either home; then one of the last nodes takes them all away.
    for page in [0, PAGES - 1] {
        let value = 100 + page;
        nodes[3].word(page).store(value, Ordering::SeqCst);
        assert!(nodes
            .iter()
            .all(|node| node.word(page).load(Ordering::SeqCst) == value));
        let dropped = |nodes: &[Node]| -> u64 {
            let each = nodes
                .iter()
                .map(|node| node.engine.counters().invalidations);
            each.sum()
        };
        let before = dropped(&nodes);
        nodes[67].word(page).fetch_add(1, Ordering::SeqCst);
        assert_eq!(dropped(&nodes) - before, u64::from(NODES) - 1);
        assert!(nodes
            .iter()
            .all(|node| node.word(page).load(Ordering::SeqCst) == value + 1));
    }
    // All of them at once, on one word.
    std::thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(|| {
                for _ in 0..3 {
                    node.word(1).fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(
        nodes[0].word(1).load(Ordering::SeqCst),
        3 * u64::from(NODES)
    );
    nodes.iter().for_each(|node| node.engine.stop());
}
