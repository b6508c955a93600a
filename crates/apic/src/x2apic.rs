//! x2APIC mode: the registers as MSRs (SDM 11.12).

use crate::base::Mode;
use crate::base::IA32_APIC_BASE;
use crate::effects::Effects;
use crate::interrupt::{DeliveryMode, Destination};
use crate::local::{LocalApic, Outcome};
use crate::register::*;

const FIRST_MSR: u32 = 0x800;
const LAST_MSR: u32 = 0x8ff;

/// Bits of the ICR that a write may have set. The delivery status bit is gone in this mode;
/// a one there is dropped, as processors and KVM do.
const ICR_ALLOWED: u64 = 0xffff_ffff_0000_0000 | ICR_LOW_WRITABLE as u64 | ICR_DELIVERY_STATUS;

/// Register offset of an MSR; the MSRs are the registers, 16 bytes apart.
fn offset_of(msr: u32) -> Option<u32> {
    (FIRST_MSR..=LAST_MSR)
        .contains(&msr)
        .then(|| (msr - FIRST_MSR) << 4)
}

/// Bits that a write to the register may have set; `None` if it cannot be written.
fn allowed_bits(offset: u32) -> Option<u64> {
    Some(match offset {
        TPR | SELF_IPI => 0xff,
        EOI | ESR => 0,
        SVR => u64::from(SVR_WRITABLE),
        ICR_LOW => ICR_ALLOWED,
        LVT..=LVT_LAST => {
            let index = lvt_index(offset);
            let lint = matches!(index, LVT_LINT0 | LVT_LINT1);
            let read_only = if lint { LVT_READ_ONLY } else { 1 << 12 };
            u64::from(LVT_WRITABLE[index] | read_only)
        }
        TMICT => 0xffff_ffff,
        TDCR => u64::from(TDCR_WRITABLE),
        _ => return None,
    })
}

impl LocalApic {
    /// RDMSR of an x2APIC register or of IA32_APIC_BASE; `None` is #GP(0).
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Option<u64> {
        if msr == IA32_APIC_BASE {
            return Some(self.base());
        }
        if self.mode() != Mode::X2Apic {
            return None;
        }
        match offset_of(msr)? {
            APR | RRD | DFR | ICR_HIGH => None,
            ICR_LOW => Some(self.icr),
            offset => self.register(offset, now).map(u64::from),
        }
    }

    /// WRMSR of an x2APIC register or of IA32_APIC_BASE; `None` is #GP(0) and changes
    /// nothing. Timer expiries up to `now` come first.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Option<Effects> {
        if msr == IA32_APIC_BASE {
            return self.guest_may_set_base(value).then(|| self.set_base(value));
        }
        if self.mode() != Mode::X2Apic {
            return None;
        }
        let offset = offset_of(msr)?;
        if value & !allowed_bits(offset)? != 0 {
            return None;
        }
        Some(self.observe(|apic| {
            apic.timer_poll(now);
            apic.write_x2apic(offset, value, now)
        }))
    }

    fn write_x2apic(&mut self, offset: u32, value: u64, now: u64) -> Outcome {
        let ipi = match offset {
            ICR_LOW => {
                self.icr = value & !ICR_DELIVERY_STATUS;
                let id = (value >> 32) as u32;
                self.send(if value & ICR_LOGICAL != 0 {
                    Destination::Logical(id)
                } else {
                    Destination::Physical(id)
                })
            }
            SELF_IPI => self.message(Destination::SelfOnly, DeliveryMode::Fixed, value as u8),
            _ => {
                return self
                    .write_common(offset, value as u32, now)
                    .unwrap_or_default()
            }
        };
        Outcome {
            ipi,
            ..Outcome::default()
        }
    }

    /// SDM 11.12.5.1: everything stays, except the identifiers and the ICR's upper half.
    pub(crate) fn enter_x2apic(&mut self) {
        self.reset_identifier();
        self.ldr = self.x2apic_ldr();
        self.icr &= 0xffff_ffff;
    }

    /// The logical identifier follows from the identifier (SDM 11.12.10.2).
    pub(crate) fn x2apic_ldr(&self) -> u32 {
        (self.vcpu >> 4) << 16 | 1 << (self.vcpu & 0xf)
    }
}
