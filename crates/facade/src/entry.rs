//! From an ioctl to whoever answers it.

use crate::table::{self, Object};
use crate::{set_up, vm, vm_calls};
use lev_kvmabi::bindings as k;
use lev_kvmabi::{capability, cpuid, ioctl, os};

/// errno of a failed system call.
pub fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Passes a call to the kernel.
///
/// # Safety
/// `argument` is what `request` expects.
pub unsafe fn kernel(fd: i32, request: u32, argument: usize) -> Result<i32, i32> {
    // SAFETY: the caller's contract.
    unsafe { os::ioctl(fd, request, argument) }.map_err(|error| errno(&error))
}

/// Answers a KVM ioctl on any descriptor.
///
/// # Safety
/// `argument` is what `request` expects.
pub unsafe fn kvm_call(fd: i32, request: u32, argument: usize) -> Result<i32, i32> {
    // SAFETY: the caller's contract is passed on in every arm.
    unsafe {
        match table::get(fd) {
            Some(Object::Local(vcpu)) => vcpu.call(request, argument),
            Some(Object::Remote(vcpu)) => vcpu.call(request, argument),
            Some(Object::Vm) => vm_calls::call(fd, request, argument),
            None => system_call(fd, request, argument),
        }
    }
}

/// Calls on `/dev/kvm` itself.
unsafe fn system_call(fd: i32, request: u32, argument: usize) -> Result<i32, i32> {
    match request {
        ioctl::CREATE_VM if vm::current().is_none() => set_up::create_vm(fd, argument),
        ioctl::CHECK_EXTENSION => check_extension(fd, argument),
        ioctl::GET_SUPPORTED_CPUID => {
            // SAFETY: the caller's contract; afterwards `nent` entries are filled.
            unsafe {
                let result = kernel(fd, request, argument)?;
                filter_cpuid(argument);
                Ok(result)
            }
        }
        // SAFETY: the caller's contract.
        _ => unsafe { kernel(fd, request, argument) },
    }
}

/// The kernel's answer, as far as it holds for all nodes.
pub fn check_extension(fd: i32, argument: usize) -> Result<i32, i32> {
    // SAFETY: CHECK_EXTENSION takes a number.
    let answer = unsafe { kernel(fd, ioctl::CHECK_EXTENSION, argument)? };
    let vcpus = vm::current().map_or(0, |vm| vm.fabric.vcpus());
    Ok(capability::answer(argument as u32, answer, vcpus))
}

/// # Safety
/// `argument` points to a `kvm_cpuid2` that the kernel has just filled.
unsafe fn filter_cpuid(argument: usize) {
    // SAFETY: the kernel wrote `nent` entries behind the header, in QEMU's own buffer.
    let entries = unsafe {
        let count = (*(argument as *const k::kvm_cpuid2)).nent as usize;
        std::slice::from_raw_parts_mut((argument + 8) as *mut k::kvm_cpuid_entry2, count)
    };
    cpuid::filter(entries);
}
