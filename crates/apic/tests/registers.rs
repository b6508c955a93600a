//! The registers as the guest's memory accesses see them (SDM chapter 11, xAPIC mode).

use lev_apic::{
    Accepted, DeliveryMode, Destination, Effects, Interrupt, LocalApic, Trigger, BROADCAST,
};

const ENABLE: u32 = 0x1ff;
const MASKED: u32 = 1 << 16;

/// An application processor's APIC, software-enabled.
fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(2, false);
    apic.write(0xf0, ENABLE, 0);
    apic
}

/// The error status: writes, then reads.
fn errors(apic: &mut LocalApic) -> u32 {
    apic.write(0x280, 0, 0);
    apic.read(0x280, 0)
}

#[test]
fn state_after_power_on_sdm_11_4_7_1() {
    let mut apic = LocalApic::new(2, false);
    for (offset, value) in [
        (0x20, 2 << 24),
        (0x30, 0x0005_0014),
        (0x80, 0),
        (0xa0, 0),
        (0xc0, 0),
        (0xd0, 0),
        (0xe0, u32::MAX),
        (0xf0, 0xff),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, MASKED),
        (0x330, MASKED),
        (0x340, MASKED),
        (0x350, MASKED),
        (0x360, MASKED),
        (0x370, MASKED),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ] {
        assert_eq!(apic.read(offset, 0), value, "register {offset:#x}");
    }
    for offset in (0x100..0x280).step_by(16) {
        assert_eq!(apic.read(offset, 0), 0, "register {offset:#x}");
    }
    assert_eq!(LocalApic::new(0, true).read(0x350, 0), 0x700, "8259 heard");
}

#[test]
fn init_keeps_identifier_and_base_sdm_11_4_7_3() {
    let mut apic = enabled();
    apic.set_base(0xe000_0800);
    apic.write(0x20, 9 << 24, 0);
    apic.write(0xd0, 4 << 24, 0);
    apic.write(0x380, 1000, 0);
    apic.accept(&Interrupt::fixed(Destination::Physical(9), 0x50));
    apic.reset_init();
    assert_eq!(apic.view().id, 9);
    assert_eq!(apic.base(), 0xe000_0800);
    assert_eq!(apic.view().ldr, 0);
    assert_eq!(apic.timer_deadline(), None);
    assert_eq!(apic.read(0x220, 0), 0);
    assert_eq!(apic.read(0xf0, 0), 0xff);
    apic.reset_power_on();
    assert_eq!(apic, LocalApic::new(2, false));
}

#[test]
fn read_only_registers_and_bits_keep_their_value() {
    let mut apic = enabled();
    for offset in [0x30, 0x90, 0xa0, 0xc0, 0x100, 0x190, 0x270, 0x390] {
        let before = apic.read(offset, 0);
        apic.write(offset, !before, 0);
        assert_eq!(apic.read(offset, 0), before, "register {offset:#x}");
    }
    for (offset, value) in [
        (0x80, 0xff),
        (0xd0, 0xff00_0000),
        (0xf0, 0x3ff),
        (0x310, 0xff00_0000),
        (0x320, 0x0003_00ff),
        (0x330, 0x0001_07ff),
        (0x340, 0x0001_07ff),
        (0x350, 0x0001_a7ff),
        (0x360, 0x0001_a7ff),
        (0x370, 0x0001_00ff),
        (0x380, u32::MAX),
        (0x3e0, 0xb),
    ] {
        apic.write(offset, u32::MAX, 0);
        assert_eq!(apic.read(offset, 0), value, "register {offset:#x}");
    }
    apic.write(0xe0, 0, 0);
    assert_eq!(apic.read(0xe0, 0), 0x0fff_ffff);
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn tsc_deadline_mode_is_reserved_sdm_11_5_1() {
    let mut apic = enabled();
    apic.write(0x320, 0x0004_0040, 0);
    assert_eq!(apic.read(0x320, 0), 0x40);
}

#[test]
fn reserved_registers_set_the_esr_sdm_11_5_3() {
    for offset in [0x00, 0x40, 0x290, 0x2f0, 0x3a0, 0x3f0, 0x400, 0xff0] {
        let mut apic = enabled();
        assert_eq!(apic.read(offset, 0), 0);
        assert_eq!(errors(&mut apic), 1 << 7, "read of {offset:#x}");
        apic.write(offset, 0, 0);
        assert_eq!(errors(&mut apic), 1 << 7, "write of {offset:#x}");
        assert_eq!(errors(&mut apic), 0);
    }
}

#[test]
fn esr_shows_errors_up_to_the_last_write_sdm_11_5_3() {
    let mut apic = enabled();
    apic.read(0x40, 0);
    assert_eq!(apic.read(0x280, 0), 0, "not yet latched");
    apic.write(0x280, 0xdead_beef, 0);
    assert_eq!(apic.read(0x280, 0), 1 << 7);
    assert_eq!(apic.read(0x280, 0), 1 << 7, "reads do not clear");
    apic.write(0x280, 0, 0);
    assert_eq!(apic.read(0x280, 0), 0);
}

#[test]
fn error_interrupt_comes_once_until_the_esr_is_written_sdm_11_5_3() {
    let mut apic = enabled();
    apic.write(0x370, 0xfe, 0);
    apic.read(0x40, 0);
    assert_eq!(apic.acknowledge(), Some(0xfe));
    apic.write(0xb0, 0, 0);
    apic.read(0x40, 0);
    assert_eq!(apic.next_interrupt(), None, "not armed");
    apic.write(0x280, 0, 0);
    apic.read(0x40, 0);
    assert_eq!(apic.next_interrupt(), Some(0xfe));
}

#[test]
fn error_interrupt_with_an_illegal_vector_ends() {
    let mut apic = enabled();
    apic.write(0x370, 0x05, 0);
    apic.read(0x40, 0);
    assert_eq!(errors(&mut apic), 1 << 7 | 1 << 6);
}

#[test]
fn software_disabled_masks_the_lvt_sdm_11_4_7_2() {
    let mut apic = enabled();
    apic.write(0x320, 0x40, 0);
    apic.write(0xf0, 0xff, 0);
    assert_eq!(apic.read(0x320, 0), MASKED | 0x40);
    apic.write(0x320, 0x41, 0);
    assert_eq!(apic.read(0x320, 0), MASKED | 0x41, "stays masked");
    apic.write(0xf0, ENABLE, 0);
    assert_eq!(apic.read(0x320, 0), MASKED | 0x41, "not by itself");
    apic.write(0x320, 0x41, 0);
    assert_eq!(apic.read(0x320, 0), 0x41);
}

#[test]
fn effects_name_what_changed() {
    let mut apic = LocalApic::new(2, false);
    let quiet = Effects::default();
    let view_changed = Effects {
        view_changed: true,
        ..quiet
    };
    assert_eq!(apic.write(0xf0, ENABLE, 0), view_changed);
    assert_eq!(apic.write(0xf0, ENABLE, 0), quiet);
    assert_eq!(apic.write(0xd0, 1 << 24, 0), view_changed);
    assert_eq!(apic.write(0xe0, 0, 0), view_changed);
    assert_eq!(apic.write(0x80, 0x50, 0), quiet);
    let started = apic.write(0x380, 100, 0);
    assert!(started.timer_changed && !started.view_changed);
    apic.accept(&Interrupt::fixed(Destination::Physical(2), 0x41));
    assert!(!apic.write(0x80, 0x40, 0).self_pending);
    assert!(apic.write(0x80, 0x30, 0).self_pending);
}

fn send(apic: &mut LocalApic, high: u32, low: u32) -> Option<Interrupt> {
    apic.write(0x310, high, 0);
    apic.write(0x300, low, 0).ipi
}

#[test]
fn icr_destinations_sdm_11_6_1() {
    let mut apic = enabled();
    for (high, low, destination) in [
        (3 << 24, 0x0_4041, Destination::Physical(3)),
        (3 << 24, 0x0_4841, Destination::Logical(3)),
        (0xff << 24, 0x0_4041, Destination::Physical(BROADCAST)),
        (0xff << 24, 0x0_4841, Destination::Logical(BROADCAST)),
        (3 << 24, 0x4_4041, Destination::SelfOnly),
        (3 << 24, 0x8_4041, Destination::AllIncludingSelf),
        (3 << 24, 0xc_4041, Destination::AllExcludingSelf),
    ] {
        let ipi = send(&mut apic, high, low);
        assert_eq!(ipi, Some(Interrupt::fixed(destination, 0x41)));
        assert_eq!(apic.read(0x300, 0), low);
        assert_eq!(apic.read(0x310, 0), high);
    }
    apic.write(0x300, 0x1_5041, 0);
    assert_eq!(apic.read(0x300, 0) & 1 << 12, 0, "delivery status is idle");
}

#[test]
fn icr_modes_sdm_11_6_1() {
    let mut apic = enabled();
    for mode in 0..8 {
        let ipi = send(&mut apic, 3 << 24, mode << 8 | 0x4099);
        let expected = match mode {
            3 | 7 => None,
            _ => DeliveryMode::from_bits(mode as u8),
        };
        assert_eq!(ipi.map(|ipi| ipi.mode), expected, "mode {mode}");
    }
}

#[test]
fn ipis_are_edges_and_init_deassert_is_nothing_sdm_11_6_1() {
    let mut apic = enabled();
    let level = send(&mut apic, 3 << 24, 0x8041).unwrap();
    assert_eq!((level.trigger, level.assert), (Trigger::Edge, true));
    let init = send(&mut apic, 3 << 24, 0xc500).unwrap();
    assert_eq!(init.mode, DeliveryMode::Init);
    assert!(send(&mut apic, 3 << 24, 0x0500).is_some(), "edge");
    assert_eq!(send(&mut apic, 3 << 24, 0x8500), None);
    let start_up = send(&mut apic, 3 << 24, 0x0608).unwrap();
    assert_eq!(start_up.vector, 8, "a page number, below 16 or not");
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn illegal_vectors_are_not_sent_sdm_11_5_2() {
    for mode in [0, 1] {
        let mut apic = enabled();
        assert_eq!(send(&mut apic, 3 << 24, mode << 8 | 0x0f), None);
        assert_eq!(errors(&mut apic), 1 << 5);
    }
}

#[test]
fn a_disabled_apic_still_sends_sdm_11_4_7_2() {
    let mut apic = LocalApic::new(2, false);
    assert!(send(&mut apic, 3 << 24, 0x4041).is_some());
}

#[test]
fn timer_one_shot_and_periodic_sdm_11_5_4() {
    let mut apic = enabled();
    apic.write(0x3e0, 0b1011, 0);
    apic.write(0x320, 0x40, 0);
    apic.write(0x380, 500, 1000);
    assert_eq!(apic.timer_deadline(), Some(1500));
    assert_eq!(apic.read(0x390, 1200), 300);
    assert!(!apic.timer_poll(1499));
    assert!(apic.timer_poll(1500));
    assert!(!apic.timer_poll(9000));
    assert_eq!(apic.acknowledge(), Some(0x40));
    apic.write(0xb0, 0, 9000);

    apic.write(0x320, 1 << 17 | 0x40, 9000);
    apic.write(0x380, 1_000_000, 10_000);
    assert!(apic.timer_poll(1_010_000));
    assert_eq!(apic.timer_deadline(), Some(2_010_000));
    assert!(!apic.timer_poll(7_500_000), "still in the IRR: merges");
    assert_eq!(apic.timer_deadline(), Some(8_010_000), "phase kept");
    apic.write(0x380, 0, 7_600_000);
    assert_eq!(apic.timer_deadline(), None);
}

#[test]
fn a_fast_periodic_timer_that_turns_one_shot_ends_with_its_period() {
    let mut apic = enabled();
    apic.write(0x320, 1 << 17 | 0x40, 0);
    apic.write(0x380, 500, 0);
    assert!(apic.timer_poll(1000));
    assert!(
        apic.timer_deadline() > Some(2000),
        "served every few periods"
    );
    let effects = apic.write(0x320, 0x40, 1200);
    assert!(effects.timer_changed);
    assert_eq!(apic.timer_deadline(), Some(2000));
}

#[test]
fn masked_timer_counts_without_interrupt_sdm_11_5_4() {
    let mut apic = enabled();
    apic.write(0x320, MASKED | 0x40, 0);
    apic.write(0x380, 500, 0);
    assert_eq!(apic.timer_deadline(), Some(1000));
    assert!(!apic.timer_poll(1000));
    assert_eq!(apic.timer_deadline(), None);
}

#[test]
fn expiries_come_before_the_write_that_follows_them() {
    let mut apic = enabled();
    apic.write(0x320, 0x40, 0);
    apic.write(0x380, 500, 0);
    let masked_late = apic.write(0x320, MASKED | 0x40, 1000);
    assert!(masked_late.self_pending && masked_late.timer_changed);
    assert_eq!(apic.acknowledge(), Some(0x40));
    apic.write(0xb0, 0, 1000);
    apic.write(0x380, 500, 2000);
    let unmasked_late = apic.write(0x320, 0x40, 3000);
    assert!(!unmasked_late.self_pending);
}

#[test]
fn logical_and_physical_interrupts_reach_the_same_accept() {
    let mut apic = enabled();
    let mut interrupt = Interrupt::fixed(Destination::Logical(1), 0x31);
    interrupt.mode = DeliveryMode::LowestPriority;
    assert_eq!(apic.accept(&interrupt), Accepted::Queued);
    assert_eq!(apic.accept(&interrupt), Accepted::AlreadyPending);
}
