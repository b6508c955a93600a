//! What an APIC tells its owner after a change.

use crate::interrupt::Interrupt;

/// What the owner of a [`crate::LocalApic`] must do after a register write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// An inter-processor interrupt to route (with this vCPU as its source).
    pub ipi: Option<Interrupt>,
    /// An end of interrupt that the guest signalled.
    pub eoi: Option<Eoi>,
    /// [`crate::LocalApic::timer_deadline`] is not what it was.
    pub timer_changed: bool,
    /// [`crate::LocalApic::view`] is not what it was: tell the other nodes.
    pub view_changed: bool,
    /// An interrupt may now be deliverable: look at [`crate::LocalApic::next_interrupt`].
    pub self_pending: bool,
}

/// The end of service of one interrupt (SDM 11.8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eoi {
    /// Vector that left the in-service register.
    pub vector: u8,
    /// It was level-triggered (TMR): the I/O APIC must hear of it.
    pub level: bool,
}

/// What became of an interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Now in the IRR.
    Queued,
    /// Was in the IRR already; the two merge.
    AlreadyPending,
    /// Dropped.
    Ignored(IgnoreReason),
    /// Inject an NMI.
    Nmi,
    /// Enter system management mode.
    Smi,
    /// INIT: the owner resets the vCPU and calls [`crate::LocalApic::reset_init`].
    Init,
    /// INIT level de-assert: nothing to do on any processor since the Pentium 4.
    InitDeassert,
    /// Start-up message with its page number (`CS:IP = vector << 8 : 0`); counts only
    /// while the vCPU waits for it.
    StartUp(u8),
    /// Take the vector from the external interrupt controller (8259).
    ExtInt,
}

/// Why an interrupt message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IgnoreReason {
    /// IA32_APIC_BASE.EN is clear (SDM 11.4.3).
    HardwareDisabled,
    /// The enable bit of the spurious vector register is clear (SDM 11.4.7.2).
    SoftwareDisabled,
    /// Vector below 16; noted in the ESR (SDM 11.5.2).
    IllegalVector,
    /// Level-triggered message that de-asserts.
    LevelDeassert,
    /// The local vector table entry is masked.
    Masked,
    /// The local vector table entry has a delivery mode that does not exist.
    ReservedMode,
}
