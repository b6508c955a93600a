//! Register offsets and fields (SDM table 11-1).

pub(crate) const ID: u32 = 0x020;
pub(crate) const VERSION: u32 = 0x030;
pub(crate) const TPR: u32 = 0x080;
pub(crate) const APR: u32 = 0x090;
pub(crate) const PPR: u32 = 0x0a0;
pub(crate) const EOI: u32 = 0x0b0;
pub(crate) const RRD: u32 = 0x0c0;
pub(crate) const LDR: u32 = 0x0d0;
pub(crate) const DFR: u32 = 0x0e0;
pub(crate) const SVR: u32 = 0x0f0;
pub(crate) const ISR: u32 = 0x100;
pub(crate) const ISR_LAST: u32 = ISR + 0x70;
pub(crate) const TMR: u32 = 0x180;
pub(crate) const TMR_LAST: u32 = TMR + 0x70;
pub(crate) const IRR: u32 = 0x200;
pub(crate) const IRR_LAST: u32 = IRR + 0x70;
pub(crate) const ESR: u32 = 0x280;
pub(crate) const ICR_LOW: u32 = 0x300;
pub(crate) const ICR_HIGH: u32 = 0x310;
pub(crate) const LVT: u32 = 0x320;
pub(crate) const LVT_LAST: u32 = 0x370;
pub(crate) const TMICT: u32 = 0x380;
pub(crate) const TMCCT: u32 = 0x390;
pub(crate) const TDCR: u32 = 0x3e0;
/// x2APIC mode only.
pub(crate) const SELF_IPI: u32 = 0x3f0;

/// Version 0x14 (integrated APIC), highest LVT entry 5, no EOI-broadcast suppression.
pub(crate) const VERSION_VALUE: u32 = 0x0005_0014;

/// Bit 12, EOI-broadcast suppression, is not offered.
pub(crate) const SVR_WRITABLE: u32 = 0x3ff;
pub(crate) const SVR_ENABLE: u32 = 1 << 8;
pub(crate) const SVR_RESET: u32 = 0xff;

pub(crate) const LDR_WRITABLE: u32 = 0xff00_0000;
pub(crate) const DFR_ONES: u32 = 0x0fff_ffff;
pub(crate) const TDCR_WRITABLE: u32 = 0b1011;

/// ESR bits (SDM 11.5.3).
pub(crate) const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
pub(crate) const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
pub(crate) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// ICR fields (SDM 11.6.1).
pub(crate) const ICR_LOGICAL: u64 = 1 << 11;
pub(crate) const ICR_DELIVERY_STATUS: u64 = 1 << 12;
pub(crate) const ICR_ASSERT: u64 = 1 << 14;
pub(crate) const ICR_LEVEL: u64 = 1 << 15;
pub(crate) const ICR_LOW_WRITABLE: u32 = 0x000c_cfff;
pub(crate) const ICR_HIGH_WRITABLE: u32 = 0xff00_0000;

/// Indices of the LVT entries (SDM 11.5.1).
pub(crate) const LVT_COUNT: usize = 6;
pub(crate) const LVT_TIMER: usize = 0;
pub(crate) const LVT_THERMAL: usize = 1;
pub(crate) const LVT_PERFORMANCE: usize = 2;
pub(crate) const LVT_LINT0: usize = 3;
pub(crate) const LVT_LINT1: usize = 4;
pub(crate) const LVT_ERROR: usize = 5;

pub(crate) const LVT_MASKED: u32 = 1 << 16;
pub(crate) const LVT_LEVEL: u32 = 1 << 15;
/// Remote IRR (LINT only) and delivery status: read-only, and always 0 here.
pub(crate) const LVT_READ_ONLY: u32 = 1 << 14 | 1 << 12;
pub(crate) const LVT_MODE_SHIFT: u32 = 8;
pub(crate) const LVT_MODE_MASK: u32 = 0x700;
pub(crate) const LVT_EXT_INT: u32 = 0x700;
pub(crate) const LVT_NMI: u32 = 0x400;
pub(crate) const LVT_PERIODIC: u32 = 1 << 17;

/// Writable bits of each LVT entry. Bit 18 of the timer's (TSC-deadline mode) is reserved,
/// because CPUID does not offer that mode.
pub(crate) const LVT_WRITABLE: [u32; LVT_COUNT] = [
    0x0003_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
];

/// Index of the LVT entry at a register offset in `LVT..=LVT_LAST`.
pub(crate) const fn lvt_index(offset: u32) -> usize {
    (offset - LVT) as usize >> 4
}
