//! One local APIC: its state, resets and the acceptance of interrupts.

use crate::base::{Mode, BASE_BOOTSTRAP, BASE_ENABLE, BASE_RESET};
use crate::effects::{Accepted, Effects, Eoi, IgnoreReason};
use crate::interrupt::{DeliveryMode, Interrupt, Trigger};
use crate::register::*;
use crate::timer::Timer;
use crate::vectors::{Vectors, FIRST_LEGAL};
use crate::view::ApicView;

/// The local APIC of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalApic {
    pub(crate) vcpu: u32,
    bootstrap: bool,
    x2apic_offered: bool,
    pub(crate) wide_ids_in_page: bool,
    pub(crate) base: u64,
    pub(crate) id: u32,
    pub(crate) tpr: u8,
    pub(crate) ldr: u32,
    pub(crate) dfr: u32,
    pub(crate) svr: u32,
    pub(crate) isr: Vectors,
    pub(crate) tmr: Vectors,
    pub(crate) irr: Vectors,
    pub(crate) errors: Errors,
    pub(crate) icr: u64,
    pub(crate) lvt: [u32; LVT_COUNT],
    pub(crate) timer: Timer,
}

/// The error status register (SDM 11.5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    /// What reads show: the errors up to the last write.
    pub(crate) latched: u32,
    /// Errors since the last write.
    pending: u32,
    /// The error interrupt was raised since the last write, and is not raised again.
    raised: bool,
}

impl Errors {
    pub(crate) fn with_latched(latched: u32) -> Self {
        Self {
            latched,
            ..Self::default()
        }
    }
}

/// Interrupt sources of a processor that have an entry in the local vector table and no
/// state of their own here (SDM 11.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSource {
    /// Thermal sensor.
    Thermal,
    /// Performance counter overflow; masks its entry when delivered.
    PerformanceCounter,
    /// Pin LINT0, usually wired to the 8259.
    Lint0,
    /// Pin LINT1, usually wired to NMI.
    Lint1,
}

/// What a register write asks for, besides the change of state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) ipi: Option<Interrupt>,
    pub(crate) eoi: Option<Eoi>,
}

impl LocalApic {
    /// The APIC of `vcpu` after power-on; `bootstrap` marks the processor that starts first.
    /// x2APIC mode is not offered.
    pub fn new(vcpu: u32, bootstrap: bool) -> Self {
        let mut apic = Self {
            vcpu,
            bootstrap,
            x2apic_offered: false,
            wide_ids_in_page: false,
            base: 0,
            id: 0,
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            errors: Errors::default(),
            icr: 0,
            lvt: [0; LVT_COUNT],
            timer: Timer::default(),
        };
        apic.reset_power_on();
        apic
    }

    /// Whether the guest may enter x2APIC mode. To be set, if CPUID says so, before the
    /// guest runs.
    pub fn offer_x2apic(&mut self, offered: bool) {
        self.x2apic_offered = offered;
    }

    pub(crate) fn x2apic_offered(&self) -> bool {
        self.x2apic_offered
    }

    /// Puts back the power-on state (SDM 11.4.7.1). The view changes.
    pub fn reset_power_on(&mut self) {
        self.base = BASE_RESET | BASE_ENABLE;
        if self.bootstrap {
            self.base |= BASE_BOOTSTRAP;
        }
        self.reset_identifier();
        self.reset_registers();
    }

    /// INIT (SDM 11.4.7.3): as after power-on, but identifier and IA32_APIC_BASE stay.
    /// The view may change.
    pub fn reset_init(&mut self) {
        self.reset_registers();
    }

    pub(crate) fn reset_identifier(&mut self) {
        self.id = match self.mode() {
            Mode::X2Apic => self.vcpu,
            // Eight bits; a guest with more vCPUs than that needs x2APIC mode.
            Mode::XApic | Mode::Disabled => self.vcpu & 0xff,
        };
    }

    pub(crate) fn reset_registers(&mut self) {
        self.tpr = 0;
        self.ldr = match self.mode() {
            Mode::X2Apic => self.x2apic_ldr(),
            Mode::XApic | Mode::Disabled => 0,
        };
        self.dfr = u32::MAX;
        self.svr = SVR_RESET;
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.irr = Vectors::default();
        self.errors = Errors::default();
        self.icr = 0;
        self.lvt = [LVT_MASKED; LVT_COUNT];
        if self.bootstrap {
            // Not in the manuals, but what QEMU and KVM do and firmware relies on: the
            // bootstrap processor hears the 8259 before anybody programs its APIC.
            self.lvt[LVT_LINT0] = LVT_EXT_INT;
        }
        self.timer = Timer::default();
    }

    /// What the other nodes must know.
    pub fn view(&self) -> ApicView {
        ApicView {
            id: self.id,
            ldr: self.ldr,
            dfr: self.dfr,
            base: self.base,
            software_enabled: self.software_enabled(),
            x2apic: self.mode() == Mode::X2Apic,
        }
    }

    pub(crate) fn software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    /// Takes a message that was resolved to this vCPU (SDM 11.8, 11.4.7.2).
    pub fn accept(&mut self, interrupt: &Interrupt) -> Accepted {
        if self.mode() == Mode::Disabled {
            return Accepted::Ignored(IgnoreReason::HardwareDisabled);
        }
        match interrupt.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if interrupt.trigger == Trigger::Level && !interrupt.assert {
                    return Accepted::Ignored(IgnoreReason::LevelDeassert);
                }
                self.queue(interrupt.vector, interrupt.trigger)
            }
            DeliveryMode::Smi => Accepted::Smi,
            DeliveryMode::Nmi => Accepted::Nmi,
            DeliveryMode::Init if interrupt.trigger == Trigger::Level && !interrupt.assert => {
                Accepted::InitDeassert
            }
            DeliveryMode::Init => Accepted::Init,
            DeliveryMode::StartUp => Accepted::StartUp(interrupt.vector),
            DeliveryMode::ExtInt => Accepted::ExtInt,
        }
    }

    /// Raises one of the processor's own interrupt sources through its LVT entry.
    pub fn raise_local(&mut self, source: LocalSource) -> Accepted {
        if self.mode() == Mode::Disabled {
            return Accepted::Ignored(IgnoreReason::HardwareDisabled);
        }
        let index = match source {
            LocalSource::Thermal => LVT_THERMAL,
            LocalSource::PerformanceCounter => LVT_PERFORMANCE,
            LocalSource::Lint0 => LVT_LINT0,
            LocalSource::Lint1 => LVT_LINT1,
        };
        let accepted = self.deliver_lvt(index);
        if source == LocalSource::PerformanceCounter {
            self.lvt[index] |= LVT_MASKED;
        }
        accepted
    }

    /// Delivers an LVT entry (SDM 11.5.1). LINT pins are messages here: they have no level
    /// that could stay asserted, so remote IRR is never set.
    pub(crate) fn deliver_lvt(&mut self, index: usize) -> Accepted {
        let entry = self.lvt[index];
        if entry & LVT_MASKED != 0 {
            return Accepted::Ignored(IgnoreReason::Masked);
        }
        let (vector, trigger) = (entry as u8, Trigger::from_bit(entry & LVT_LEVEL != 0));
        match DeliveryMode::from_bits(((entry & LVT_MODE_MASK) >> LVT_MODE_SHIFT) as u8) {
            Some(DeliveryMode::Fixed) => self.queue(vector, trigger),
            Some(DeliveryMode::Smi) => Accepted::Smi,
            Some(DeliveryMode::Nmi) => Accepted::Nmi,
            Some(DeliveryMode::Init) => Accepted::Init,
            Some(DeliveryMode::ExtInt) => Accepted::ExtInt,
            Some(DeliveryMode::LowestPriority | DeliveryMode::StartUp) | None => {
                Accepted::Ignored(IgnoreReason::ReservedMode)
            }
        }
    }

    /// Sets IRR and TMR (SDM 11.8.4).
    fn queue(&mut self, vector: u8, trigger: Trigger) -> Accepted {
        if !self.software_enabled() {
            return Accepted::Ignored(IgnoreReason::SoftwareDisabled);
        }
        if vector < FIRST_LEGAL {
            self.raise_error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return Accepted::Ignored(IgnoreReason::IllegalVector);
        }
        self.tmr.put(vector, trigger == Trigger::Level);
        if self.irr.contains(vector) {
            return Accepted::AlreadyPending;
        }
        self.irr.insert(vector);
        Accepted::Queued
    }

    /// Notes errors and raises the error interrupt, once until the ESR is written
    /// (SDM 11.5.3). Marked as raised first: its own vector may be illegal.
    pub(crate) fn raise_error(&mut self, bits: u32) {
        self.errors.pending |= bits;
        if !self.errors.raised && self.lvt[LVT_ERROR] & LVT_MASKED == 0 {
            self.errors.raised = true;
            self.deliver_lvt(LVT_ERROR);
        }
    }

    /// A write to the ESR, of whatever value.
    pub(crate) fn latch_errors(&mut self) {
        self.errors = Errors::with_latched(self.errors.pending);
    }

    /// Hardware-disabled, or LINT0 is unmasked in ExtINT mode: the 8259 is heard here.
    pub fn accepts_ext_int(&self) -> bool {
        self.mode() == Mode::Disabled
            || self.lvt[LVT_LINT0] & (LVT_MASKED | LVT_MODE_MASK) == LVT_EXT_INT
    }

    /// LINT1 is unmasked in NMI mode: the machine's NMI line is heard here.
    pub fn lint1_nmi(&self) -> bool {
        self.mode() != Mode::Disabled
            && self.lvt[LVT_LINT1] & (LVT_MASKED | LVT_MODE_MASK) == LVT_NMI
    }

    pub(crate) fn periodic(&self) -> bool {
        self.lvt[LVT_TIMER] & LVT_PERIODIC != 0
    }

    /// Absolute time (ns) of the next expiry of the timer; `None` if it is stopped. A masked
    /// timer counts, too.
    pub fn timer_deadline(&self) -> Option<u64> {
        self.timer.deadline()
    }

    /// Handles the timer's expiries up to `now`; `true` if an interrupt was queued. However
    /// many periods have passed, it is one interrupt.
    pub fn timer_poll(&mut self, now: u64) -> bool {
        let periodic = self.periodic();
        self.timer.expire(now, periodic) && self.deliver_lvt(LVT_TIMER) == Accepted::Queued
    }

    /// Makes a change and reports what it changed.
    pub(crate) fn observe<T: Into<Outcome>>(
        &mut self,
        change: impl FnOnce(&mut Self) -> T,
    ) -> Effects {
        let (view, deadline) = (self.view(), self.timer_deadline());
        let Outcome { ipi, eoi } = change(self).into();
        Effects {
            ipi,
            eoi,
            timer_changed: deadline != self.timer_deadline(),
            view_changed: view != self.view(),
            self_pending: self.next_interrupt().is_some(),
        }
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::default()
    }
}
