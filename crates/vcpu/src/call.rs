//! vCPU ioctls other than `KVM_RUN`, on the node that runs the vCPU: the ones about the local APIC and the vCPU's state are
//! answered here, the rest go to the kernel.

use crate::cell::{MpState, Vcpu};
use crate::clock::monotonic_ns;
use crate::fabric::Fabric;
use kvm_bindings as k;
use lev_kvmabi::{cpuid, ioctl, os};
use std::io;
use std::sync::atomic::Ordering;

const MSR_TSC: u32 = 0x10;
const MSR_APIC_BASE: u32 = 0x1b;
/// Most CPUID leaves that KVM takes (`KVM_MAX_CPUID_ENTRIES`).
pub const MAX_CPUID: usize = 256;

/// Why a vCPU ioctl failed.
#[derive(Debug)]
pub enum CallError {
    /// The kernel's or our errno.
    Errno(i32),
    /// The guest was given CPU features that this node does not have.
    MissingFeatures(Vec<&'static str>),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Performs a vCPU ioctl. Not for `KVM_RUN`.
///
/// # Errors
/// See [`CallError`].
///
/// # Safety
/// `argument` must be what `request` expects: a number, or a pointer to a structure of the right size (its flexible
/// array included), aligned to 8 bytes, alive through the call.
pub unsafe fn call(
    vcpu: &Vcpu,
    fabric: &Fabric,
    request: u32,
    argument: usize,
) -> Result<i32, CallError> {
    match request {
        ioctl::GET_LAPIC => {
            let registers = vcpu.apic().save(monotonic_ns());
            // SAFETY: GET_LAPIC's argument is 1024 writable bytes (caller's contract).
            unsafe { (argument as *mut [u8; 1024]).write(registers) };
            Ok(0)
        }
        ioctl::SET_LAPIC => {
            // SAFETY: SET_LAPIC's argument is 1024 readable bytes (caller's contract).
            let registers = unsafe { (argument as *const [u8; 1024]).read() };
            vcpu.apic().load(&registers, monotonic_ns());
            fabric.view_changed(vcpu);
            vcpu.kick();
            Ok(0)
        }
        ioctl::GET_MP_STATE => {
            // SAFETY: GET_MP_STATE's argument is one writable word.
            unsafe { (argument as *mut u32).write(vcpu.mp_state() as u32) };
            Ok(0)
        }
        ioctl::SET_MP_STATE => {
            // SAFETY: SET_MP_STATE's argument is one readable word.
            let state = MpState::from_number(unsafe { (argument as *const u32).read() });
            vcpu.set_mp_state(state.ok_or(CallError::Errno(libc::EINVAL))?);
            Ok(0)
        }
        ioctl::NMI => {
            vcpu.post_nmi();
            Ok(0)
        }
        ioctl::SMI => {
            vcpu.post_smi();
            Ok(0)
        }
        // The page that these would share with the guest belongs to KVM's own local APIC; the clock is hidden.
        ioctl::TPR_ACCESS_REPORTING | ioctl::SET_VAPIC_ADDR | ioctl::KVMCLOCK_CTRL => Ok(0),
        ioctl::SET_SIGNAL_MASK => Ok(0),
        // The rate is the head's on every node; the capability is hidden.
        ioctl::SET_TSC_KHZ => Err(CallError::Errno(libc::EINVAL)),
        // SAFETY: the caller's contract is passed on.
        _ => unsafe { call_kernel(vcpu, fabric, request, argument) },
    }
}

/// # Safety
/// As for [`call`].
unsafe fn call_kernel(
    vcpu: &Vcpu,
    fabric: &Fabric,
    request: u32,
    argument: usize,
) -> Result<i32, CallError> {
    if request == ioctl::SET_CPUID2 {
        // SAFETY: SET_CPUID2's argument is a kvm_cpuid2 with its entries (caller's contract).
        unsafe { check_cpuid(vcpu, argument)? };
    }
    // SAFETY: the caller's contract.
    let result = unsafe { os::ioctl(vcpu.fd, request, argument)? };
    match request {
        ioctl::SET_REGS | ioctl::SET_VCPU_EVENTS => vcpu.registers_changed(),
        ioctl::SET_SREGS => {
            // SAFETY: SET_SREGS's argument is a kvm_sregs.
            let base = unsafe { (*(argument as *const k::kvm_sregs)).apic_base };
            set_base(vcpu, fabric, base);
        }
        ioctl::SET_SREGS2 => {
            // SAFETY: SET_SREGS2's argument is a kvm_sregs2.
            let base = unsafe { (*(argument as *const k::kvm_sregs2)).apic_base };
            set_base(vcpu, fabric, base);
        }
        ioctl::INTERRUPT => vcpu.external_interrupt_queued(),
        ioctl::SET_MSRS => {
            // SAFETY: SET_MSRS's argument is a count and that many entries; the kernel has just read them.
            unsafe { after_set_msrs(vcpu, fabric, argument) };
        }
        _ => {}
    }
    Ok(result)
}

fn set_base(vcpu: &Vcpu, fabric: &Fabric, base: u64) {
    vcpu.registers_changed();
    let changed = vcpu.apic().base() != base;
    if changed {
        vcpu.apic().set_base(base);
        fabric.view_changed(vcpu);
    }
}

/// # Safety
/// `argument` points to a `kvm_msrs` with all its entries.
unsafe fn after_set_msrs(vcpu: &Vcpu, fabric: &Fabric, argument: usize) {
    // SAFETY: the header is there; `nmsrs` entries of 16 bytes follow it.
    let entries = unsafe {
        let count = (*(argument as *const k::kvm_msrs)).nmsrs as usize;
        std::slice::from_raw_parts((argument + 8) as *const k::kvm_msr_entry, count)
    };
    for entry in entries {
        match entry.index {
            // QEMU gives each vCPU its own value; the guest shall see one counter over all nodes.
            MSR_TSC => vcpu.clock_changed(),
            MSR_APIC_BASE => set_base(vcpu, fabric, entry.data),
            _ => {}
        }
    }
}

/// Compares the CPUID that the guest gets with what this node's KVM can run.
///
/// # Safety
/// `argument` points to a `kvm_cpuid2` with all its entries.
unsafe fn check_cpuid(vcpu: &Vcpu, argument: usize) -> Result<(), CallError> {
    // SAFETY: the header is there; `nent` entries of 40 bytes follow it.
    let given = unsafe {
        let count = (*(argument as *const k::kvm_cpuid2)).nent as usize;
        std::slice::from_raw_parts(
            (argument + 8) as *const k::kvm_cpuid_entry2,
            count.min(MAX_CPUID),
        )
    };
    if let Some(leaf) = given.iter().find(|entry| entry.function == 1) {
        vcpu.cpu_signature.store(leaf.eax, Ordering::Relaxed);
    }
    let supported = supported_cpuid()?;
    let missing = cpuid::missing(given, &supported);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(CallError::MissingFeatures(missing))
    }
}

/// What this node's KVM can offer a guest.
///
/// # Errors
/// `/dev/kvm` cannot be opened or asked.
pub fn supported_cpuid() -> io::Result<Vec<k::kvm_cpuid_entry2>> {
    #[repr(C)]
    struct Leaves {
        count: u32,
        padding: u32,
        entries: [k::kvm_cpuid_entry2; MAX_CPUID],
    }
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")?;
    let mut leaves = Box::new(Leaves {
        count: MAX_CPUID as u32,
        padding: 0,
        entries: [k::kvm_cpuid_entry2::default(); MAX_CPUID],
    });
    // SAFETY: GET_SUPPORTED_CPUID takes a count and room for that many entries.
    unsafe {
        os::ioctl_with(
            std::os::fd::AsRawFd::as_raw_fd(&device),
            ioctl::GET_SUPPORTED_CPUID,
            &mut *leaves,
        )?;
    }
    Ok(leaves.entries[..(leaves.count as usize).min(MAX_CPUID)].to_vec())
}
