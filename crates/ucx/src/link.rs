//! One node's way to all others: a queue that any thread fills, and the thread that owns UCX.

use crate::bell::{self, Bell};
use crate::envelope::{Token, ENVELOPE_LEN, TOKEN_LEN};
use crate::hub::Hub;
use crate::orders::{Order, Queue, Shared};
use crate::worker::Worker;
use crate::{Ear, UcxError, QUEUE_LIMIT};
use lev_threads::spawn_quiet;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest address of a worker that is believed; they have a few hundred bytes.
const ADDRESS_MAX: usize = 16 << 10;

/// The way from this node to its peers over UCX. Dropping it closes it at once.
pub struct Link {
    shared: Arc<Shared>,
    address: Vec<u8>,
    tokens: Vec<Token>,
    thread: Mutex<Option<JoinHandle<bool>>>,
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
        let builder = std::thread::Builder::new().name("lev-ucx".into());
        let thread = spawn_quiet(builder, move || {
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
            Hub::new(me, worker, event, mine, ear, expected).run()
        })
        .map_err(|error| UcxError::System {
            what: "pthread_create",
            errno: error.raw_os_error().unwrap_or(0),
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
