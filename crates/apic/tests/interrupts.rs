//! Acceptance, priorities, acknowledgement and end of interrupt (SDM 11.8), local vector table.

use lev_apic::{
    Accepted, DeliveryMode, Destination, Eoi, IgnoreReason, Interrupt, LocalApic, LocalSource,
    Trigger,
};

fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(2, false);
    apic.write(0xf0, 0x1ff, 0);
    apic
}

fn edge(vector: u8) -> Interrupt {
    Interrupt::fixed(Destination::Physical(2), vector)
}

fn level(vector: u8) -> Interrupt {
    Interrupt {
        trigger: Trigger::Level,
        ..edge(vector)
    }
}

fn message(mode: DeliveryMode) -> Interrupt {
    Interrupt { mode, ..edge(0x08) }
}

fn eoi(apic: &mut LocalApic) -> Option<Eoi> {
    apic.write(0xb0, 0, 0).eoi
}

#[test]
fn higher_classes_nest_and_equal_ones_wait_sdm_11_8_3() {
    let mut apic = enabled();
    apic.accept(&edge(0x41));
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(apic.processor_priority(), 0x40);
    apic.accept(&edge(0x4f));
    assert_eq!(apic.next_interrupt(), None, "same class");
    apic.accept(&edge(0x50));
    assert_eq!(apic.acknowledge(), Some(0x50));
    assert_eq!(eoi(&mut apic).map(|eoi| eoi.vector), Some(0x50));
    assert_eq!(eoi(&mut apic).map(|eoi| eoi.vector), Some(0x41));
    assert_eq!(apic.acknowledge(), Some(0x4f));
}

#[test]
fn processor_priority_sdm_11_8_3_1() {
    let mut apic = enabled();
    apic.write(0x80, 0x35, 0);
    assert_eq!(apic.read(0xa0, 0), 0x35);
    apic.accept(&edge(0x52));
    apic.acknowledge();
    assert_eq!(apic.read(0xa0, 0), 0x50);
    apic.write(0x80, 0x57, 0);
    assert_eq!(
        apic.read(0xa0, 0),
        0x57,
        "equal classes: the task's sub-class"
    );
}

#[test]
fn arbitration_priority_sdm_11_8_3_1() {
    let mut apic = enabled();
    apic.write(0x80, 0x35, 0);
    assert_eq!(apic.read(0x90, 0), 0x35);
    apic.accept(&edge(0x52));
    assert_eq!(apic.read(0x90, 0), 0x50);
}

#[test]
fn cr8_is_the_class_of_the_task_priority_sdm_11_8_6() {
    let mut apic = enabled();
    apic.write(0x80, 0x57, 0);
    assert_eq!(apic.cr8(), 5);
    apic.set_cr8(9);
    assert_eq!(apic.task_priority(), 0x90);
    apic.accept(&edge(0x9f));
    assert_eq!(apic.next_interrupt(), None);
    apic.set_cr8(8);
    assert_eq!(apic.next_interrupt(), Some(0x9f));
}

#[test]
fn level_interrupts_report_their_end_sdm_11_8_5() {
    let mut apic = enabled();
    apic.accept(&level(0x61));
    apic.accept(&edge(0x71));
    assert_eq!(apic.read(0x1b0, 0), 1 << 1, "TMR");
    apic.acknowledge();
    let edge_end = Eoi {
        vector: 0x71,
        level: false,
    };
    assert_eq!(eoi(&mut apic), Some(edge_end));
    apic.acknowledge();
    let level_end = Eoi {
        vector: 0x61,
        level: true,
    };
    assert_eq!(eoi(&mut apic), Some(level_end));
    assert_eq!(eoi(&mut apic), None, "nothing in service");
    apic.accept(&edge(0x61));
    assert_eq!(apic.read(0x1b0, 0), 0, "TMR follows the latest acceptance");
}

#[test]
fn one_more_of_the_vector_in_service_waits_sdm_11_8_4() {
    let mut apic = enabled();
    apic.accept(&edge(0x41));
    apic.acknowledge();
    assert_eq!(apic.accept(&edge(0x41)), Accepted::Queued);
    assert_eq!(apic.accept(&edge(0x41)), Accepted::AlreadyPending);
    assert_eq!(apic.next_interrupt(), None);
    eoi(&mut apic);
    assert_eq!(apic.acknowledge(), Some(0x41));
}

#[test]
fn modes_that_bypass_the_registers_sdm_11_8_1() {
    let mut apic = LocalApic::new(2, false);
    let before = apic.clone();
    for (mode, accepted) in [
        (DeliveryMode::Smi, Accepted::Smi),
        (DeliveryMode::Nmi, Accepted::Nmi),
        (DeliveryMode::Init, Accepted::Init),
        (DeliveryMode::StartUp, Accepted::StartUp(8)),
        (DeliveryMode::ExtInt, Accepted::ExtInt),
    ] {
        assert_eq!(apic.accept(&message(mode)), accepted);
    }
    let deassert = Interrupt {
        trigger: Trigger::Level,
        assert: false,
        ..message(DeliveryMode::Init)
    };
    assert_eq!(apic.accept(&deassert), Accepted::InitDeassert);
    assert_eq!(apic, before);
}

#[test]
fn what_is_ignored_and_why() {
    let ignored = Accepted::Ignored;
    let mut apic = enabled();
    let deassert = Interrupt {
        assert: false,
        ..level(0x41)
    };
    assert_eq!(apic.accept(&deassert), ignored(IgnoreReason::LevelDeassert));
    assert_eq!(apic.accept(&edge(15)), ignored(IgnoreReason::IllegalVector));
    apic.write(0x280, 0, 0);
    assert_eq!(apic.read(0x280, 0), 1 << 6, "SDM 11.5.2");
    assert_eq!(apic.accept(&edge(16)), Accepted::Queued);
    apic.write(0xf0, 0xff, 0);
    assert_eq!(
        apic.accept(&edge(0x41)),
        ignored(IgnoreReason::SoftwareDisabled)
    );
    apic.set_base(0xfee0_0000);
    for interrupt in [edge(0x41), message(DeliveryMode::Nmi)] {
        assert_eq!(
            apic.accept(&interrupt),
            ignored(IgnoreReason::HardwareDisabled)
        );
    }
}

#[test]
fn software_disabled_holds_what_is_pending_sdm_11_4_7_2() {
    let mut apic = enabled();
    apic.accept(&edge(0x41));
    apic.write(0xf0, 0xff, 0);
    assert_eq!(apic.next_interrupt(), None);
    assert!(apic.write(0xf0, 0x1ff, 0).self_pending);
    assert_eq!(apic.next_interrupt(), Some(0x41));
}

#[test]
fn external_interrupts_and_nmi_through_the_pins_sdm_11_5_1() {
    let mut bootstrap = LocalApic::new(0, true);
    assert!(bootstrap.accepts_ext_int());
    bootstrap.write(0x350, 0x1_0700, 0);
    assert!(!bootstrap.accepts_ext_int(), "masked");
    let mut apic = enabled();
    assert!(!apic.accepts_ext_int() && !apic.lint1_nmi());
    apic.write(0x350, 0x700, 0);
    apic.write(0x360, 0x400, 0);
    assert!(apic.accepts_ext_int() && apic.lint1_nmi());
    apic.write(0x350, 0x041, 0);
    apic.write(0x360, 0x1_0400, 0);
    assert!(!apic.accepts_ext_int() && !apic.lint1_nmi());
}

#[test]
fn local_sources_go_through_their_entries_sdm_11_5_1() {
    let masked = Accepted::Ignored(IgnoreReason::Masked);
    let mut apic = enabled();
    for (source, offset) in [
        (LocalSource::Thermal, 0x330),
        (LocalSource::PerformanceCounter, 0x340),
        (LocalSource::Lint0, 0x350),
        (LocalSource::Lint1, 0x360),
    ] {
        assert_eq!(apic.raise_local(source), masked);
        apic.write(offset, 0x400, 0);
        assert_eq!(apic.raise_local(source), Accepted::Nmi);
        apic.write(offset, offset >> 4, 0);
        assert_eq!(apic.raise_local(source), Accepted::Queued);
        assert_eq!(apic.next_interrupt(), Some((offset >> 4) as u8));
        apic.write(offset, 0x300, 0);
        let reserved = Accepted::Ignored(IgnoreReason::ReservedMode);
        assert_eq!(apic.raise_local(source), reserved);
    }
    apic.write(0x340, 0x77, 0);
    apic.raise_local(LocalSource::PerformanceCounter);
    assert_eq!(apic.read(0x340, 0), 0x1_0077, "masked by its delivery");
}

#[test]
fn failed_injection_is_undone() {
    let mut apic = enabled();
    apic.accept(&level(0x41));
    let before = apic.clone();
    let vector = apic.acknowledge().unwrap();
    apic.unacknowledge(vector);
    assert_eq!(apic, before);
    apic.unacknowledge(0x99);
    assert_eq!(apic, before, "was not in service");
}
