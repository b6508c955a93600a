//! Counters of one vCPU: plain relaxed atomics, read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Exit reasons that are counted one by one; larger ones share the last slot.
pub const REASONS: usize = 64;

/// What happened on one vCPU.
#[derive(Debug)]
pub struct Stats {
    /// `KVM_RUN` returns by `KVM_EXIT_…` number.
    pub exits: [AtomicU64; REASONS],
    /// `KVM_RUN` interrupted by a signal.
    pub interrupted: AtomicU64,
    /// Exits that QEMU had to see.
    pub to_qemu: AtomicU64,
    /// Local APIC accesses: reads.
    pub apic_reads: AtomicU64,
    /// Local APIC accesses: writes.
    pub apic_writes: AtomicU64,
    /// Ends of interrupt.
    pub eois: AtomicU64,
    /// Inter-processor interrupts sent (commands, not targets).
    pub ipis_sent: AtomicU64,
    /// Interrupts accepted from anywhere.
    pub accepted: AtomicU64,
    /// Interrupts injected into the guest.
    pub injected: AtomicU64,
    /// Local timer expiries that raised an interrupt.
    pub timer: AtomicU64,
    /// Kick signals sent to the thread.
    pub kicks: AtomicU64,
    /// Guest doorbell writes answered without QEMU.
    pub doorbells: AtomicU64,
    /// Clock steps taken while another vCPU of the node was still in the guest with the old setting.
    pub clock_overlaps: AtomicU64,
    /// Nanoseconds inside `KVM_RUN`.
    pub run_ns: AtomicU64,
    /// Nanoseconds asleep because the guest halted (or has not started).
    pub halted_ns: AtomicU64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            exits: [const { AtomicU64::new(0) }; REASONS],
            interrupted: AtomicU64::new(0),
            to_qemu: AtomicU64::new(0),
            apic_reads: AtomicU64::new(0),
            apic_writes: AtomicU64::new(0),
            eois: AtomicU64::new(0),
            ipis_sent: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            timer: AtomicU64::new(0),
            kicks: AtomicU64::new(0),
            doorbells: AtomicU64::new(0),
            clock_overlaps: AtomicU64::new(0),
            run_ns: AtomicU64::new(0),
            halted_ns: AtomicU64::new(0),
        }
    }
}

/// Adds one.
pub fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Adds `amount`.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Stats {
    /// Counts one `KVM_EXIT_…`.
    pub fn exit(&self, reason: u32) {
        bump(&self.exits[(reason as usize).min(REASONS - 1)]);
    }

    /// Non-zero exits by name.
    #[must_use]
    pub fn exits_by_name(&self) -> Vec<(&'static str, u64)> {
        (0..REASONS)
            .filter_map(|reason| {
                let count = self.exits[reason].load(Ordering::Relaxed);
                (count > 0).then(|| (exit_name(reason), count))
            })
            .collect()
    }

    /// The other counters by name.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        [
            ("interrupted", &self.interrupted),
            ("to_qemu", &self.to_qemu),
            ("apic_reads", &self.apic_reads),
            ("apic_writes", &self.apic_writes),
            ("eois", &self.eois),
            ("ipis_sent", &self.ipis_sent),
            ("accepted", &self.accepted),
            ("injected", &self.injected),
            ("timer", &self.timer),
            ("kicks", &self.kicks),
            ("doorbells", &self.doorbells),
            ("clock_overlaps", &self.clock_overlaps),
            ("run_ns", &self.run_ns),
            ("halted_ns", &self.halted_ns),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .to_vec()
    }
}

/// Name of a `KVM_EXIT_…` number as reports show it.
#[must_use]
pub fn exit_name(reason: usize) -> &'static str {
    match reason {
        0 => "unknown",
        1 => "exception",
        2 => "pio",
        3 => "hypercall",
        4 => "debug",
        5 => "hlt",
        6 => "mmio",
        7 => "interrupt_window",
        8 => "shutdown",
        9 => "fail_entry",
        10 => "signal",
        11 => "set_tpr",
        12 => "tpr_access",
        16 => "nmi",
        17 => "internal_error",
        24 => "system_event",
        26 => "ioapic_eoi",
        29 => "rdmsr",
        30 => "wrmsr",
        33 => "bus_lock",
        37 => "notify",
        39 => "memory_fault",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_reasons_do_not_overflow_the_table() {
        let stats = Stats::default();
        stats.exit(5);
        stats.exit(u32::MAX);
        assert_eq!(stats.exits_by_name(), [("hlt", 1), ("other", 1)]);
    }
}
