//! Capabilities that Leviathan answers differently from the kernel below it.

use kvm_bindings as k;

const HYPERV: &str = "enlightenments reach the vCPUs of one node only";
const TSC_RATE: &str = "the rate is the head's on every node";

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
    (
        k::KVM_CAP_X86_APIC_BUS_CYCLES_NS,
        "needs KVM's own local APIC",
    ),
    (k::KVM_CAP_HYPERV, HYPERV),
    (k::KVM_CAP_HYPERV_SPIN, HYPERV),
    (k::KVM_CAP_HYPERV_SYNIC, HYPERV),
    (k::KVM_CAP_HYPERV_SYNIC2, HYPERV),
    (k::KVM_CAP_HYPERV_VP_INDEX, HYPERV),
    (k::KVM_CAP_HYPERV_EVENTFD, HYPERV),
    (k::KVM_CAP_HYPERV_TLBFLUSH, HYPERV),
    (k::KVM_CAP_HYPERV_SEND_IPI, HYPERV),
    (k::KVM_CAP_HYPERV_ENLIGHTENED_VMCS, HYPERV),
    (k::KVM_CAP_HYPERV_CPUID, HYPERV),
    (k::KVM_CAP_SYS_HYPERV_CPUID, HYPERV),
    (k::KVM_CAP_HYPERV_DIRECT_TLBFLUSH, HYPERV),
    (k::KVM_CAP_HYPERV_ENFORCE_CPUID, HYPERV),
    (
        k::KVM_CAP_IRQFD_RESAMPLE,
        "for passed-through devices, which reach memory around the engine",
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
        k::KVM_CAP_XEN_HVM,
        "kvmclock is hidden: one TSC over all nodes",
    ),
    (k::KVM_CAP_HYPERV_TIME, HYPERV),
    (k::KVM_CAP_TSC_CONTROL, TSC_RATE),
    (k::KVM_CAP_VM_TSC_CONTROL, TSC_RATE),
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
    (
        k::KVM_CAP_DEVICE_CTRL,
        "a device inside KVM belongs to one node",
    ),
    (k::KVM_CAP_PMU_EVENT_FILTER, "would hold on one node only"),
    (
        k::KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
        "memory of protected guests cannot travel",
    ),
    (
        k::KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
        "memory of protected guests cannot travel",
    ),
];

/// What a machine of `vcpus` vCPUs over all its nodes answers, given the kernel's answer on the head.
///
/// The kernel recommends and limits by what one host has. Here every node runs its own share, and the plan of the machine
/// has been checked when QEMU asks; a node that cannot run its share says so when the vCPU is made.
#[must_use]
pub fn answer(capability: u32, kernel: i32, vcpus: usize) -> i32 {
    if hidden(capability).is_some() {
        return 0;
    }
    match capability {
        k::KVM_CAP_NR_VCPUS | k::KVM_CAP_MAX_VCPUS => {
            kernel.max(i32::try_from(vcpus).unwrap_or(i32::MAX))
        }
        _ => kernel,
    }
}

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
            k::KVM_CAP_IOEVENTFD_ANY_LENGTH,
            // Newer QEMUs do not start without these; kvmclock itself is hidden from the guest by CPUID.
            k::KVM_CAP_IRQFD,
            k::KVM_CAP_ADJUST_CLOCK,
            k::KVM_CAP_SET_TSS_ADDR,
            k::KVM_CAP_EXT_CPUID,
            k::KVM_CAP_DEBUGREGS,
            k::KVM_CAP_XSAVE,
            k::KVM_CAP_VCPU_EVENTS,
            k::KVM_CAP_X86_ROBUST_SINGLESTEP,
            k::KVM_CAP_MCE,
            k::KVM_CAP_SET_IDENTITY_MAP_ADDR,
            k::KVM_CAP_SIGNAL_MSI,
            k::KVM_CAP_IRQ_ROUTING,
            k::KVM_CAP_MP_STATE,
            k::KVM_CAP_XSAVE2,
        ] {
            assert_eq!(hidden(needed), None);
        }
        assert!(hidden(k::KVM_CAP_GUEST_MEMFD).is_some());
    }

    #[test]
    fn a_giant_machine_is_within_its_limits() {
        assert_eq!(answer(k::KVM_CAP_NR_VCPUS, 2, 48), 48);
        assert_eq!(answer(k::KVM_CAP_NR_VCPUS, 64, 48), 64);
        assert_eq!(answer(k::KVM_CAP_MAX_VCPUS, 288, 300), 300);
        // Ids are limited on every node alike.
        assert_eq!(answer(k::KVM_CAP_MAX_VCPU_ID, 1023, 2000), 1023);
        assert_eq!(answer(k::KVM_CAP_GUEST_MEMFD, 1, 4), 0);
        assert_eq!(answer(k::KVM_CAP_XSAVE2, 11008, 4), 11008);
    }

    #[test]
    fn nothing_is_hidden_twice() {
        for (index, (number, _)) in HIDDEN.iter().enumerate() {
            assert!(HIDDEN[..index].iter().all(|(other, _)| other != number));
        }
    }
}
