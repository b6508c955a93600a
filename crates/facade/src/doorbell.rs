//! `KVM_IOEVENTFD`: a guest write that only signals an eventfd. The kernel does it for this node's vCPUs; a worker's vCPU sends
//! the number of the bell and runs on, without a round trip.

use crate::entry::kernel;
use crate::fail;
use crate::vm::Vm;
use lev_kvmabi::bindings as k;
use lev_kvmabi::ioctl;
use lev_mesh::message::{control, DoorbellMessage};
use lev_vcpu::Doorbell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

const DATAMATCH: u32 = 1;
const PORT: u32 = 2;
const DEASSIGN: u32 = 4;

/// The registered eventfds.
#[derive(Default)]
pub struct Doorbells {
    bells: Mutex<(u32, Vec<(Doorbell, OwnedFd)>)>,
}

impl Doorbells {
    /// Registers or removes one.
    ///
    /// # Safety
    /// `argument` points to a `kvm_ioeventfd`.
    pub unsafe fn change(&self, vm: &Vm, argument: usize) -> Result<i32, i32> {
        // SAFETY: the caller's contract.
        let request = unsafe { *(argument as *const k::kvm_ioeventfd) };
        // SAFETY: as above.
        let result = unsafe { kernel(vm.fd, ioctl::IOEVENTFD, argument)? };
        if vm.workers().is_empty() {
            return Ok(result);
        }
        let mut guard = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, bells) = &mut *guard;
        let bell = Doorbell {
            index: *next,
            address: request.addr,
            len: request.len,
            value: (request.flags & DATAMATCH != 0).then_some(request.datamatch),
            port: request.flags & PORT != 0,
        };
        if request.flags & DEASSIGN != 0 {
            bells.retain(|(old, _)| {
                (Doorbell {
                    index: bell.index,
                    ..*old
                }) != bell
            });
        } else {
            // The eventfd is QEMU's and may be closed before it is removed here: keep our own descriptor.
            // SAFETY: F_DUPFD_CLOEXEC on a descriptor that the kernel has just accepted.
            let own = unsafe { libc::fcntl(request.fd, libc::F_DUPFD_CLOEXEC, 0) };
            if own < 0 {
                return Err(libc::EMFILE);
            }
            // SAFETY: a new descriptor.
            bells.push((bell, unsafe { OwnedFd::from_raw_fd(own) }));
            *next += 1;
        }
        let list: Vec<DoorbellMessage> = bells.iter().map(|(bell, _)| bell.into()).collect();
        drop(guard);
        match serde_json::to_vec(&list) {
            Ok(bytes) => vm.tell_all("doorbells", control::DOORBELLS, &[&bytes]),
            Err(error) => fail::say(&format!("doorbells: {error}")),
        }
        Ok(result)
    }

    /// A worker's guest code rang.
    pub fn ring(&self, index: u64) {
        let guard = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fd)) = guard
            .1
            .iter()
            .find(|(bell, _)| u64::from(bell.index) == index)
        {
            let one = 1u64;
            // SAFETY: eight bytes to an eventfd.
            unsafe { libc::write(fd.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
        }
    }
}
