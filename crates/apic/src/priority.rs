//! Priorities, acknowledgement and end of interrupt (SDM 11.8.3 to 11.8.6).

use crate::base::Mode;
use crate::effects::Eoi;
use crate::local::LocalApic;

/// Priority class: the upper half of a vector or of a priority register.
const CLASS: u8 = 0xf0;

impl LocalApic {
    /// The task priority register.
    pub fn task_priority(&self) -> u8 {
        self.tpr
    }

    /// CR8: the class of the task priority.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// A write to CR8 (SDM 11.8.6); bits above the fourth are dropped.
    pub fn set_cr8(&mut self, cr8: u8) {
        self.tpr = cr8 << 4;
    }

    /// The processor priority register: the task priority, or the class of the interrupt in
    /// service if that is higher (SDM 11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & CLASS;
        if self.tpr & CLASS >= in_service {
            self.tpr
        } else {
            in_service
        }
    }

    /// The arbitration priority register of processors that still had one.
    pub(crate) fn arbitration_priority(&self) -> u8 {
        let task = self.tpr & CLASS;
        let in_service = self.isr.highest().unwrap_or(0) & CLASS;
        let requested = self.irr.highest().unwrap_or(0) & CLASS;
        if task >= requested && task > in_service {
            self.tpr
        } else {
            task.max(in_service).max(requested)
        }
    }

    /// The vector to deliver now: the highest requested one, if its class is above the
    /// processor priority and the APIC is enabled.
    pub fn next_interrupt(&self) -> Option<u8> {
        if self.mode() == Mode::Disabled || !self.software_enabled() {
            return None;
        }
        self.irr
            .highest()
            .filter(|vector| vector & CLASS > self.processor_priority() & CLASS)
    }

    /// Takes [`LocalApic::next_interrupt`] into service: from IRR to ISR.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.next_interrupt()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        Some(vector)
    }

    /// Undoes [`LocalApic::acknowledge`] of `vector` when it could not be injected; without
    /// effect if it is not in service.
    pub fn unacknowledge(&mut self, vector: u8) {
        if self.isr.contains(vector) {
            self.isr.remove(vector);
            self.irr.insert(vector);
        }
    }

    /// A write to the EOI register: the highest vector in service is done (SDM 11.8.5).
    pub(crate) fn end_of_interrupt(&mut self) -> Option<Eoi> {
        let vector = self.isr.highest()?;
        self.isr.remove(vector);
        Some(Eoi {
            vector,
            level: self.tmr.contains(vector),
        })
    }
}
