//! A network in memory that is as bad as [`PageLink`] allows: every frame is delayed by chance, so frames of different pairs of
//! nodes overtake each other, and any pair can be cut. Frames of one pair stay whole and in order.

use lev_dsm::PageLink;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Takes what arrives at node `to`: from whom, header, payload.
pub type Deliver = Arc<dyn Fn(NodeId, NodeId, Header, &[u8]) + Send + Sync>;

struct Frame {
    due: Instant,
    header: Header,
    payload: Vec<u8>,
}

#[derive(Default)]
struct Way {
    frames: VecDeque<Frame>,
    cut: bool,
    rng: u64,
}

/// One direction of a pair.
#[derive(Default)]
struct Pair {
    way: Mutex<Way>,
    changed: Condvar,
}

/// All pairs of a cluster.
pub struct Network {
    nodes: u16,
    longest: Duration,
    pairs: Vec<Arc<Pair>>,
}

impl Network {
    /// A network in which a frame takes up to `longest`, drawn from `seed`.
    pub fn new(nodes: u16, longest: Duration, seed: u64) -> Arc<Self> {
        let pair = |number: u64| {
            let pair = Pair::default();
            pair.way.lock().unwrap().rng = seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            Arc::new(pair)
        };
        Arc::new(Self {
            nodes,
            longest,
            pairs: (0..u64::from(nodes).pow(2)).map(pair).collect(),
        })
    }

    fn pair(&self, from: NodeId, to: NodeId) -> &Arc<Pair> {
        &self.pairs[from.index() * usize::from(self.nodes) + to.index()]
    }

    /// Starts delivery: a thread for each direction of each pair, as channels have them.
    pub fn start(&self, deliver: &Deliver) {
        for from in (0..self.nodes).map(NodeId) {
            for to in (0..self.nodes).map(NodeId).filter(|to| *to != from) {
                let (pair, deliver) = (Arc::clone(self.pair(from, to)), Arc::clone(deliver));
                std::thread::spawn(move || {
                    while let Some(frame) = pair.next() {
                        deliver(from, to, frame.header, &frame.payload);
                    }
                });
            }
        }
    }

    /// Cuts a pair: what is under way is lost, and nothing arrives any more. Whoever owns the nodes tells their engines.
    pub fn cut(&self, one: NodeId, other: NodeId) {
        for (from, to) in [(one, other), (other, one)] {
            let pair = self.pair(from, to);
            let mut way = pair.way.lock().unwrap();
            way.cut = true;
            way.frames.clear();
            pair.changed.notify_all();
        }
    }
}

impl Pair {
    fn next(&self) -> Option<Frame> {
        let mut way = self.way.lock().unwrap();
        loop {
            if way.cut {
                return None;
            }
            let now = Instant::now();
            way = match way.frames.front().map(|frame| frame.due) {
                None => self.changed.wait(way).unwrap(),
                Some(due) if due <= now => return way.frames.pop_front(),
                Some(due) => self.changed.wait_timeout(way, due - now).unwrap().0,
            };
        }
    }
}

/// One node's way into the network.
pub struct Port {
    pub network: Arc<Network>,
    pub me: NodeId,
}

impl PageLink for Port {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        assert!(
            to != self.me && to.0 < self.network.nodes,
            "a frame to {to}"
        );
        let payload = parts.concat();
        assert_eq!(payload.len(), header.len as usize);
        let pair = self.network.pair(self.me, to);
        let mut way = pair.way.lock().unwrap();
        if way.cut {
            return;
        }
        // xorshift; half of the frames are not delayed at all.
        way.rng ^= way.rng << 13;
        way.rng ^= way.rng >> 7;
        way.rng ^= way.rng << 17;
        let part = if way.rng & 1 == 0 {
            0
        } else {
            way.rng >> 33 & 0xFFFF
        };
        let due = Instant::now() + self.network.longest * part as u32 / 0x1_0000;
        way.frames.push_back(Frame {
            due,
            header,
            payload,
        });
        pair.changed.notify_all();
    }
}
