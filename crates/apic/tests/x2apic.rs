//! x2APIC mode (SDM 11.12).

use lev_apic::{Destination, Interrupt, LocalApic, IA32_APIC_BASE};

const X2APIC_BASE: u64 = 0xfee0_0c00;

fn x2apic(vcpu: u32) -> LocalApic {
    let mut apic = LocalApic::new(vcpu, false);
    apic.offer_x2apic(true);
    apic.write_msr(IA32_APIC_BASE, X2APIC_BASE, 0).unwrap();
    apic.write_msr(0x80f, 0x1ff, 0).unwrap();
    apic
}

#[test]
fn identifiers_are_derived_and_read_only_sdm_11_12_10_2() {
    let mut apic = x2apic(0x123);
    assert_eq!(apic.read_msr(0x802, 0), Some(0x123));
    assert_eq!(apic.read_msr(0x80d, 0), Some(0x0012_0008));
    assert_eq!(apic.write_msr(0x802, 0x123, 0), None);
    assert_eq!(apic.write_msr(0x80d, 0, 0), None);
    assert!(apic.view().x2apic);
    apic.reset_init();
    assert_eq!(apic.base(), X2APIC_BASE);
    assert_eq!(apic.read_msr(0x80d, 0), Some(0x0012_0008));
}

#[test]
fn memory_does_not_answer_sdm_11_12_2() {
    let mut apic = x2apic(1);
    assert_eq!(apic.window(), None);
    assert_eq!(apic.read(0x20, 0), u32::MAX);
    apic.write(0x80, 0x50, 0);
    assert_eq!(apic.task_priority(), 0);
}

#[test]
fn msrs_fault_outside_the_mode_sdm_11_12_2() {
    let mut apic = LocalApic::new(1, false);
    for msr in 0x800..=0x8ff {
        assert_eq!(apic.read_msr(msr, 0), None);
        assert_eq!(apic.write_msr(msr, 0, 0), None);
    }
}

#[test]
fn which_msrs_exist_sdm_table_11_6() {
    let mut apic = x2apic(1);
    let read_write = [0x808, 0x80f, 0x828, 0x830, 0x838, 0x83e];
    let read_only = [0x802, 0x803, 0x80a, 0x80d, 0x839];
    for msr in (0x7f0..0x910).chain([0, u32::MAX]) {
        let lvt = (0x832..=0x837).contains(&msr);
        let vectors = (0x810..=0x827).contains(&msr);
        let both = read_write.contains(&msr) || lvt;
        let readable = both || vectors || read_only.contains(&msr);
        assert_eq!(apic.read_msr(msr, 0).is_some(), readable, "read {msr:#x}");
        let writable = both || msr == 0x80b || msr == 0x83f;
        let written = apic.clone().write_msr(msr, 0, 0);
        assert_eq!(written.is_some(), writable, "write {msr:#x}");
    }
}

#[test]
fn reserved_bits_fault_and_change_nothing_sdm_11_12_1_2() {
    let mut apic = x2apic(1);
    let before = apic.clone();
    for (msr, value) in [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 1 << 12),
        (0x828, 1),
        (0x830, 1 << 13),
        (0x830, 1 << 16),
        (0x830, 1 << 20),
        (0x832, 1 << 18),
        (0x832, 1 << 8),
        (0x833, 1 << 15),
        (0x835, 1 << 17),
        (0x837, 1 << 10),
        (0x838, 1 << 32),
        (0x83e, 1 << 2),
        (0x83f, 0x100),
    ] {
        assert_eq!(apic.write_msr(msr, value, 0), None, "{msr:#x} = {value:#x}");
        assert_eq!(apic, before);
    }
    for (msr, value) in [(0x832, 1 << 12), (0x835, 1 << 14), (0x836, 1 << 13)] {
        assert!(apic.write_msr(msr, value, 0).is_some(), "read-only bits");
    }
    assert_eq!(apic.read_msr(0x835, 0), Some(0));
}

#[test]
fn icr_is_one_register_sdm_11_12_9() {
    let mut apic = x2apic(1);
    let ipi = apic.write_msr(0x830, 0x0000_0123_0000_0041, 0).unwrap().ipi;
    let expected = Interrupt::fixed(Destination::Physical(0x123), 0x41);
    assert_eq!(ipi, Some(expected));
    assert_eq!(apic.read_msr(0x830, 0), Some(0x0000_0123_0000_0041));
    let ipi = apic.write_msr(0x830, 0x0002_0003_0000_1841, 0).unwrap().ipi;
    let expected = Interrupt::fixed(Destination::Logical(0x0002_0003), 0x41);
    assert_eq!(ipi, Some(expected));
    assert_eq!(apic.read_msr(0x830, 0), Some(0x0002_0003_0000_0841));
    let byte = apic.write_msr(0x830, 0x0000_00ff_0000_0041, 0).unwrap().ipi;
    assert_eq!(byte.unwrap().destination, Destination::Physical(0xff));
}

#[test]
fn self_ipi_sdm_11_12_11() {
    let mut apic = x2apic(1);
    let ipi = apic.write_msr(0x83f, 0x41, 0).unwrap().ipi;
    assert_eq!(ipi, Some(Interrupt::fixed(Destination::SelfOnly, 0x41)));
    assert_eq!(apic.write_msr(0x83f, 0x0f, 0).unwrap().ipi, None);
    apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!(apic.read_msr(0x828, 0), Some(1 << 5));
}

#[test]
fn entering_keeps_the_rest_of_the_state_sdm_11_12_5_1() {
    let mut apic = LocalApic::new(5, false);
    apic.offer_x2apic(true);
    apic.write(0xf0, 0x1ff, 0);
    apic.write(0x80, 0x30, 0);
    apic.write(0x380, 1000, 0);
    apic.write(0x310, 3 << 24, 0);
    apic.accept(&Interrupt::fixed(Destination::Physical(5), 0x41));
    let effects = apic.write_msr(IA32_APIC_BASE, X2APIC_BASE, 0).unwrap();
    assert!(effects.view_changed && effects.self_pending && !effects.timer_changed);
    assert_eq!(apic.read_msr(0x808, 0), Some(0x30));
    assert_eq!(apic.read_msr(0x830, 0), Some(0));
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert!(apic.write_msr(0x80b, 0, 0).unwrap().eoi.is_some());
}

#[test]
fn identifier_in_the_register_page() {
    let mut apic = x2apic(0x42);
    let id = |page: [u8; 1024]| u32::from_le_bytes(page[0x20..0x24].try_into().unwrap());
    assert_eq!(id(apic.save(0)), 0x4200_0000);
    apic.set_wide_ids_in_page(true);
    assert_eq!(id(apic.save(0)), 0x42);
    let page = [0xff; 1024];
    apic.load(&page, 0);
    assert_eq!(apic.view().id, 0x42, "not from the page");
    assert_eq!(apic.view().ldr, 0x0004_0004);
}
