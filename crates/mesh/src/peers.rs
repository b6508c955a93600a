//! All channels of one node, and the threads that read them.

use crate::interrupts::InterruptPeers;
use crate::loss::Loss;
use crate::pages::PagePeers;
use crate::pulse::BEAT;
use lev_dsm::Engine;
use lev_transport::{Channel, Purpose};
use lev_vcpu::Fabric;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Called for a peer that is gone: node, why.
pub type OnLost = Box<dyn Fn(NodeId, Loss) + Send + Sync>;
/// Called on the head for a doorbell that a worker's guest code rang.
pub type OnDoorbell = Box<dyn Fn(u64) + Send + Sync>;

/// What [`Peers`] are made of.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Interrupt channels.
    pub interrupts: Arc<InterruptPeers>,
    /// Page channels.
    pub pages: Arc<PagePeers>,
    /// Where interrupts go.
    pub fabric: Arc<Fabric>,
    /// Where page frames go.
    pub engine: Arc<Engine>,
    /// A peer is gone.
    pub on_lost: OnLost,
    /// A doorbell was rung.
    pub on_doorbell: OnDoorbell,
}

/// One node's channels to all others.
pub struct Peers {
    me: NodeId,
    nodes: usize,
    /// Interrupt channels.
    pub interrupts: Arc<InterruptPeers>,
    /// Page channels.
    pub pages: Arc<PagePeers>,
    fabric: Arc<Fabric>,
    engine: Arc<Engine>,
    attached: Mutex<Vec<(bool, bool)>>,
    changed: Condvar,
    closing: AtomicBool,
    on_lost: OnLost,
    on_doorbell: OnDoorbell,
}

impl Peers {
    /// Joins the parts; channels come with [`Self::attach`].
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            attached: Mutex::new(vec![(false, false); parts.nodes]),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
            me: parts.me,
            nodes: parts.nodes,
            interrupts: parts.interrupts,
            pages: parts.pages,
            fabric: parts.fabric,
            engine: parts.engine,
            on_lost: parts.on_lost,
            on_doorbell: parts.on_doorbell,
        })
    }

    /// A channel for interrupts or pages is up: from now on it is read by a thread of its own.
    ///
    /// # Errors
    /// A node number outside the cluster, a second channel for the same purpose, or no thread.
    pub fn attach(self: &Arc<Self>, channel: Channel) -> Result<(), String> {
        let node = channel.peer();
        let purpose = channel.purpose();
        if node.index() >= self.nodes || node == self.me {
            return Err(format!("{node} is not a peer"));
        }
        let (sender, mut receiver) = channel.split();
        let this = Arc::clone(self);
        let body: Box<dyn FnOnce() -> String + Send> = match purpose {
            Purpose::Interrupt => {
                self.interrupts.attach(node, sender);
                Box::new(move || loop {
                    match receiver.recv() {
                        Ok((header, payload)) => {
                            let result = this.interrupts.on_frame(
                                node,
                                header,
                                payload,
                                &this.fabric,
                                &this.on_doorbell,
                            );
                            if let Err(what) = result {
                                return what;
                            }
                        }
                        Err(error) => return error.to_string(),
                    }
                })
            }
            Purpose::Page => {
                self.pages.attach(node, sender);
                Box::new(move || loop {
                    match receiver.recv() {
                        Ok((header, payload)) => {
                            if let Err(error) = this.engine.on_frame(node, header, payload) {
                                return error.to_string();
                            }
                        }
                        Err(error) => return error.to_string(),
                    }
                })
            }
            other => return Err(format!("{other:?} is no channel between peers")),
        };
        self.mark(node, purpose)?;
        let this = Arc::clone(self);
        let name = match purpose {
            Purpose::Interrupt => format!("lev-irq-{}", node.0),
            _ => format!("lev-page-{}", node.0),
        };
        spawn_first(&name, move || {
            let reason = body();
            this.lost(node, reason.into());
        })
    }

    fn mark(&self, node: NodeId, purpose: Purpose) -> Result<(), String> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = &mut attached[node.index()];
        let flag = if matches!(purpose, Purpose::Interrupt) {
            &mut entry.0
        } else {
            &mut entry.1
        };
        if std::mem::replace(flag, true) {
            return Err(format!("{node} already has a channel for {purpose:?}"));
        }
        drop(attached);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until every peer has both channels. Returns the nodes still missing.
    pub fn wait_all(&self, limit: Duration) -> Vec<NodeId> {
        let me = self.me.index();
        let missing = |attached: &Vec<(bool, bool)>| -> Vec<NodeId> {
            attached
                .iter()
                .enumerate()
                .filter(|(index, (interrupts, pages))| *index != me && !(*interrupts && *pages))
                .map(|(index, _)| NodeId(index as u16))
                .collect()
        };
        let guard = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = self
            .changed
            .wait_timeout_while(guard, limit, |attached| !missing(attached).is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        missing(&guard)
    }

    /// Beats to the other workers and watches theirs, from now on. The head's beats come over the control channel.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn beat(self: &Arc<Self>) -> Result<(), String> {
        let this = Arc::clone(self);
        let others: Vec<NodeId> = (1..self.nodes as u16)
            .map(NodeId)
            .filter(|node| *node != self.me)
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        spawn_first("lev-beat", move || {
            while !this.closing.load(Ordering::SeqCst) {
                for node in &others {
                    if let Some(silence) = this.interrupts.beat(*node) {
                        this.lost(*node, Loss::silence(silence));
                    }
                }
                std::thread::sleep(BEAT);
            }
        })
    }

    /// The VM ends: channels that close from now on are no loss.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// A peer is gone.
    pub fn lost(&self, node: NodeId, loss: Loss) {
        if !self.closing.load(Ordering::SeqCst) {
            (self.on_lost)(node, loss);
        }
    }
}

/// As [`spawn`], and the thread runs before ordinary ones where the system allows it: it works for microseconds and somebody
/// waits for it.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_first(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    spawn(name, move || {
        lev_dsm::threads::serve_first();
        body();
    })
}

/// Starts a named thread with all signals blocked, so that QEMU's signals never land in it.
///
/// # Errors
/// The system has no room for a thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    lev_dsm::threads::spawn(name.to_owned(), body)
        .map(|_| ())
        .map_err(|error| error.to_string())
}
