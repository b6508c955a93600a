//! Interrupt channels: one to each peer, one-way messages, order kept.

use crate::message::interrupt as kind;
use crate::pulse::Pulse;
use lev_apic::{ApicView, Interrupt};
use lev_transport::Sender;
use lev_vcpu::{Fabric, InterruptLink};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Longest wait for a peer that must confirm a changed APIC view; heartbeats find a dead peer earlier.
const VIEW_LIMIT: Duration = Duration::from_secs(10);

/// Counters of interrupts between this node and its peers.
#[derive(Debug, Default)]
pub struct InterruptCounters {
    /// Sent to each peer.
    pub sent: Vec<AtomicU64>,
    /// Received from each peer.
    pub received: Vec<AtomicU64>,
}

/// This node's interrupt channels.
pub struct InterruptPeers {
    me: NodeId,
    senders: Vec<OnceLock<Sender>>,
    counters: InterruptCounters,
    pulses: Vec<Pulse>,
    view_sequence: AtomicU64,
    views_seen: Mutex<Vec<u64>>,
    changed: Condvar,
}

impl InterruptPeers {
    /// Channels of `me` in a cluster of `nodes`.
    #[must_use]
    pub fn new(me: NodeId, nodes: usize) -> Self {
        let numbers = || (0..nodes).map(|_| AtomicU64::new(0)).collect();
        Self {
            me,
            senders: (0..nodes).map(|_| OnceLock::new()).collect(),
            counters: InterruptCounters {
                sent: numbers(),
                received: numbers(),
            },
            pulses: (0..nodes).map(|_| Pulse::default()).collect(),
            view_sequence: AtomicU64::new(0),
            views_seen: Mutex::new(vec![0; nodes]),
            changed: Condvar::new(),
        }
    }

    /// A peer's channel is up.
    pub fn attach(&self, node: NodeId, sender: Sender) {
        if let Some(slot) = self.senders.get(node.index()) {
            let _ = slot.set(sender);
        }
    }

    /// Counters.
    #[must_use]
    pub fn counters(&self) -> &InterruptCounters {
        &self.counters
    }

    /// Interrupts sent to `node` so far.
    #[must_use]
    pub fn sent_to(&self, node: NodeId) -> u64 {
        self.counters
            .sent
            .get(node.index())
            .map_or(0, |count| count.load(Ordering::SeqCst))
    }

    /// Waits until `count` interrupts from `node` have arrived: an exit that QEMU completed after raising an
    /// interrupt must not overtake it. False if they did not come within `limit`.
    pub fn wait_received(&self, node: NodeId, count: u64, limit: Duration) -> bool {
        let Some(received) = self.counters.received.get(node.index()) else {
            return false;
        };
        if received.load(Ordering::SeqCst) >= count {
            return true;
        }
        let guard = self
            .views_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (_guard, time) = self
            .changed
            .wait_timeout_while(guard, limit, |_| received.load(Ordering::SeqCst) < count)
            .unwrap_or_else(PoisonError::into_inner);
        !time.timed_out()
    }

    /// Takes the run number `run` back from a worker.
    pub fn cancel_run(&self, node: NodeId, vcpu: u32, run: u64) {
        self.send(node, kind::CANCEL_RUN, vcpu as u16, run, &[]);
    }

    /// Sends a beat; the length of the silence if the peer is lost.
    pub fn beat(&self, node: NodeId) -> Option<Duration> {
        self.send(node, kind::BEAT, 0, 0, &[]);
        self.pulses.get(node.index())?.beat()
    }

    fn send(&self, node: NodeId, kind: u16, tag: u16, arg: u64, payload: &[u8]) {
        if let Some(sender) = self.senders.get(node.index()).and_then(OnceLock::get) {
            // A channel that fails is found by its receiver, which reports the peer as lost.
            let _ = sender.send(kind, tag, arg, &[payload]);
        }
    }

    /// Handles one frame from `from`.
    ///
    /// # Errors
    /// What is wrong with it; the caller drops the peer.
    pub fn on_frame(
        &self,
        from: NodeId,
        header: Header,
        payload: &[u8],
        fabric: &Fabric,
        ring: &dyn Fn(u64),
    ) -> Result<(), String> {
        let vcpu = u32::from(header.tag);
        match header.kind {
            kind::INTERRUPT => {
                let interrupt = Interrupt::decode(payload)
                    .ok_or_else(|| format!("bad interrupt of {} bytes", payload.len()))?;
                let local = fabric
                    .local(vcpu)
                    .ok_or_else(|| format!("interrupt for vCPU {vcpu}"))?;
                local.accept(&interrupt);
                self.counters.received[from.index()].fetch_add(1, Ordering::SeqCst);
                self.notify();
            }
            kind::VIEW => {
                let view = ApicView::decode(payload)
                    .ok_or_else(|| format!("bad APIC view of {} bytes", payload.len()))?;
                fabric.set_view(vcpu, view);
                self.send(from, kind::VIEW_SEEN, 0, header.arg, &[]);
            }
            kind::VIEW_SEEN => {
                let mut seen = self
                    .views_seen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let last = &mut seen[from.index()];
                *last = (*last).max(header.arg);
                drop(seen);
                self.changed.notify_all();
            }
            kind::CANCEL_RUN => {
                let local = fabric
                    .local(vcpu)
                    .ok_or_else(|| format!("kick for vCPU {vcpu}"))?;
                local.cancel_run(header.arg);
            }
            kind::DOORBELL => ring(header.arg),
            kind::BEAT => self.pulses[from.index()].heard(),
            other => return Err(format!("interrupt frame of kind {other}")),
        }
        Ok(())
    }

    fn notify(&self) {
        // The lock orders the count before a waiter's check.
        drop(
            self.views_seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.changed.notify_all();
    }
}

/// The fabric's way out: a handle on the channels.
pub struct Link(pub Arc<InterruptPeers>);

impl InterruptLink for Link {
    fn interrupt(&self, to: NodeId, vcpu: u32, interrupt: &Interrupt) {
        if let Some(sent) = self.0.counters.sent.get(to.index()) {
            sent.fetch_add(1, Ordering::SeqCst);
            self.0
                .send(to, kind::INTERRUPT, vcpu as u16, 0, &interrupt.encode());
        }
    }

    fn view(&self, vcpu: u32, view: &ApicView) {
        let peers = &*self.0;
        let sequence = peers.view_sequence.fetch_add(1, Ordering::SeqCst) + 1;
        let bytes = view.encode();
        let mut asked = Vec::new();
        for index in 0..peers.senders.len() {
            let node = NodeId(index as u16);
            if node != peers.me && peers.senders[index].get().is_some() {
                peers.send(node, kind::VIEW, vcpu as u16, sequence, &bytes);
                asked.push(index);
            }
        }
        let seen = peers
            .views_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = peers.changed.wait_timeout_while(seen, VIEW_LIMIT, |seen| {
            asked.iter().any(|index| seen[*index] < sequence)
        });
    }

    fn doorbell(&self, index: u32) {
        self.0
            .send(NodeId::HEAD, kind::DOORBELL, 0, u64::from(index), &[]);
    }
}
