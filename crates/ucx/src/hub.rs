//! The thread that owns UCX: carries out orders, hears what comes, and knows the peers.

use crate::envelope::{Envelope, Token, Word, ENVELOPE_LEN};
use crate::orders::{Order, Shared};
use crate::sequence::Sequence;
use crate::worker::{status_text, Parcel, Worker};
use crate::{Ear, UcxError};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Times that the thread finds nothing to do before it sleeps: long enough for an answer that is on its way, short enough for
/// those who share the CPU.
const IDLE_ROUNDS: u32 = 32;
/// Longest sleep. Nothing relies on it: it bounds what an event that UCX forgot to tell would cost.
const NAP: Duration = Duration::from_millis(50);
/// How long closing waits for connections that are still being made: UCX that gives up such an endpoint may end the process.
const MEETING: Duration = Duration::from_secs(2);
/// The header of what is no frame.
const NO_HEADER: Header = Header {
    kind: 0,
    tag: 0,
    len: 0,
    arg: 0,
};
/// What the thread knows of one peer.
struct Peer {
    /// What it must present.
    expected: Token,
    /// What we must present; `None`: there is no way to it yet.
    presented: Option<Token>,
    /// It has said hello.
    greeted: bool,
    /// It has answered ours.
    met: bool,
    /// Frames for which there is no way yet.
    waiting: Vec<(Header, Vec<u8>)>,
    /// Frames sent.
    sent: u64,
    heard: Sequence<(Envelope, Vec<u8>)>,
    lost: bool,
}

impl Peer {
    /// UCX makes a connection to it, which has not yet carried a message both ways.
    fn half_met(&self) -> bool {
        self.presented.is_some() && !self.lost && !(self.greeted && self.met)
    }
}

/// The thread's belongings.
pub(crate) struct Hub {
    me: NodeId,
    worker: Worker,
    event: RawFd,
    shared: Arc<Shared>,
    ear: Arc<dyn Ear>,
    peers: Vec<Peer>,
    /// The ear hears no more.
    closing: bool,
}

impl Hub {
    /// For the thread that has opened `worker`. `expected`: what each peer must present.
    pub(crate) fn new(
        me: NodeId,
        worker: Worker,
        event: RawFd,
        shared: Arc<Shared>,
        ear: Arc<dyn Ear>,
        expected: Vec<Token>,
    ) -> Self {
        let peer = |token| Peer {
            expected: token,
            presented: None,
            greeted: false,
            met: false,
            waiting: Vec::new(),
            sent: 0,
            heard: Sequence::default(),
            lost: false,
        };
        Self {
            me,
            worker,
            event,
            shared,
            ear,
            peers: expected.into_iter().map(peer).collect(),
            closing: false,
        }
    }

    /// Works until it is told to close; whether all that was sent has left.
    pub(crate) fn run(mut self) -> bool {
        let mut idle = 0;
        loop {
            let orders = std::mem::take(&mut self.shared.lock().orders);
            let mut busy = !orders.is_empty();
            for order in orders {
                if let Some(patience) = self.follow(order) {
                    return self.close(patience);
                }
            }
            busy |= self.worker.progress();
            busy |= self.serve();
            idle = if busy { 0 } else { idle + 1 };
            if idle > IDLE_ROUNDS {
                self.sleep();
                idle = 0;
            }
        }
    }

    /// Says goodbye to all peers and ends; whether all that was sent has left within `patience`.
    fn close(mut self, patience: Duration) -> bool {
        self.closing = true;
        self.meet();
        let half_met = self.peers.iter().any(Peer::half_met);
        for node in 0..self.peers.len() {
            self.say(NodeId(node as u16), Word::Last);
        }
        let shared = Arc::clone(&self.shared);
        let left = self.worker.flush(patience, |parcel| shared.sent(parcel));
        if half_met {
            self.worker.leave();
        } else {
            self.worker.close();
        }
        left
    }

    /// Waits until all connections that are being made are there, or have failed.
    fn meet(&mut self) {
        let deadline = Instant::now() + MEETING;
        while self.peers.iter().any(Peer::half_met) && Instant::now() < deadline {
            let busy = self.worker.progress();
            if !self.serve() && !busy {
                Worker::pause();
            }
        }
    }

    /// Carries out one order; how patient to be, if it was to close.
    fn follow(&mut self, order: Order) -> Option<Duration> {
        match order {
            Order::Close { patience } => return Some(patience),
            Order::GiveUp { to, error } => self.lose(to, error),
            Order::Connect { to, address, token } => self.connect(to, &address, token),
            Order::Send {
                to,
                header,
                payload,
            } => self.send(to, header, payload),
        }
        None
    }

    fn connect(&mut self, to: NodeId, address: &[u8], token: Token) {
        let Some(peer) = self.peers.get_mut(to.index()) else {
            return;
        };
        if peer.lost {
            return;
        }
        if peer.presented.is_some() {
            let text = "it introduced itself twice".to_owned();
            return self.lose(to, UcxError::Frames(text));
        }
        if let Err(error) = self.worker.connect(to, address) {
            return self.lose(to, error);
        }
        peer.presented = Some(token);
        let greeted = peer.greeted;
        self.say(to, Word::Hello);
        if greeted {
            self.say(to, Word::Answer);
        }
        let peer = &mut self.peers[to.index()];
        for (header, payload) in std::mem::take(&mut peer.waiting) {
            self.send(to, header, payload);
        }
    }

    fn send(&mut self, to: NodeId, header: Header, payload: Vec<u8>) {
        let peer = &mut self.peers[to.index()];
        if peer.presented.is_none() && !peer.lost {
            return peer.waiting.push((header, payload));
        }
        self.post(to, Word::Frame, header, payload);
    }

    /// Tells a peer something that is no frame.
    fn say(&mut self, to: NodeId, word: Word) {
        self.post(to, word, NO_HEADER, Vec::new());
    }

    /// Gives a frame to UCX, if there is a way to the peer.
    fn post(&mut self, to: NodeId, word: Word, header: Header, payload: Vec<u8>) {
        let peer = &mut self.peers[to.index()];
        let (Some(token), false) = (peer.presented, peer.lost) else {
            return;
        };
        let envelope = Envelope {
            token,
            from: self.me,
            word,
            number: peer.sent,
            header,
        };
        peer.sent += 1;
        let parcel = Parcel {
            to,
            envelope: envelope.encode(),
            payload,
        };
        if let Err(error) = self.worker.send(parcel) {
            self.lose(to, error);
        }
    }

    /// Handles what has happened; false: nothing.
    fn serve(&mut self) -> bool {
        let events = self.worker.events();
        let busy = !(events.heard.is_empty() && events.sent.is_empty() && events.broken.is_empty());
        for parcel in &events.sent {
            self.shared.sent(parcel);
        }
        // What a peer said before its end counts.
        for (envelope, payload) in events.heard {
            self.hear(&envelope, payload);
        }
        for (node, status) in events.broken {
            let error = UcxError::Call {
                what: "the endpoint",
                status,
                text: status_text(status),
            };
            self.lose(node, error);
        }
        busy
    }

    fn hear(&mut self, envelope: &[u8], payload: Vec<u8>) {
        let envelope = Envelope::decode(envelope, payload.len());
        let known = envelope.and_then(|envelope| {
            let peer = self.peers.get_mut(envelope.from.index())?;
            peer.expected
                .matches(&envelope.token)
                .then_some((envelope, peer))
        });
        let Some((envelope, peer)) = known else {
            self.shared.strange.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if peer.lost {
            return;
        }
        let (from, ear) = (envelope.from, &self.ear);
        let (mut greeted, mut met, mut closed) = (false, false, false);
        let closing = self.closing;
        let bytes = ENVELOPE_LEN + payload.len();
        let ready = |(envelope, payload): (Envelope, Vec<u8>)| match envelope.word {
            _ if closed => {}
            Word::Frame if closing => {}
            Word::Frame => ear.frame(from, envelope.header, &payload),
            Word::Hello => greeted = true,
            Word::Answer => met = true,
            Word::Last => closed = true,
        };
        let put = peer
            .heard
            .put(envelope.number, bytes, (envelope, payload), ready);
        peer.greeted |= greeted;
        peer.met |= met;
        if met && !closing {
            ear.met(from);
        }
        if greeted {
            self.say(from, Word::Answer);
        }
        match put {
            Ok(()) if closed => self.lose(from, UcxError::Closed),
            Ok(()) => {}
            Err(error) => self.lose(from, error),
        }
    }

    /// A peer is lost: told once.
    fn lose(&mut self, node: NodeId, error: UcxError) {
        let peer = &mut self.peers[node.index()];
        if std::mem::replace(&mut peer.lost, true) {
            return;
        }
        peer.waiting = Vec::new();
        self.shared.lock().bytes[node.index()] = None;
        if !self.closing {
            self.ear.lost(node, error);
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self) {
        match self.worker.arm() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.lose_all(&error),
        }
        let mut queue = self.shared.lock();
        if !queue.orders.is_empty() {
            return;
        }
        queue.asleep = true;
        drop(queue);
        self.shared.bell.wait(self.event, NAP);
        self.shared.lock().asleep = false;
    }

    /// UCX itself fails.
    fn lose_all(&mut self, error: &UcxError) {
        for node in 0..self.peers.len() {
            if node != self.me.index() {
                self.lose(NodeId(node as u16), error.clone());
            }
        }
        // Only the order to close is left.
        std::thread::sleep(NAP);
    }
}
