//! The registers as memory, and the interrupt command register (SDM 11.4.1, 11.6.1).

use crate::base::Mode;
use crate::effects::Effects;
use crate::interrupt::{DeliveryMode, Destination, Interrupt, Trigger};
use crate::local::{LocalApic, Outcome};
use crate::register::*;
use crate::vectors::FIRST_LEGAL;

impl LocalApic {
    /// Reads the register at `offset` in the page. Bits outside `0xff0` do not count: every
    /// register is 32 bits on a 16-byte border, and other accesses are undefined (SDM 11.4.1).
    ///
    /// A reserved register reads as 0 and sets the ESR's illegal register bit, which may
    /// queue the error interrupt. While [`LocalApic::window`] is `None` all bits are ones.
    pub fn read(&mut self, offset: u32, now: u64) -> u32 {
        if self.mode() != Mode::XApic {
            return u32::MAX;
        }
        let offset = offset & 0xff0;
        if offset == EOI {
            return 0;
        }
        self.register(offset, now).unwrap_or_else(|| {
            self.raise_error(ESR_ILLEGAL_REGISTER);
            0
        })
    }

    /// Writes the register at `offset` (as in [`LocalApic::read`]). Read-only registers and
    /// reserved bits keep their value; a reserved register sets the ESR's illegal register
    /// bit. Timer expiries up to `now` come first. Without effect while
    /// [`LocalApic::window`] is `None`.
    pub fn write(&mut self, offset: u32, value: u32, now: u64) -> Effects {
        if self.mode() != Mode::XApic {
            return Effects::default();
        }
        self.observe(|apic| {
            apic.timer_poll(now);
            apic.write_register(offset & 0xff0, value, now)
        })
    }

    /// The value of a readable register; `None` for those that do not exist.
    pub(crate) fn register(&self, offset: u32, now: u64) -> Option<u32> {
        Some(match offset {
            ID if self.mode() == Mode::X2Apic => self.id,
            ID => self.id << 24,
            VERSION => VERSION_VALUE,
            TPR => u32::from(self.tpr),
            APR => u32::from(self.arbitration_priority()),
            PPR => u32::from(self.processor_priority()),
            // Remote reads exist on no processor since the Pentium 4.
            RRD => 0,
            LDR => self.ldr,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..=ISR_LAST => self.isr.register(offset - ISR),
            TMR..=TMR_LAST => self.tmr.register(offset - TMR),
            IRR..=IRR_LAST => self.irr.register(offset - IRR),
            ESR => self.errors.latched,
            ICR_LOW => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            LVT..=LVT_LAST => self.lvt[lvt_index(offset)],
            TMICT => self.timer.initial(),
            TMCCT => self.timer.current(now, self.periodic()),
            TDCR => self.timer.divide(),
            _ => return None,
        })
    }

    fn write_register(&mut self, offset: u32, value: u32, now: u64) -> Outcome {
        match offset {
            // Writable as in KVM: the manual lets software change it where the model does.
            ID => self.id = value >> 24,
            LDR => self.ldr = value & LDR_WRITABLE,
            DFR => self.dfr = value | DFR_ONES,
            ICR_LOW => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & ICR_LOW_WRITABLE);
                let id = (self.icr >> 56) as u8;
                let destination = Destination::from_xapic(id, self.icr & ICR_LOGICAL != 0);
                return Outcome {
                    ipi: self.send(destination),
                    ..Outcome::default()
                };
            }
            ICR_HIGH => {
                self.icr = self.icr & 0xffff_ffff | u64::from(value & ICR_HIGH_WRITABLE) << 32;
            }
            VERSION | APR | PPR | RRD | TMCCT => {}
            ISR..=ISR_LAST | TMR..=TMR_LAST | IRR..=IRR_LAST => {}
            _ => match self.write_common(offset, value, now) {
                Some(outcome) => return outcome,
                None => self.raise_error(ESR_ILLEGAL_REGISTER),
            },
        }
        Outcome::default()
    }

    /// Writes a register that xAPIC and x2APIC mode share; `None` if `offset` is none.
    pub(crate) fn write_common(&mut self, offset: u32, value: u32, now: u64) -> Option<Outcome> {
        match offset {
            TPR => self.tpr = value as u8,
            EOI => {
                return Some(Outcome {
                    eoi: self.end_of_interrupt(),
                    ..Outcome::default()
                })
            }
            SVR => self.write_svr(value & SVR_WRITABLE),
            ESR => self.latch_errors(),
            LVT..=LVT_LAST => self.write_lvt(lvt_index(offset), value, now),
            TMICT => self.timer.start(value, now),
            TDCR => self.timer.set_divide(value & TDCR_WRITABLE, now),
            _ => return None,
        }
        Some(Outcome::default())
    }

    /// SDM 11.9; disabling masks the LVT (11.4.7.2).
    fn write_svr(&mut self, value: u32) {
        self.svr = value;
        if !self.software_enabled() {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32, now: u64) {
        let was_periodic = self.periodic();
        let mut value = value & LVT_WRITABLE[index];
        if !self.software_enabled() {
            value |= LVT_MASKED;
        }
        self.lvt[index] = value;
        if index == LVT_TIMER && was_periodic && !self.periodic() {
            self.timer.leave_periodic(now);
        }
    }

    /// The message that the ICR asks for, if it is one that can be sent. Delivery is
    /// immediate, so the delivery status always reads 0.
    pub(crate) fn send(&mut self, destination: Destination) -> Option<Interrupt> {
        let icr = self.icr;
        let mode = match DeliveryMode::from_bits((icr >> 8) as u8 & 7)? {
            // Reserved for IPIs (SDM figure 11-12), as is encoding 3.
            DeliveryMode::ExtInt => return None,
            // INIT level de-assert does nothing since the Pentium 4.
            DeliveryMode::Init if icr & ICR_LEVEL != 0 && icr & ICR_ASSERT == 0 => return None,
            mode => mode,
        };
        let destination = match icr >> 18 & 3 {
            0 => destination,
            1 => Destination::SelfOnly,
            2 => Destination::AllIncludingSelf,
            _ => Destination::AllExcludingSelf,
        };
        self.message(destination, mode, icr as u8)
    }

    /// An IPI, or the error of sending an illegal vector. IPIs are edges whatever the ICR's
    /// trigger mode says (SDM 11.6.1).
    pub(crate) fn message(
        &mut self,
        destination: Destination,
        mode: DeliveryMode,
        vector: u8,
    ) -> Option<Interrupt> {
        let needs_vector = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if needs_vector && vector < FIRST_LEGAL {
            self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
            return None;
        }
        Some(Interrupt {
            destination,
            mode,
            vector,
            trigger: Trigger::Edge,
            assert: true,
        })
    }
}
