//! The interrupt fabric of one node: which APIC answers to which destination, on this node or another.
//!
//! Every node holds the views (ID, LDR, DFR, base, enable) of all local APICs, so any node resolves any destination by
//! itself and sends one one-way message to each target.

use crate::cell::Vcpu;
use crate::clock::monotonic_ns;
use crate::guest_clock::GuestClock;
use lev_apic::{ApicView, Interrupt, LocalApic, Router};
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// Linux's vector for "look at your run queue", the one interrupt between its CPUs for whose answer it never waits
/// (`arch/x86/include/asm/irq_vectors.h`).
const RESCHEDULE: u8 = 0xfd;

/// The way to the other nodes' fabrics.
pub trait InterruptLink: Send + Sync {
    /// Sends an interrupt, already resolved, to a vCPU of another node. One way; order per node kept.
    fn interrupt(&self, to: NodeId, vcpu: u32, interrupt: &Interrupt);
    /// Tells all other nodes what a local APIC looks like now; returns when all have it, so that no later interrupt
    /// can be routed by the old view.
    fn view(&self, vcpu: u32, view: &ApicView);
    /// Signals the eventfd that QEMU registered for a guest address; one way to the head.
    fn doorbell(&self, index: u32);
}

/// A guest address whose write only signals an eventfd in QEMU (`KVM_IOEVENTFD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Number by which the head knows the eventfd.
    pub index: u32,
    /// Guest physical address or port.
    pub address: u64,
    /// Bytes that a write must have; 0: any.
    pub len: u32,
    /// Value that must be written; `None`: any.
    pub value: Option<u64>,
    /// A port instead of an address.
    pub port: bool,
}

impl Doorbell {
    /// The write rings this bell.
    #[must_use]
    pub fn matches(&self, port: bool, address: u64, len: u32, value: u64) -> bool {
        self.port == port
            && self.address == address
            && (self.len == 0 || self.len == len)
            && self.value.is_none_or(|expected| expected == value)
    }
}

/// One node's interrupt fabric.
pub struct Fabric {
    me: NodeId,
    owners: Vec<NodeId>,
    vcpus: Vec<OnceLock<Arc<Vcpu>>>,
    router: RwLock<Router>,
    doorbells: RwLock<Vec<Doorbell>>,
    link: OnceLock<Box<dyn InterruptLink>>,
    /// When a vCPU of this node last sent an interrupt to one of another node; 0: never.
    called_ns: AtomicU64,
    /// Whether interrupts of the timer are dear now.
    dear_ticks: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// The guest's time-stamp counter.
    pub clock: GuestClock,
}

impl Fabric {
    /// A fabric for vCPUs `0..owners.len()`, where `owners[v]` runs vCPU `v`.
    #[must_use]
    pub fn new(me: NodeId, owners: Vec<NodeId>) -> Self {
        let mut router = Router::new();
        for vcpu in 0..owners.len() as u32 {
            router.set(vcpu, LocalApic::new(vcpu, vcpu == 0).view());
        }
        let vcpus = owners.iter().map(|_| OnceLock::new()).collect();
        Self {
            me,
            owners,
            vcpus,
            router: RwLock::new(router),
            doorbells: RwLock::new(Vec::new()),
            link: OnceLock::new(),
            called_ns: AtomicU64::new(0),
            dear_ticks: OnceLock::new(),
            clock: GuestClock::default(),
        }
    }

    /// Connects the fabric to the other nodes; once.
    pub fn connect(&self, link: Box<dyn InterruptLink>) {
        let _ = self.link.set(link);
    }

    /// vCPUs of the machine, over all nodes.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.owners.len()
    }

    /// The node that runs a vCPU; `None` for a number that the cluster does not have.
    #[must_use]
    pub fn owner(&self, vcpu: u32) -> Option<NodeId> {
        self.owners.get(vcpu as usize).copied()
    }

    /// A vCPU of this node becomes reachable; false if the number is not this node's or is taken.
    pub fn add(&self, vcpu: Arc<Vcpu>) -> bool {
        self.owner(vcpu.id) == Some(self.me) && self.vcpus[vcpu.id as usize].set(vcpu).is_ok()
    }

    /// A vCPU that runs on this node.
    #[must_use]
    pub fn local(&self, vcpu: u32) -> Option<&Arc<Vcpu>> {
        self.vcpus.get(vcpu as usize).and_then(OnceLock::get)
    }

    /// All vCPUs that run on this node.
    pub fn all_local(&self) -> impl Iterator<Item = &Arc<Vcpu>> {
        self.vcpus.iter().filter_map(OnceLock::get)
    }

    /// Whether every vCPU of this node waits for an interrupt. A hint: it may change at once.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.all_local()
            .all(|vcpu| vcpu.asleep.load(Ordering::Relaxed))
    }

    /// Whether no vCPU of this node does anything but wait for other CPUs, as far as was seen.
    #[must_use]
    pub fn only_waits(&self) -> bool {
        self.all_local()
            .all(|vcpu| vcpu.asleep.load(Ordering::Relaxed) || vcpu.loiter.seems_to_wait())
    }

    /// Looks where this node's vCPUs are, for [`Self::only_waits`]; each is taken out of the guest for it.
    pub fn look(&self) {
        for vcpu in self.all_local() {
            if !vcpu.asleep.load(Ordering::Relaxed) && vcpu.loiter.ask() {
                vcpu.kick();
            }
        }
    }

    /// What was seen of this node's vCPUs says nothing any more.
    pub fn look_anew(&self) {
        self.all_local().for_each(|vcpu| vcpu.loiter.reset());
    }

    /// Lets timers of running vCPUs interrupt them rarely while `dear` says so. The first call counts.
    pub fn spare_ticks(&self, dear: Box<dyn Fn() -> bool + Send + Sync>) {
        let _ = self.dear_ticks.set(dear);
    }

    pub(crate) fn are_ticks_dear(&self) -> bool {
        self.dear_ticks.get().is_some_and(|dear| dear())
    }

    /// Time since a vCPU of this node sent an interrupt to one of another node, for whose answer it may wait; at the
    /// beginning a very long time.
    #[must_use]
    pub fn since_call(&self) -> Duration {
        let called = self.called_ns.load(Ordering::Relaxed);
        Duration::from_nanos(monotonic_ns().saturating_sub(called))
    }

    /// Sends an interrupt to whom it addresses. Returns the number of targets.
    pub fn deliver(&self, interrupt: &Interrupt, source: Option<u32>) -> usize {
        let targets = {
            let router = self.router.read().unwrap_or_else(PoisonError::into_inner);
            router.resolve(interrupt, source)
        };
        let mut count = 0;
        for vcpu in targets.iter() {
            if source.is_some() && interrupt.vector != RESCHEDULE && self.local(vcpu).is_none() {
                self.called_ns.store(monotonic_ns(), Ordering::Relaxed);
            }
            self.post(vcpu, interrupt);
            count += 1;
        }
        count
    }

    /// Hands an interrupt to one vCPU, wherever it runs.
    pub fn post(&self, vcpu: u32, interrupt: &Interrupt) {
        if let Some(local) = self.local(vcpu) {
            local.accept(interrupt);
        } else if let (Some(owner), Some(link)) = (self.owner(vcpu), self.link.get()) {
            if owner != self.me {
                link.interrupt(owner, vcpu, interrupt);
            }
        }
    }

    /// A local APIC changed what others see of it.
    pub fn view_changed(&self, vcpu: &Vcpu) {
        let view = vcpu.view();
        self.set_view(vcpu.id, view);
        if let Some(link) = self.link.get() {
            link.view(vcpu.id, &view);
        }
    }

    /// Another node says what an APIC looks like.
    pub fn set_view(&self, vcpu: u32, view: ApicView) {
        if (vcpu as usize) < self.owners.len() {
            self.router
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .set(vcpu, view);
        }
    }

    /// Replaces the doorbells that this node answers without QEMU.
    pub fn set_doorbells(&self, doorbells: Vec<Doorbell>) {
        *self
            .doorbells
            .write()
            .unwrap_or_else(PoisonError::into_inner) = doorbells;
    }

    /// Rings the bell at a guest address, if there is one.
    #[must_use]
    pub fn ring(&self, port: bool, address: u64, len: u32, value: u64) -> bool {
        let doorbells = self
            .doorbells
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let found = doorbells
            .iter()
            .find(|bell| bell.matches(port, address, len, value));
        match (found, self.link.get()) {
            (Some(bell), Some(link)) => {
                link.doorbell(bell.index);
                true
            }
            _ => false,
        }
    }

    /// Sets the distance between this host's TSC and the guest's; every vCPU takes it over at its next entry, and those that
    /// are inside the guest leave it now. False: the guest's time would go back.
    #[must_use]
    pub fn set_clock(&self, tsc_offset: u64) -> bool {
        let taken = self.clock.set(tsc_offset);
        for vcpu in self.all_local().filter(|vcpu| vcpu.in_guest_with() > 0) {
            vcpu.kick();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doorbells_match_by_address_length_and_value() {
        let bell = Doorbell {
            index: 0,
            address: 0xfe00_3000,
            len: 2,
            value: Some(1),
            port: false,
        };
        assert!(bell.matches(false, 0xfe00_3000, 2, 1));
        assert!(!bell.matches(false, 0xfe00_3000, 4, 1));
        assert!(!bell.matches(false, 0xfe00_3000, 2, 0));
        assert!(!bell.matches(true, 0xfe00_3000, 2, 1));
        let any = Doorbell {
            len: 0,
            value: None,
            ..bell
        };
        assert!(any.matches(false, 0xfe00_3000, 4, 7));
    }

    #[test]
    fn a_foreign_vcpu_is_not_added() {
        let fabric = Fabric::new(NodeId(1), vec![NodeId(0), NodeId(1)]);
        let mut memory = vec![0u64; 512];
        // SAFETY: the memory outlives the vCPU.
        let page = unsafe { lev_kvmabi::run_page::RunPage::new(memory.as_mut_ptr().cast(), 4096) };
        assert!(!fabric.add(Arc::new(Vcpu::new(0, -1, page))));
        assert!(fabric.add(Arc::new(Vcpu::new(1, -1, page))));
        assert!(
            fabric.local(1).is_some() && fabric.local(0).is_none() && fabric.local(9).is_none()
        );
    }
}
