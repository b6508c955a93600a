//! Capabilities that Leviathan answers differently from the kernel below it.

use kvm_bindings as k;

/// Capabilities that are hidden from QEMU, each with the reason.
///
/// Some need a local APIC inside KVM, which this VM does not have; others hand memory or events around the coherence
/// engine; the rest would give the guest a clock that is not one over all nodes.
const HIDDEN: &[(u32, &str)] = &[
    (k::KVM_CAP_ASYNC_PF, "needs KVM's own local APIC"),
    (k::KVM_CAP_ASYNC_PF_INT, "needs KVM's own local APIC"),
    (k::KVM_CAP_VAPIC, "needs KVM's own local APIC"),
    (k::KVM_CAP_TSC_DEADLINE_TIMER, "needs KVM's own local APIC"),
    (k::KVM_CAP_X2APIC_API, "needs KVM's own local APIC"),
    (k::KVM_CAP_HYPERV_SYNIC, "needs KVM's own local APIC"),
    (k::KVM_CAP_HYPERV_SYNIC2, "needs KVM's own local APIC"),
    (k::KVM_CAP_IRQFD, "interrupts from eventfds go through QEMU"),
    (
        k::KVM_CAP_IRQFD_RESAMPLE,
        "interrupts from eventfds go through QEMU",
    ),
    (k::KVM_CAP_COALESCED_MMIO, "the ring is local to one node"),
    (k::KVM_CAP_COALESCED_PIO, "the ring is local to one node"),
    (k::KVM_CAP_DIRTY_LOG_RING, "the ring is local to one node"),
    (
        k::KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
        "the ring is local to one node",
    ),
    (
        k::KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
        "the ring is local to one node",
    ),
    (k::KVM_CAP_GUEST_MEMFD, "its pages cannot be kept coherent"),
    (
        k::KVM_CAP_MEMORY_ATTRIBUTES,
        "its pages cannot be kept coherent",
    ),
    (k::KVM_CAP_USER_MEMORY2, "its pages cannot be kept coherent"),
    (
        k::KVM_CAP_PRE_FAULT_MEMORY,
        "would pull every page to one node",
    ),
    (k::KVM_CAP_SYNC_REGS, "registers travel by their own calls"),
    (k::KVM_CAP_NESTED_STATE, "nested virtualization is hidden"),
    (
        k::KVM_CAP_ADJUST_CLOCK,
        "kvmclock is hidden: one TSC over all nodes",
    ),
    (
        k::KVM_CAP_XEN_HVM,
        "kvmclock is hidden: one TSC over all nodes",
    ),
    (
        k::KVM_CAP_HYPERV_TIME,
        "kvmclock is hidden: one TSC over all nodes",
    ),
    (
        k::KVM_CAP_X86_DISABLE_EXITS,
        "idle vCPUs must be able to sleep in user space",
    ),
    (k::KVM_CAP_EXIT_HYPERCALL, "hypercalls of protected guests"),
    (k::KVM_CAP_PIT2, "the timer is QEMU's"),
    (
        k::KVM_CAP_BINARY_STATS_FD,
        "a descriptor of another node means nothing here",
    ),
    (k::KVM_CAP_REINJECT_CONTROL, "the timer is QEMU's"),
];

/// Why a capability is hidden from QEMU; `None` if the kernel's answer stands.
#[must_use]
pub fn hidden(capability: u32) -> Option<&'static str> {
    HIDDEN
        .iter()
        .find(|(number, _)| *number == capability)
        .map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_needs_stays_visible() {
        for needed in [
            k::KVM_CAP_USER_MEMORY,
            k::KVM_CAP_SPLIT_IRQCHIP,
            k::KVM_CAP_IOEVENTFD,
            k::KVM_CAP_SIGNAL_MSI,
            k::KVM_CAP_IRQ_ROUTING,
            k::KVM_CAP_MP_STATE,
            k::KVM_CAP_XSAVE2,
        ] {
            assert_eq!(hidden(needed), None);
        }
        assert!(hidden(k::KVM_CAP_GUEST_MEMFD).is_some());
    }
}
