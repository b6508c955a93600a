//! Interrupt lines to messages (`KVM_SET_GSI_ROUTING`): QEMU's I/O APIC and its MSI-X devices keep this table.

use crate::vm::Vm;
use lev_apic::Interrupt;
use lev_kvmabi::bindings as k;
use std::sync::{PoisonError, RwLock};

/// Most routes that KVM accepts (`KVM_MAX_IRQ_ROUTES`).
const MAX_ROUTES: usize = 4096;

/// The routing table.
#[derive(Default)]
pub struct Routes {
    entries: RwLock<Vec<(u32, Interrupt)>>,
}

impl Routes {
    /// Replaces the table.
    ///
    /// # Safety
    /// `argument` points to a `kvm_irq_routing` with all its entries.
    pub unsafe fn set(&self, argument: usize) -> Result<i32, i32> {
        // SAFETY: the header is there; `nr` entries of 48 bytes follow it.
        let entries = unsafe {
            let count = (*(argument as *const k::kvm_irq_routing)).nr as usize;
            if count > MAX_ROUTES {
                return Err(libc::EINVAL);
            }
            std::slice::from_raw_parts((argument + 8) as *const k::kvm_irq_routing_entry, count)
        };
        let table = entries
            .iter()
            .filter(|entry| entry.type_ == k::KVM_IRQ_ROUTING_MSI)
            .filter_map(|entry| {
                // SAFETY: `type_` says that the union holds a message.
                let msi = unsafe { entry.u.msi };
                Some((
                    entry.gsi,
                    Interrupt::from_msi(message_address(msi.address_lo), msi.data)?,
                ))
            });
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = table.collect();
        Ok(0)
    }

    /// Raises a line. A message has no level to take back, so lowering does nothing.
    pub fn line(&self, vm: &Vm, line: u32, level: bool) -> i32 {
        if !level {
            return 1;
        }
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut delivered = 0;
        for (_, interrupt) in entries.iter().filter(|(gsi, _)| *gsi == line) {
            delivered += vm.fabric.deliver(interrupt, None);
        }
        i32::from(delivered > 0)
    }
}

/// The address as a device writes it. KVM looks at the low 20 bits only, and QEMU passes on no more than the offset in the
/// APIC page for messages that its devices write.
fn message_address(low: u32) -> u64 {
    0xfee0_0000 | u64::from(low & 0xf_ffff)
}

/// Sends a message (`KVM_SIGNAL_MSI`); 1 if a local APIC took it.
pub fn signal_msi(vm: &Vm, msi: &k::kvm_msi) -> i32 {
    let delivered = Interrupt::from_msi(message_address(msi.address_lo), msi.data)
        .map_or(0, |interrupt| vm.fabric.deliver(&interrupt, None));
    i32::from(delivered > 0)
}
