//! One vCPU that runs on this node: its descriptor, its local APIC, what others have posted to it, where its thread is.

use crate::door::Door;
use crate::kick;
use crate::loiter::Loiter;
use crate::stats::{bump, Stats};
use lev_apic::{Accepted, ApicView, Interrupt, LocalApic};
use lev_kvmabi::run_page::RunPage;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `KVM_MP_STATE_…`, as QEMU reads and sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MpState {
    /// Executes instructions.
    Runnable = 0,
    /// An application processor before its first INIT.
    Uninitialized = 1,
    /// Waits for a start-up IPI.
    InitReceived = 2,
    /// Executed HLT.
    Halted = 3,
}

impl MpState {
    /// From the number that QEMU gives; a state that KVM on x86 does not have is `None`.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Runnable,
            1 => Self::Uninitialized,
            2 => Self::InitReceived,
            3 => Self::Halted,
            _ => return None,
        })
    }
}

/// Events posted to a vCPU by others, taken by its own thread.
pub(crate) mod event {
    pub const INIT: u32 = 1;
    pub const START_UP: u32 = 2;
    pub const NMI: u32 = 4;
    pub const SMI: u32 = 8;
    /// Bits 16-23: vector of the start-up IPI.
    pub const VECTOR_SHIFT: u32 = 16;
}

/// A vCPU of this node.
pub struct Vcpu {
    /// Its number, the same on every node.
    pub id: u32,
    /// Descriptor of the real KVM vCPU.
    pub fd: i32,
    /// Its `kvm_run` page.
    pub page: RunPage,
    /// The bootstrap processor restarts by itself after INIT.
    pub bootstrap: bool,
    /// Counters.
    pub stats: Stats,
    apic: Mutex<LocalApic>,
    mp_state: AtomicU32,
    events: AtomicU32,
    door: Door,
    thread: AtomicI32,
    /// It waits for an interrupt: nothing that it holds is of use now.
    pub(crate) asleep: AtomicBool,
    /// Whether it only waits for another CPU.
    pub(crate) loiter: Loiter,
    /// When its timer last interrupted it, nanoseconds of CLOCK_MONOTONIC.
    pub(crate) ticked_ns: AtomicU64,
    /// What the kernel last said about injection; false after anything that may have changed it.
    pub(crate) ready: AtomicBool,
    /// Number of the caller's run that shall end (see `run_loop::Caller::Remote`).
    pub(crate) cancelled_run: AtomicU64,
    /// Number of the clock setting that this vCPU has, see `Fabric::clock`.
    pub(crate) clock: AtomicU64,
    /// CPUID.1:EAX, for the register state after INIT.
    pub cpu_signature: AtomicU32,
}

impl Vcpu {
    /// A vCPU in its power-on state. `page` is its own mapping of `fd`.
    #[must_use]
    pub fn new(id: u32, fd: i32, page: RunPage) -> Self {
        let bootstrap = id == 0;
        let state = if bootstrap {
            MpState::Runnable
        } else {
            MpState::Uninitialized
        };
        let mut apic = LocalApic::new(id, bootstrap);
        apic.offer_x2apic(true);
        Self {
            id,
            fd,
            page,
            bootstrap,
            stats: Stats::default(),
            apic: Mutex::new(apic),
            mp_state: AtomicU32::new(state as u32),
            events: AtomicU32::new(0),
            door: Door::default(),
            thread: AtomicI32::new(0),
            asleep: AtomicBool::new(false),
            loiter: Loiter::default(),
            ticked_ns: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            cancelled_run: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            cpu_signature: AtomicU32::new(0x600),
        }
    }

    /// The local APIC, locked. Never held across a system call that can wait.
    pub fn apic(&self) -> MutexGuard<'_, LocalApic> {
        self.apic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What other nodes must know of this APIC.
    #[must_use]
    pub fn view(&self) -> ApicView {
        self.apic().view()
    }

    /// Whether it runs, waits or is halted.
    #[must_use]
    pub fn mp_state(&self) -> MpState {
        MpState::from_number(self.mp_state.load(Ordering::SeqCst)).unwrap_or(MpState::Runnable)
    }

    /// Changes the state from outside the vCPU's thread (QEMU: reset, restore) and wakes it.
    pub fn set_mp_state(&self, state: MpState) {
        self.move_to(state);
        self.kick();
    }

    /// Changes the state on the vCPU's own thread.
    pub(crate) fn move_to(&self, state: MpState) {
        self.mp_state.store(state as u32, Ordering::SeqCst);
    }

    /// An interrupt has arrived from anywhere: the APIC takes it, the thread is woken if it must act.
    pub fn accept(&self, interrupt: &Interrupt) {
        let accepted = self.apic().accept(interrupt);
        bump(&self.stats.accepted);
        match accepted {
            Accepted::Queued => self.kick(),
            Accepted::Nmi => self.post(event::NMI),
            Accepted::Smi => self.post(event::SMI),
            Accepted::Init => self.post(event::INIT),
            Accepted::StartUp(vector) => {
                self.post(event::START_UP | u32::from(vector) << event::VECTOR_SHIFT);
            }
            _ => {}
        }
    }

    /// QEMU injects a non-maskable interrupt.
    pub fn post_nmi(&self) {
        self.post(event::NMI);
    }

    /// QEMU injects a system-management interrupt.
    pub fn post_smi(&self) {
        self.post(event::SMI);
    }

    fn post(&self, events: u32) {
        self.events.fetch_or(events, Ordering::SeqCst);
        self.kick();
    }

    pub(crate) fn take_events(&self) -> u32 {
        if self.events.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        self.events.swap(0, Ordering::SeqCst)
    }

    /// The run numbered `run` (or an earlier one) shall return to its caller.
    pub fn cancel_run(&self, run: u64) {
        self.cancelled_run.fetch_max(run, Ordering::SeqCst);
        self.kick();
    }

    /// Registers were set from outside: what the kernel said about injection no longer holds.
    pub fn registers_changed(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }

    /// QEMU queued an interrupt of its 8259 itself: a halted vCPU wakes, and no second one may be queued on top.
    pub fn external_interrupt_queued(&self) {
        self.ready.store(false, Ordering::Relaxed);
        if self.mp_state() == MpState::Halted {
            self.set_mp_state(MpState::Runnable);
        }
    }

    /// The next entry sets the TSC offset anew (QEMU wrote the counter).
    pub fn clock_changed(&self) {
        self.clock.store(0, Ordering::SeqCst);
    }

    /// Makes the vCPU's thread look at what was posted: ends `KVM_RUN` or its wait, or keeps it from entering.
    pub fn kick(&self) {
        if self.door.knock() {
            bump(&self.stats.kicks);
            kick::thread(self.thread.load(Ordering::SeqCst));
        }
    }

    pub(crate) fn adopt_thread(&self, tid: i32) {
        self.thread.store(tid, Ordering::SeqCst);
    }

    pub(crate) fn clear_poke(&self) {
        self.door.clear_poke();
    }

    /// Announces that the thread is about to run the guest or to sleep; false if something was posted since
    /// [`Self::clear_poke`].
    pub(crate) fn enter(&self) -> bool {
        self.door.enter(kick::drain)
    }

    /// As [`Self::enter`] for the guest, which runs with clock setting `clock`; false also if `in_force` has become another
    /// one: either we see it here, or whoever waits for us to leave sees us.
    pub(crate) fn enter_guest(&self, clock: u64, in_force: impl FnOnce() -> u64) -> bool {
        self.door.enter_guest(clock, in_force, kick::drain)
    }

    /// See [`Self::leave`].
    pub(crate) fn leave_guest(&self) {
        self.door.leave_guest(kick::drain);
    }

    /// Number of the clock setting with which it runs guest code now; 0: it does not.
    #[must_use]
    pub fn in_guest_with(&self) -> u64 {
        self.door.in_guest_with()
    }

    /// The thread is back; eats the kick that was sent meanwhile.
    pub(crate) fn leave(&self) {
        self.door.leave(kick::drain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lev_apic::{DeliveryMode, Destination, Trigger};

    fn vcpu(id: u32, memory: &mut [u64]) -> Vcpu {
        // SAFETY: each test keeps the memory alive as long as the vCPU.
        let page = unsafe { RunPage::new(memory.as_mut_ptr().cast(), 4096) };
        Vcpu::new(id, -1, page)
    }

    #[test]
    fn what_is_posted_before_entry_keeps_the_thread_out() {
        let mut memory = vec![0u64; 512];
        let vcpu = vcpu(1, &mut memory);
        vcpu.clear_poke();
        assert!(vcpu.enter());
        vcpu.leave();
        let init = Interrupt {
            destination: Destination::Physical(1),
            mode: DeliveryMode::Init,
            vector: 0,
            trigger: Trigger::Edge,
            assert: true,
        };
        vcpu.accept(&init);
        assert!(!vcpu.enter());
        assert_eq!(vcpu.take_events(), event::INIT);
        assert_eq!(vcpu.take_events(), 0);
    }

    #[test]
    fn nobody_enters_the_guest_with_an_old_clock() {
        let mut memory = vec![0u64; 512];
        let vcpu = vcpu(1, &mut memory);
        vcpu.clear_poke();
        assert!(vcpu.enter_guest(3, || 3));
        assert_eq!(vcpu.in_guest_with(), 3);
        vcpu.leave_guest();
        assert!(!vcpu.enter_guest(3, || 4));
        assert_eq!(vcpu.in_guest_with(), 0);
    }

    #[test]
    fn only_the_bootstrap_processor_starts_runnable() {
        let mut memory = vec![0u64; 512];
        assert_eq!(vcpu(0, &mut memory).mp_state(), MpState::Runnable);
        assert_eq!(vcpu(3, &mut memory).mp_state(), MpState::Uninitialized);
    }
}
