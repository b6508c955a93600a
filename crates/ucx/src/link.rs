//! One node's way to all others: a queue that any thread fills, and the thread that owns UCX.

use crate::bell::{self, Bell};
use crate::envelope::{Envelope, Token, Word, ENVELOPE_LEN, TOKEN_LEN};
use crate::sequence::Sequence;
use crate::worker::{status_text, Parcel, Worker};
use crate::{Ear, UcxError, QUEUE_LIMIT};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Times that the thread finds nothing to do before it sleeps: long enough for an answer that is on its way, short enough for
/// those who share the CPU.
const IDLE_ROUNDS: u32 = 32;
/// Longest sleep. Nothing relies on it: it bounds what an event that UCX forgot to tell would cost.
const NAP: Duration = Duration::from_millis(50);
/// The header of what is no frame.
const NO_HEADER: Header = Header {
    kind: 0,
    tag: 0,
    len: 0,
    arg: 0,
};
/// Longest address of a worker that is believed; they have a few hundred bytes.
const ADDRESS_MAX: usize = 16 << 10;

/// The way from this node to its peers over UCX. Dropping it closes it at once.
pub struct Link {
    shared: Arc<Shared>,
    address: Vec<u8>,
    tokens: Vec<Token>,
    thread: Mutex<Option<JoinHandle<bool>>>,
}

/// What senders and the thread share.
struct Shared {
    queue: Mutex<Queue>,
    bell: Bell,
    /// Messages that were not from a peer.
    strange: AtomicU64,
}

/// What is to be done by the thread.
struct Queue {
    orders: Vec<Order>,
    /// By node: bytes that were given to `send` and whose memory UCX still needs; `None`: the peer is lost.
    bytes: Vec<Option<usize>>,
    /// The thread sleeps, or is about to.
    asleep: bool,
}

/// Something for the thread to do, in order.
enum Order {
    Connect {
        to: NodeId,
        address: Vec<u8>,
        token: Token,
    },
    Send {
        to: NodeId,
        header: Header,
        payload: Vec<u8>,
    },
    /// The peer does not read.
    GiveUp {
        to: NodeId,
        error: UcxError,
    },
    Close {
        patience: Duration,
    },
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of a parcel is free again.
    fn sent(&self, parcel: &Parcel) {
        if let Some(bytes) = &mut self.lock().bytes[parcel.to.index()] {
            // What is no frame was never counted.
            *bytes = bytes.saturating_sub(parcel.len());
        }
    }

    fn order(&self, order: Order) {
        self.put(self.lock(), order);
    }

    fn put(&self, mut queue: MutexGuard<'_, Queue>, order: Order) {
        queue.orders.push(order);
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        if asleep {
            self.bell.ring();
        }
    }
}

impl Link {
    /// Opens UCX for node `me` of `nodes` and starts its thread, "lev-ucx". `UCX_TLS` and `UCX_NET_DEVICES` choose the
    /// transports; `ear` hears the peers.
    ///
    /// # Errors
    /// UCX has no transport that can do it; the system has no room for a thread.
    pub fn start(me: NodeId, nodes: u16, ear: Arc<dyn Ear>) -> Result<Self, UcxError> {
        let tokens = (0..nodes)
            .map(|_| {
                let mut token = [0; TOKEN_LEN];
                bell::random(&mut token).map(|()| Token(token))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                orders: Vec::new(),
                bytes: vec![Some(0); nodes.into()],
                asleep: false,
            }),
            bell: Bell::new()?,
            strange: AtomicU64::new(0),
        });
        let (tell, told) = mpsc::channel();
        let (mine, expected) = (Arc::clone(&shared), tokens.clone());
        let thread = bell::spawn("lev-ucx", move || {
            let opened = Worker::open(nodes).and_then(|worker| {
                let event = worker.event_fd()?;
                Ok((worker, event))
            });
            let (worker, event) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return true;
                }
            };
            let _ = tell.send(Ok(worker.address()));
            let peer = |token| Peer {
                expected: token,
                presented: None,
                greeted: false,
                waiting: Vec::new(),
                sent: 0,
                heard: Sequence::default(),
                lost: false,
            };
            let hub = Hub {
                me,
                worker,
                event,
                shared: mine,
                ear,
                peers: expected.into_iter().map(peer).collect(),
            };
            hub.run()
        })?;
        let address = told.recv().unwrap_or(Err(UcxError::Missing))?;
        Ok(Self {
            shared,
            address,
            tokens,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What `peer`, and nobody else, is to be told: its [`Link::connect`] takes it.
    #[must_use]
    pub fn introduction(&self, peer: NodeId) -> Vec<u8> {
        [&self.tokens[peer.index()].0[..], &self.address].concat()
    }

    /// Makes the way to `peer`, whose introduction came over an authenticated channel. Frames that were sent before go now.
    ///
    /// # Errors
    /// [`UcxError::Introduction`]: it is none. That the peer cannot be reached is told to the ear.
    pub fn connect(&self, peer: NodeId, introduction: &[u8]) -> Result<(), UcxError> {
        let len = introduction.len();
        let wrong = UcxError::Introduction { len };
        match introduction.split_first_chunk::<TOKEN_LEN>() {
            Some((token, address)) if !address.is_empty() && len <= ADDRESS_MAX => {
                self.shared.order(Order::Connect {
                    to: peer,
                    address: address.to_vec(),
                    token: Token(*token),
                });
                Ok(())
            }
            _ => Err(wrong),
        }
    }

    /// Sends a frame, in the order of the calls for one peer; `header.len` is the sum of the parts, which are read during the
    /// call only. Never waits. A peer that does not take what it is sent is lost, which the ear hears.
    pub fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        let payload = parts.concat();
        let len = ENVELOPE_LEN + payload.len();
        let mut queue = self.shared.lock();
        let Some(bytes) = queue.bytes.get_mut(to.index()).and_then(Option::as_mut) else {
            return;
        };
        if *bytes + len > QUEUE_LIMIT {
            let error = UcxError::QueueFull {
                queued: *bytes,
                limit: QUEUE_LIMIT,
            };
            queue.bytes[to.index()] = None;
            return self.shared.put(queue, Order::GiveUp { to, error });
        }
        *bytes += len;
        let order = Order::Send {
            to,
            header,
            payload,
        };
        self.shared.put(queue, order);
    }

    /// Messages so far that did not prove to be from a peer; they were dropped.
    #[must_use]
    pub fn strange(&self) -> u64 {
        self.shared.strange.load(Ordering::Relaxed)
    }

    /// Ends the thread; what was sent before has `patience` to leave this machine. The peers see the end of the way. Called by
    /// an ear, it does not wait. Later calls do nothing.
    ///
    /// # Errors
    /// [`UcxError::Unsent`]: something was left; the link has ended all the same.
    pub fn close(&self, patience: Duration) -> Result<(), UcxError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else {
            return Ok(());
        };
        self.shared.order(Order::Close { patience });
        // An ear may have held the last reference to what owns this link.
        if thread.thread().id() == std::thread::current().id() {
            return Ok(());
        }
        if thread.join().unwrap_or(false) || patience.is_zero() {
            return Ok(());
        }
        let queue = self.shared.lock();
        let nodes = |least| -> Vec<NodeId> {
            let all = queue.bytes.iter().zip(0..);
            all.filter(|(bytes, _)| bytes.is_some_and(|bytes| bytes >= least))
                .map(|(_, node)| NodeId(node))
                .collect()
        };
        // UCX may have taken all of it and still not have sent it: to whom is not known then.
        let left = nodes(1);
        Err(UcxError::Unsent {
            nodes: if left.is_empty() { nodes(0) } else { left },
            waited_ms: patience.as_millis() as u64,
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.close(Duration::ZERO);
    }
}

/// What the thread knows of one peer.
struct Peer {
    /// What it must present.
    expected: Token,
    /// What we must present; `None`: there is no way to it yet.
    presented: Option<Token>,
    /// It has said hello.
    greeted: bool,
    /// Frames for which there is no way yet.
    waiting: Vec<(Header, Vec<u8>)>,
    /// Frames sent.
    sent: u64,
    heard: Sequence<(Envelope, Vec<u8>)>,
    lost: bool,
}

/// The thread's belongings.
struct Hub {
    me: NodeId,
    worker: Worker,
    event: std::os::fd::RawFd,
    shared: Arc<Shared>,
    ear: Arc<dyn Ear>,
    peers: Vec<Peer>,
}

impl Hub {
    /// Works until it is told to close; whether all that was sent has left.
    fn run(mut self) -> bool {
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
        for node in 0..self.peers.len() {
            self.say(NodeId(node as u16), Word::Last);
        }
        let shared = Arc::clone(&self.shared);
        let left = self.worker.flush(patience, |parcel| shared.sent(parcel));
        self.worker.close();
        left
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
        let (mut greeted, mut closed) = (false, false);
        let bytes = ENVELOPE_LEN + payload.len();
        let ready = |(envelope, payload): (Envelope, Vec<u8>)| match envelope.word {
            _ if closed => {}
            Word::Frame => ear.frame(from, envelope.header, &payload),
            Word::Hello => greeted = true,
            Word::Answer => ear.met(from),
            Word::Last => closed = true,
        };
        let put = peer
            .heard
            .put(envelope.number, bytes, (envelope, payload), ready);
        if greeted {
            peer.greeted = true;
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
        self.ear.lost(node, error);
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
