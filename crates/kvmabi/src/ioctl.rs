//! ioctl numbers. They are compared as 32 bits: QEMU hands them over as an `int`, so numbers with the top bit set
//! arrive sign-extended.

use kvm_bindings as k;
use std::mem::size_of;

const KVMIO: u32 = 0xae;
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn number(direction: u32, nr: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | (KVMIO << 8) | nr
}

/// Bits 30-31: whether the kernel reads (`1`), writes (`2`) or does both with the argument.
#[must_use]
pub const fn direction(request: u32) -> u32 {
    request >> 30
}

/// Bits 16-29: bytes of the argument (of its fixed part, for structures with a flexible array).
#[must_use]
pub const fn size(request: u32) -> usize {
    ((request >> 16) & 0x3fff) as usize
}

/// True for every KVM ioctl.
#[must_use]
pub const fn is_kvm(request: u32) -> bool {
    (request >> 8) & 0xff == KVMIO
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $direction:expr, $nr:expr, $size:expr, $literal:expr;)*) => {
        $($(#[$doc])* pub const $name: u32 = number($direction, $nr, $size);
          const _: () = assert!($name == $literal);)*
    };
}

numbers! {
    /// Version of the API; 12.
    GET_API_VERSION = NONE, 0x00, 0, 0xae00;
    /// Makes a VM.
    CREATE_VM = NONE, 0x01, 0, 0xae01;
    /// MSRs to save and restore.
    GET_MSR_INDEX_LIST = READ | WRITE, 0x02, 4, 0xc004_ae02;
    /// Capability query, on the system or VM descriptor.
    CHECK_EXTENSION = NONE, 0x03, 0, 0xae03;
    /// Bytes of a vCPU's shared mapping.
    GET_VCPU_MMAP_SIZE = NONE, 0x04, 0, 0xae04;
    /// CPUID leaves that KVM can offer.
    GET_SUPPORTED_CPUID = READ | WRITE, 0x05, size_of::<k::kvm_cpuid2>(), 0xc008_ae05;
    /// CPUID leaves that KVM emulates.
    GET_EMULATED_CPUID = READ | WRITE, 0x09, size_of::<k::kvm_cpuid2>(), 0xc008_ae09;
    /// Makes a vCPU.
    CREATE_VCPU = NONE, 0x41, 0, 0xae41;
    /// Dirty bitmap of a slot.
    GET_DIRTY_LOG = WRITE, 0x42, size_of::<k::kvm_dirty_log>(), 0x4010_ae42;
    /// Adds, changes or removes a memory slot.
    SET_USER_MEMORY_REGION = WRITE, 0x46, size_of::<k::kvm_userspace_memory_region>(), 0x4020_ae46;
    /// The same with guest_memfd fields.
    SET_USER_MEMORY_REGION2 = WRITE, 0x49, size_of::<k::kvm_userspace_memory_region2>(), 0x40a0_ae49;
    /// Where the task state segment of real mode goes (Intel).
    SET_TSS_ADDR = NONE, 0x47, 0, 0xae47;
    /// Where the identity page table goes (Intel).
    SET_IDENTITY_MAP_ADDR = WRITE, 0x48, 8, 0x4008_ae48;
    /// In-kernel interrupt controllers.
    CREATE_IRQCHIP = NONE, 0x60, 0, 0xae60;
    /// Level of an interrupt line.
    IRQ_LINE = WRITE, 0x61, size_of::<k::kvm_irq_level>(), 0x4008_ae61;
    /// The same, telling whether the interrupt was coalesced.
    IRQ_LINE_STATUS = READ | WRITE, 0x67, size_of::<k::kvm_irq_level>(), 0xc008_ae67;
    /// Coalesced MMIO zone.
    REGISTER_COALESCED_MMIO = WRITE, 0x67, size_of::<k::kvm_coalesced_mmio_zone>(), 0x4010_ae67;
    /// Table from interrupt lines to MSIs.
    SET_GSI_ROUTING = WRITE, 0x6a, size_of::<k::kvm_irq_routing>(), 0x4008_ae6a;
    /// Interrupt line raised by an eventfd.
    IRQFD = WRITE, 0x76, size_of::<k::kvm_irqfd>(), 0x4020_ae76;
    /// In-kernel timer.
    CREATE_PIT2 = WRITE, 0x77, size_of::<k::kvm_pit_config>(), 0x4040_ae77;
    /// vCPU that is the bootstrap processor.
    SET_BOOT_CPU_ID = NONE, 0x78, 0, 0xae78;
    /// Eventfd that a guest write signals.
    IOEVENTFD = WRITE, 0x79, size_of::<k::kvm_ioeventfd>(), 0x4040_ae79;
    /// Guest clock.
    SET_CLOCK = WRITE, 0x7b, size_of::<k::kvm_clock_data>(), 0x4030_ae7b;
    /// Guest clock.
    GET_CLOCK = READ, 0x7c, size_of::<k::kvm_clock_data>(), 0x8030_ae7c;
    /// Runs the guest.
    RUN = NONE, 0x80, 0, 0xae80;
    /// General registers.
    GET_REGS = READ, 0x81, size_of::<k::kvm_regs>(), 0x8090_ae81;
    /// General registers.
    SET_REGS = WRITE, 0x82, size_of::<k::kvm_regs>(), 0x4090_ae82;
    /// Segment and control registers.
    GET_SREGS = READ, 0x83, size_of::<k::kvm_sregs>(), 0x8138_ae83;
    /// Segment and control registers.
    SET_SREGS = WRITE, 0x84, size_of::<k::kvm_sregs>(), 0x4138_ae84;
    /// Queues an interrupt.
    INTERRUPT = WRITE, 0x86, size_of::<k::kvm_interrupt>(), 0x4004_ae86;
    /// Model-specific registers.
    GET_MSRS = READ | WRITE, 0x88, size_of::<k::kvm_msrs>(), 0xc008_ae88;
    /// Model-specific registers.
    SET_MSRS = WRITE, 0x89, size_of::<k::kvm_msrs>(), 0x4008_ae89;
    /// Signals blocked while the guest runs.
    SET_SIGNAL_MASK = WRITE, 0x8b, 4, 0x4004_ae8b;
    /// x87 and SSE state.
    GET_FPU = READ, 0x8c, size_of::<k::kvm_fpu>(), 0x81a0_ae8c;
    /// x87 and SSE state.
    SET_FPU = WRITE, 0x8d, size_of::<k::kvm_fpu>(), 0x41a0_ae8d;
    /// Local APIC registers.
    GET_LAPIC = READ, 0x8e, size_of::<k::kvm_lapic_state>(), 0x8400_ae8e;
    /// Local APIC registers.
    SET_LAPIC = WRITE, 0x8f, size_of::<k::kvm_lapic_state>(), 0x4400_ae8f;
    /// CPUID of a vCPU.
    SET_CPUID2 = WRITE, 0x90, size_of::<k::kvm_cpuid2>(), 0x4008_ae90;
    /// CPUID of a vCPU.
    GET_CPUID2 = READ | WRITE, 0x91, size_of::<k::kvm_cpuid2>(), 0xc008_ae91;
    /// Reports of task-priority accesses.
    TPR_ACCESS_REPORTING = READ | WRITE, 0x92, size_of::<k::kvm_tpr_access_ctl>(), 0xc028_ae92;
    /// Page shared for the task priority.
    SET_VAPIC_ADDR = WRITE, 0x93, 8, 0x4008_ae93;
    /// Whether the vCPU runs, waits or is halted.
    GET_MP_STATE = READ, 0x98, 4, 0x8004_ae98;
    /// Whether the vCPU runs, waits or is halted.
    SET_MP_STATE = WRITE, 0x99, 4, 0x4004_ae99;
    /// Non-maskable interrupt.
    NMI = NONE, 0x9a, 0, 0xae9a;
    /// System-management interrupt.
    SMI = NONE, 0xb7, 0, 0xaeb7;
    /// Pending events.
    GET_VCPU_EVENTS = READ, 0x9f, size_of::<k::kvm_vcpu_events>(), 0x8040_ae9f;
    /// Pending events.
    SET_VCPU_EVENTS = WRITE, 0xa0, size_of::<k::kvm_vcpu_events>(), 0x4040_aea0;
    /// Switches a capability on.
    ENABLE_CAP = WRITE, 0xa3, size_of::<k::kvm_enable_cap>(), 0x4068_aea3;
    /// Rate of the guest's time-stamp counter, kHz.
    SET_TSC_KHZ = NONE, 0xa2, 0, 0xaea2;
    /// Rate of the guest's time-stamp counter, kHz.
    GET_TSC_KHZ = NONE, 0xa3, 0, 0xaea3;
    /// Extended state, 4 KiB.
    GET_XSAVE = READ, 0xa4, size_of::<k::kvm_xsave>(), 0x9000_aea4;
    /// Extended state.
    SET_XSAVE = WRITE, 0xa5, size_of::<k::kvm_xsave>(), 0x5000_aea5;
    /// Sends a message-signalled interrupt.
    SIGNAL_MSI = WRITE, 0xa5, size_of::<k::kvm_msi>(), 0x4020_aea5;
    /// Extended control registers.
    GET_XCRS = READ, 0xa6, size_of::<k::kvm_xcrs>(), 0x8188_aea6;
    /// Extended control registers.
    SET_XCRS = WRITE, 0xa7, size_of::<k::kvm_xcrs>(), 0x4188_aea7;
    /// The guest was stopped: no soft-lockup report, please.
    KVMCLOCK_CTRL = NONE, 0xad, 0, 0xaead;
    /// Clears bits of a dirty bitmap.
    CLEAR_DIRTY_LOG = READ | WRITE, 0xc0, size_of::<k::kvm_clear_dirty_log>(), 0xc018_aec0;
    /// MSRs whose accesses are filtered.
    X86_SET_MSR_FILTER = WRITE, 0xc6, size_of::<k::kvm_msr_filter>(), 0x4188_aec6;
    /// Segment and control registers with page-directory pointers.
    GET_SREGS2 = READ, 0xcc, size_of::<k::kvm_sregs2>(), 0x8140_aecc;
    /// Segment and control registers with page-directory pointers.
    SET_SREGS2 = WRITE, 0xcd, size_of::<k::kvm_sregs2>(), 0x4140_aecd;
    /// Extended state of the size that KVM_CAP_XSAVE2 gives.
    GET_XSAVE2 = READ, 0xcf, size_of::<k::kvm_xsave>(), 0x9000_aecf;
    /// Attribute of a device, VM or vCPU.
    SET_DEVICE_ATTR = WRITE, 0xe1, size_of::<k::kvm_device_attr>(), 0x4018_aee1;
    /// Attribute of a device, VM or vCPU.
    GET_DEVICE_ATTR = WRITE, 0xe2, size_of::<k::kvm_device_attr>(), 0x4018_aee2;
    /// Whether an attribute exists.
    HAS_DEVICE_ATTR = WRITE, 0xe3, size_of::<k::kvm_device_attr>(), 0x4018_aee3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_decompose() {
        assert_eq!(direction(SET_REGS), WRITE);
        assert_eq!(direction(GET_REGS), READ);
        assert_eq!(size(GET_SREGS), size_of::<k::kvm_sregs>());
        assert!(is_kvm(RUN));
        assert!(!is_kvm(0x5401));
    }
}
