//! The register page of KVM_GET_LAPIC and KVM_SET_LAPIC.

use lev_apic::{Destination, Interrupt, LocalApic, Trigger, PAGE_LEN};

fn word(page: &[u8; PAGE_LEN], offset: usize) -> u32 {
    u32::from_le_bytes(page[offset..offset + 4].try_into().unwrap())
}

fn set(page: &mut [u8; PAGE_LEN], offset: usize, value: u32) {
    page[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn registers_lie_at_their_mmio_offsets() {
    let mut apic = LocalApic::new(5, false);
    let mut interrupt = Interrupt::fixed(Destination::Physical(5), 0xa1);
    interrupt.trigger = Trigger::Level;
    apic.write(0xf0, 0x1ff, 0);
    apic.write(0xe0, 0, 0);
    apic.accept(&interrupt);
    for (offset, value) in [
        (0x80, 0x20),
        (0xd0, 0x0100_0000),
        (0x310, 0x0300_0000),
        (0x300, 0x4031),
        (0x320, 0x2_0040),
        (0x350, 0x8041),
        (0x3e0, 0xb),
        (0x380, 1000),
    ] {
        apic.write(offset, value, 0);
    }
    let page = apic.save(400);
    for (offset, value) in [
        (0x20, 5 << 24),
        (0x30, 0x0005_0014),
        (0x80, 0x20),
        (0xa0, 0x20),
        (0xd0, 0x0100_0000),
        (0xe0, 0x0fff_ffff),
        (0xf0, 0x1ff),
        (0x150, 0),
        (0x1d0, 2),
        (0x250, 2),
        (0x300, 0x4031),
        (0x310, 0x0300_0000),
        (0x320, 0x2_0040),
        (0x350, 0x8041),
        (0x380, 1000),
        (0x390, 600),
        (0x3e0, 0xb),
    ] {
        assert_eq!(word(&page, offset), value, "{offset:#x}");
    }
    apic.acknowledge();
    assert_eq!(word(&apic.save(400), 0x150), 2);
    assert_eq!(word(&apic.save(400), 0x250), 0);
}

#[test]
fn a_running_timer_goes_on() {
    let mut apic = LocalApic::new(5, false);
    apic.write(0xf0, 0x1ff, 0);
    apic.write(0x3e0, 0xb, 0);
    apic.write(0x320, 0x2_0040, 0);
    apic.write(0x380, 1_000_000, 0);
    let mut copy = LocalApic::new(5, false);
    let effects = copy.load(&apic.save(400_000), 7_000_000);
    assert!(effects.timer_changed && effects.view_changed);
    assert_eq!(copy.timer_deadline(), Some(7_600_000));
    assert!(copy.timer_poll(7_600_000));
    assert_eq!(copy.timer_deadline(), Some(8_600_000));
}

#[test]
fn a_lost_current_count_costs_an_interrupt_too_many_not_one_too_few() {
    let mut page = LocalApic::new(5, false).save(0);
    set(&mut page, 0xf0, 0x1ff);
    set(&mut page, 0x320, 0x40);
    set(&mut page, 0x380, 1000);
    let mut apic = LocalApic::new(5, false);
    apic.load(&page, 50);
    assert_eq!(apic.timer_deadline(), Some(50));
    set(&mut page, 0x320, 0x2_0040);
    apic.load(&page, 50);
    assert_eq!(apic.timer_deadline(), Some(2050), "a whole period");
}

#[test]
fn the_reset_page_of_qemu_leaves_lint0_open() {
    let mut page = [0; PAGE_LEN];
    for (offset, value) in [(0xe0, u32::MAX), (0xf0, 0xff), (0x350, 0x700)] {
        set(&mut page, offset, value);
    }
    let mut apic = LocalApic::new(5, false);
    apic.load(&page, 0);
    assert!(apic.accepts_ext_int());
    assert!(!apic.view().software_enabled);
}

#[test]
fn reserved_bits_of_a_page_are_dropped() {
    let mut apic = LocalApic::new(5, false);
    apic.load(&[0xff; PAGE_LEN], 0);
    let page = apic.save(0);
    for (offset, value) in [
        (0x20, 0xff00_0000),
        (0x30, 0x0005_0014),
        (0x80, 0xff),
        (0xf0, 0x3ff),
        (0x100, 0xffff_0000),
        (0x200, 0xffff_0000),
        (0x270, u32::MAX),
        (0x300, 0x000c_cfff),
        (0x310, 0xff00_0000),
        (0x320, 0x0003_00ff),
        (0x3e0, 0xb),
    ] {
        assert_eq!(word(&page, offset), value, "{offset:#x}");
    }
}

#[test]
fn an_apic_that_is_off_keeps_no_timer() {
    let mut apic = LocalApic::new(5, false);
    apic.write(0xf0, 0x1ff, 0);
    apic.write(0x380, 1000, 0);
    let page = apic.save(0);
    apic.set_base(0xfee0_0000);
    apic.load(&page, 0);
    assert_eq!(apic.timer_deadline(), None);
}
