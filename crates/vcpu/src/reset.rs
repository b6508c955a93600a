//! Architectural state after INIT and after a start-up IPI.
//!
//! Source: Intel SDM volume 3, table 9-1 (state after power-up, reset and INIT) and section 8.4 (start-up IPI); AMD APM
//! volume 2, section 14.1. KVM without an in-kernel local APIC knows neither event.

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};
use lev_kvmabi::{ioctl, os};
use std::io;

const SET_DEBUGREGS: u32 = 0x4080_aea2;
const _: () = assert!(std::mem::size_of::<kvm_debugregs>() == 0x80);

fn data_segment() -> kvm_segment {
    kvm_segment {
        limit: 0xffff,
        type_: 3,
        present: 1,
        s: 1,
        ..Default::default()
    }
}

/// Segment and control registers after INIT; cache bits of CR0 and the APIC base survive it.
fn init_sregs(before: &kvm_sregs) -> kvm_sregs {
    const CR0_CACHE: u64 = 0x6000_0000;
    const CR0_EXTENSION_TYPE: u64 = 0x10;
    let code = kvm_segment {
        base: 0xffff_0000,
        selector: 0xf000,
        type_: 0xb,
        ..data_segment()
    };
    let table = kvm_dtable {
        base: 0,
        limit: 0xffff,
        ..Default::default()
    };
    kvm_sregs {
        cs: code,
        ds: data_segment(),
        es: data_segment(),
        fs: data_segment(),
        gs: data_segment(),
        ss: data_segment(),
        tr: kvm_segment {
            limit: 0xffff,
            type_: 0xb,
            present: 1,
            ..Default::default()
        },
        ldt: kvm_segment {
            limit: 0xffff,
            type_: 2,
            present: 1,
            ..Default::default()
        },
        gdt: table,
        idt: table,
        cr0: (before.cr0 & CR0_CACHE) | CR0_EXTENSION_TYPE,
        apic_base: before.apic_base,
        ..Default::default()
    }
}

/// Puts a vCPU into the state that INIT leaves. To be called on the vCPU's own thread, outside `KVM_RUN`.
///
/// # Errors
/// The kernel refused a register set.
pub fn init(vcpu_fd: i32, cpu_signature: u32) -> io::Result<()> {
    let mut sregs = kvm_sregs::default();
    let mut regs = kvm_regs {
        rip: 0xfff0,
        rflags: 2,
        rdx: u64::from(cpu_signature),
        ..Default::default()
    };
    let mut debug = kvm_debugregs {
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        ..Default::default()
    };
    // XCR0 itself survives INIT, but CR4.OSXSAVE does not: software enables the states anew before it uses them, and
    // leaving bits set made a second start-up of the same vCPU fail.
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0] = kvm_xcr {
        xcr: 0,
        value: 1,
        ..Default::default()
    };
    let mut events = kvm_vcpu_events::default();
    // SAFETY: each call takes a pointer to exactly this structure (sizes asserted beside the ioctl numbers).
    unsafe {
        os::ioctl_with(vcpu_fd, ioctl::GET_SREGS, &mut sregs)?;
        let mut sregs = init_sregs(&sregs);
        os::ioctl_with(vcpu_fd, ioctl::SET_SREGS, &mut sregs)?;
        os::ioctl_with(vcpu_fd, ioctl::SET_REGS, &mut regs)?;
        os::ioctl_with(vcpu_fd, SET_DEBUGREGS, &mut debug)?;
        // A processor without XSAVE has no XCR0.
        let _ = os::ioctl_with(vcpu_fd, ioctl::SET_XCRS, &mut xcrs);
        os::ioctl_with(vcpu_fd, ioctl::SET_VCPU_EVENTS, &mut events)?;
    }
    Ok(())
}

/// Starts a vCPU that waits after INIT at the page that the start-up IPI names.
///
/// # Errors
/// The kernel refused the registers.
pub fn start_up(vcpu_fd: i32, vector: u8) -> io::Result<()> {
    let mut sregs = kvm_sregs::default();
    let mut regs = kvm_regs::default();
    // SAFETY: as in `init`.
    unsafe {
        os::ioctl_with(vcpu_fd, ioctl::GET_SREGS, &mut sregs)?;
        sregs.cs.selector = u16::from(vector) << 8;
        sregs.cs.base = u64::from(vector) << 12;
        os::ioctl_with(vcpu_fd, ioctl::SET_SREGS, &mut sregs)?;
        os::ioctl_with(vcpu_fd, ioctl::GET_REGS, &mut regs)?;
        regs.rip = 0;
        os::ioctl_with(vcpu_fd, ioctl::SET_REGS, &mut regs)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_keeps_cache_bits_and_apic_base_only() {
        let before = kvm_sregs {
            cr0: 0xe005_003b,
            cr3: 7,
            cr4: 1,
            efer: 0xd01,
            apic_base: 0xfee0_0900,
            ..Default::default()
        };
        let after = init_sregs(&before);
        assert_eq!(
            (after.cr0, after.cr3, after.cr4, after.efer),
            (0x6000_0010, 0, 0, 0)
        );
        assert_eq!(after.apic_base, 0xfee0_0900);
        assert_eq!((after.cs.base, after.cs.selector), (0xffff_0000, 0xf000));
    }
}
