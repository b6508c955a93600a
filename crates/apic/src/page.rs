//! The register page of KVM_GET_LAPIC and KVM_SET_LAPIC.

use crate::base::Mode;
use crate::effects::Effects;
use crate::local::{Errors, LocalApic};
use crate::register::*;
use crate::vectors::Vectors;

/// Length of the page in bytes; registers are little-endian at their MMIO offsets.
pub const PAGE_LEN: usize = 1024;

impl LocalApic {
    /// In x2APIC mode, how the page shows the 32-bit identifier: whole
    /// (KVM_X2APIC_API_USE_32BIT_IDS), or its low byte where xAPIC mode has it (KVM's default).
    pub fn set_wide_ids_in_page(&mut self, wide: bool) {
        self.wide_ids_in_page = wide;
    }

    /// The registers as KVM_GET_LAPIC gives them. IA32_APIC_BASE is not among them, nor are
    /// errors that the guest has not latched yet. An expiry that was not polled is lost for a
    /// periodic timer: call [`LocalApic::timer_poll`] first.
    pub fn save(&self, now: u64) -> [u8; PAGE_LEN] {
        let mut page = [0; PAGE_LEN];
        // One range of registers, in which those without a value are skipped.
        for offset in (ID..=TDCR).step_by(16) {
            let value = match self.register(offset, now) {
                Some(id)
                    if offset == ID && self.mode() == Mode::X2Apic && !self.wide_ids_in_page =>
                {
                    id << 24
                }
                Some(value) => value,
                None => continue,
            };
            put(&mut page, offset, value);
        }
        page
    }

    /// Takes the registers as KVM_SET_LAPIC gives them, with IA32_APIC_BASE as it is (set it
    /// first). Read-only and reserved bits are dropped, so any page is safe to load. What is
    /// masked stays as the page says even if the APIC is software-disabled: QEMU's reset
    /// state has the bootstrap processor's LINT0 open.
    ///
    /// A running timer goes on from its current count. With an initial and no current count, a
    /// one-shot timer expires at once, and a periodic one begins a period, both as in KVM.
    pub fn load(&mut self, regs: &[u8; PAGE_LEN], now: u64) -> Effects {
        self.observe(|apic| apic.load_registers(regs, now))
    }

    fn load_registers(&mut self, page: &[u8; PAGE_LEN], now: u64) {
        let icr_low = u64::from(get(page, ICR_LOW) & ICR_LOW_WRITABLE);
        let icr_high = u64::from(get(page, ICR_HIGH));
        if self.mode() == Mode::X2Apic {
            self.reset_identifier();
            self.ldr = self.x2apic_ldr();
            self.icr = icr_high << 32 | icr_low;
        } else {
            self.id = get(page, ID) >> 24;
            self.ldr = get(page, LDR) & LDR_WRITABLE;
            self.icr = (icr_high & u64::from(ICR_HIGH_WRITABLE)) << 32 | icr_low;
        }
        self.dfr = get(page, DFR) | DFR_ONES;
        self.tpr = get(page, TPR) as u8;
        self.svr = get(page, SVR) & SVR_WRITABLE;
        self.isr = get_vectors(page, ISR);
        self.tmr = get_vectors(page, TMR);
        self.irr = get_vectors(page, IRR);
        self.errors = Errors::with_latched(get(page, ESR) & 0xff);
        for ((offset, entry), writable) in (LVT..).step_by(16).zip(&mut self.lvt).zip(LVT_WRITABLE)
        {
            *entry = get(page, offset) & writable;
        }
        let initial = match self.mode() {
            Mode::Disabled => 0,
            Mode::XApic | Mode::X2Apic => get(page, TMICT),
        };
        let periodic = self.periodic();
        let divide = get(page, TDCR) & TDCR_WRITABLE;
        self.timer
            .restore(initial, get(page, TMCCT), divide, periodic, now);
    }
}

fn get(page: &[u8; PAGE_LEN], offset: u32) -> u32 {
    let at = offset as usize;
    page.get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn put(page: &mut [u8; PAGE_LEN], offset: u32, value: u32) {
    let at = offset as usize;
    if let Some(bytes) = page.get_mut(at..at + 4) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

fn get_vectors(page: &[u8; PAGE_LEN], offset: u32) -> Vectors {
    let mut words = [0; 8];
    for (at, word) in (offset..).step_by(16).zip(&mut words) {
        *word = get(page, at);
    }
    Vectors::from_registers(words)
}
