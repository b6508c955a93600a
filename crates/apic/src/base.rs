//! IA32_APIC_BASE: whether the APIC exists, in which mode, and where (SDM 11.4.3, 11.4.4, 11.12.1).

use crate::effects::Effects;
use crate::local::LocalApic;

/// Number of the MSR.
pub const IA32_APIC_BASE: u32 = 0x1b;

pub(crate) const BASE_BOOTSTRAP: u64 = 1 << 8;
pub(crate) const BASE_EXTENDED: u64 = 1 << 10;
pub(crate) const BASE_ENABLE: u64 = 1 << 11;
/// Page address, up to the architecture's limit of 52 bits.
pub(crate) const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The page at power-on.
pub(crate) const BASE_RESET: u64 = 0xfee0_0000;

const BASE_DEFINED: u64 = BASE_ADDRESS | BASE_ENABLE | BASE_EXTENDED | BASE_BOOTSTRAP;

/// State of IA32_APIC_BASE's two enable bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// There is no APIC; the vCPU takes interrupts from the 8259 alone.
    Disabled,
    /// Registers are memory.
    XApic,
    /// Registers are MSRs.
    X2Apic,
}

impl Mode {
    pub(crate) const fn of_base(base: u64) -> Self {
        match (base & BASE_ENABLE != 0, base & BASE_EXTENDED != 0) {
            (false, _) => Self::Disabled,
            (true, false) => Self::XApic,
            (true, true) => Self::X2Apic,
        }
    }
}

impl LocalApic {
    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The mode that IA32_APIC_BASE selects.
    pub fn mode(&self) -> Mode {
        Mode::of_base(self.base)
    }

    /// Guest-physical address of the register page while the registers are memory; `None`
    /// while accesses there are not for the APIC.
    pub fn window(&self) -> Option<u64> {
        (self.mode() == Mode::XApic).then_some(self.base & BASE_ADDRESS)
    }

    /// Sets IA32_APIC_BASE from outside (SET_SREGS, or after KVM has checked the guest's
    /// write). Undefined bits are dropped, and so is x2APIC mode where it is not offered or
    /// the APIC is off; every transition is allowed, as the host may put back any state.
    /// The guest's own WRMSR goes through [`LocalApic::write_msr`], which refuses more.
    pub fn set_base(&mut self, value: u64) -> Effects {
        let mut value = value & BASE_DEFINED;
        if !self.x2apic_offered() || value & BASE_ENABLE == 0 {
            value &= !BASE_EXTENDED;
        }
        self.observe(|apic| apic.switch_base(value))
    }

    /// Whether the guest may write `value`: no reserved bits, and only the transitions of
    /// SDM figure 11-23 (x2APIC is entered from xAPIC, and left by disabling).
    pub(crate) fn guest_may_set_base(&self, value: u64) -> bool {
        let extended = value & BASE_EXTENDED != 0;
        value & !BASE_DEFINED == 0
            && (!extended || (self.x2apic_offered() && value & BASE_ENABLE != 0))
            && !matches!(
                (self.mode(), Mode::of_base(value)),
                (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic)
            )
    }

    fn switch_base(&mut self, value: u64) {
        let before = self.mode();
        self.base = value;
        match (before, self.mode()) {
            (Mode::Disabled, Mode::Disabled)
            | (Mode::XApic, Mode::XApic)
            | (Mode::X2Apic, Mode::X2Apic) => {}
            // SDM 11.4.3 and 11.12.5.1: an APIC comes back as after power-on. It is reset on
            // the way out, so that nothing of it (timer, pending interrupts) stays alive.
            (_, Mode::Disabled) | (_, Mode::XApic) => {
                self.reset_registers();
                self.reset_identifier();
            }
            (_, Mode::X2Apic) => self.enter_x2apic(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XAPIC: u64 = BASE_RESET | BASE_ENABLE;
    const X2APIC: u64 = XAPIC | BASE_EXTENDED;

    fn offered() -> LocalApic {
        let mut apic = LocalApic::new(3, false);
        apic.offer_x2apic(true);
        apic
    }

    #[test]
    fn power_on_value_sdm_11_4_4() {
        assert_eq!(LocalApic::new(0, true).base(), 0xfee0_0900);
        assert_eq!(LocalApic::new(1, false).base(), 0xfee0_0800);
        assert_eq!(LocalApic::new(1, false).window(), Some(0xfee0_0000));
    }

    #[test]
    fn disabling_resets_and_silences_sdm_11_4_3() {
        let mut apic = LocalApic::new(3, false);
        apic.write(0xf0, 0x1ff, 0);
        apic.write(0x380, 1000, 0);
        let effects = apic.set_base(BASE_RESET);
        assert!(effects.timer_changed && effects.view_changed);
        assert_eq!(apic.mode(), Mode::Disabled);
        assert_eq!(apic.timer_deadline(), None);
        assert_eq!(apic.window(), None);
        assert_eq!(apic.read(0xf0, 0), u32::MAX, "nobody answers");
        assert_eq!(apic.write(0xf0, 0x1ff, 0), Effects::default());
        assert!(apic.accepts_ext_int());
        apic.set_base(XAPIC);
        assert_eq!(apic.read(0xf0, 0), 0xff);
        assert_eq!(apic.read(0x20, 0), 3 << 24);
    }

    #[test]
    fn moving_the_page_keeps_the_state() {
        let mut apic = LocalApic::new(3, false);
        apic.write(0x80, 0x20, 0);
        apic.set_base(0xe000_0000 | BASE_ENABLE);
        assert_eq!(apic.window(), Some(0xe000_0000));
        assert_eq!(apic.task_priority(), 0x20);
    }

    #[test]
    fn transitions_of_the_guest_sdm_11_12_5() {
        let mut apic = offered();
        assert!(apic
            .write_msr(IA32_APIC_BASE, BASE_RESET | BASE_EXTENDED, 0)
            .is_none());
        assert!(
            apic.write_msr(IA32_APIC_BASE, XAPIC | 1, 0).is_none(),
            "reserved"
        );
        assert!(apic.write_msr(IA32_APIC_BASE, X2APIC, 0).is_some());
        assert!(apic.write_msr(IA32_APIC_BASE, XAPIC, 0).is_none());
        assert!(apic.write_msr(IA32_APIC_BASE, BASE_RESET, 0).is_some());
        assert!(apic.write_msr(IA32_APIC_BASE, X2APIC, 0).is_none());
        assert!(apic.write_msr(IA32_APIC_BASE, XAPIC, 0).is_some());
        assert_eq!(apic.read_msr(IA32_APIC_BASE, 0), Some(XAPIC));
    }

    #[test]
    fn x2apic_only_where_offered() {
        let mut apic = LocalApic::new(3, false);
        assert!(apic.write_msr(IA32_APIC_BASE, X2APIC, 0).is_none());
        apic.set_base(X2APIC);
        assert_eq!(apic.mode(), Mode::XApic);
    }
}
