//! ioctls on the VM's descriptor.

use crate::entry::{check_extension, errno, kernel};
use crate::fail::{die, NOT_STARTED};
use crate::local_vcpu::LocalVcpu;
use crate::remote_vcpu::RemoteVcpu;
use crate::routes::signal_msi;
use crate::set_up::{anonymous_file, open_vcpu};
use crate::table::{self, Object};
use crate::vm::{self, Vm};
use lev_kvmabi::bindings as k;
use lev_kvmabi::ioctl;
use lev_kvmabi::run_page::RunPage;
use lev_mesh::message::control;
use lev_mesh::vm_frame::MsrFilter;
use lev_vcpu::Vcpu;
use lev_wire::NodeId;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

/// Devices and encrypted guests would reach memory or events behind the engine's back.
const REFUSED: [u32; 8] = [
    0xc00c_aee0, // KVM_CREATE_DEVICE
    0xc008_aeba, // KVM_MEMORY_ENCRYPT_OP
    0x8010_aebb, // KVM_MEMORY_ENCRYPT_REG_REGION
    0x4020_aed2, // KVM_SET_MEMORY_ATTRIBUTES
    0xc040_aed4, // KVM_CREATE_GUEST_MEMFD
    0xaec7,      // KVM_RESET_DIRTY_RINGS
    0x4020_aeb2, // KVM_SET_PMU_EVENT_FILTER
    0xaece,      // KVM_GET_STATS_FD
];

/// Answers an ioctl on the VM.
///
/// # Safety
/// `argument` is what `request` expects.
pub unsafe fn call(fd: i32, request: u32, argument: usize) -> Result<i32, i32> {
    let Some(vm) = vm::current() else {
        return Err(libc::ENXIO);
    };
    // SAFETY: in every arm the argument is of the type that the call's number stands for (caller's contract).
    unsafe {
        match request {
            ioctl::CHECK_EXTENSION => check_extension(fd, argument),
            ioctl::CREATE_VCPU => create_vcpu(vm, argument as u32),
            ioctl::SET_USER_MEMORY_REGION => vm
                .memory
                .set_slot(vm, *(argument as *const k::kvm_userspace_memory_region)),
            ioctl::GET_DIRTY_LOG => vm.memory.dirty_log(vm, argument),
            ioctl::CLEAR_DIRTY_LOG => vm.memory.clear_dirty_log(vm, argument),
            ioctl::ENABLE_CAP => enable(vm, argument),
            ioctl::SET_GSI_ROUTING => vm.routes.set(argument),
            ioctl::IRQ_LINE => {
                let level = *(argument as *const k::kvm_irq_level);
                vm.routes
                    .line(vm, level.__bindgen_anon_1.irq, level.level != 0);
                Ok(0)
            }
            ioctl::IRQ_LINE_STATUS => {
                let level = &mut *(argument as *mut k::kvm_irq_level);
                let line = level.__bindgen_anon_1.irq;
                level.__bindgen_anon_1.status = vm.routes.line(vm, line, level.level != 0);
                Ok(0)
            }
            ioctl::SIGNAL_MSI => Ok(signal_msi(vm, &*(argument as *const k::kvm_msi))),
            ioctl::IRQFD => vm.irqfds.change(&*(argument as *const k::kvm_irqfd), || {
                Box::new(|line| {
                    if let Some(vm) = vm::current() {
                        vm.routes.line(vm, line, true);
                    }
                })
            }),
            ioctl::IOEVENTFD => vm.doorbells.change(vm, argument),
            ioctl::SET_TSS_ADDR | ioctl::SET_BOOT_CPU_ID => {
                everywhere(vm, request, argument, &(argument as u64).to_le_bytes())
            }
            ioctl::SET_IDENTITY_MAP_ADDR => everywhere(
                vm,
                request,
                argument,
                &(*(argument as *const u64)).to_le_bytes(),
            ),
            ioctl::X86_SET_MSR_FILTER => msr_filter(vm, argument),
            ioctl::CREATE_IRQCHIP => die(
                NOT_STARTED,
                "QEMU asks for interrupt controllers inside KVM, which cannot span nodes",
                Some("start QEMU with -machine kernel-irqchip=split"),
            ),
            ioctl::CREATE_PIT2 | ioctl::SET_USER_MEMORY_REGION2 => Err(libc::ENOTTY),
            _ if REFUSED.contains(&request) => Err(libc::ENOTTY),
            _ => kernel(fd, request, argument),
        }
    }
}

/// A call without pointers, here and on every worker.
unsafe fn everywhere(vm: &Vm, request: u32, argument: usize, bytes: &[u8]) -> Result<i32, i32> {
    // SAFETY: the caller's contract.
    let result = unsafe { kernel(vm.fd, request, argument)? };
    vm.tell_all(
        "VM call",
        control::VM_CALL,
        &[&request.to_le_bytes(), bytes],
    );
    Ok(result)
}

unsafe fn enable(vm: &Vm, argument: usize) -> Result<i32, i32> {
    // SAFETY: ENABLE_CAP's argument (caller's contract).
    let capability = unsafe { &*(argument as *const k::kvm_enable_cap) };
    // The local APICs are ours and the other controllers QEMU's: for the kernel there is no interrupt controller.
    if capability.cap == k::KVM_CAP_SPLIT_IRQCHIP {
        return Ok(0);
    }
    if lev_kvmabi::capability::hidden(capability.cap).is_some() {
        return Err(libc::EINVAL);
    }
    // The x2APIC registers come as invalid MSR accesses, whatever else QEMU wants to see.
    let mut widened = *capability;
    if capability.cap == k::KVM_CAP_X86_USER_SPACE_MSR {
        widened.args[0] |= u64::from(k::KVM_MSR_EXIT_REASON_INVAL);
    }
    let argument = std::ptr::from_mut(&mut widened) as usize;
    // SAFETY: plain bytes of a structure without pointers.
    let bytes = unsafe {
        std::slice::from_raw_parts(
            argument as *const u8,
            std::mem::size_of::<k::kvm_enable_cap>(),
        )
    };
    // SAFETY: as above.
    unsafe { everywhere(vm, ioctl::ENABLE_CAP, argument, bytes) }
}

unsafe fn msr_filter(vm: &Vm, argument: usize) -> Result<i32, i32> {
    // SAFETY: X86_SET_MSR_FILTER's argument; each bitmap covers its range (caller's contract).
    unsafe {
        let result = kernel(vm.fd, ioctl::X86_SET_MSR_FILTER, argument)?;
        let filter = &*(argument as *const k::kvm_msr_filter);
        let mut told = MsrFilter {
            flags: filter.flags,
            ..MsrFilter::default()
        };
        for (told, range) in told.ranges.iter_mut().zip(&filter.ranges) {
            told.flags = range.flags;
            told.count = range.nmsrs;
            told.base = range.base;
            let bytes = (range.nmsrs as usize).div_ceil(8);
            if bytes > 0 {
                // The kernel has just read as many bytes there, or the call had failed.
                told.bits = std::slice::from_raw_parts(range.bitmap, bytes).to_vec();
            }
        }
        vm.tell_all("MSR filter", control::MSR_FILTER, &[&told.encode()]);
        Ok(result)
    }
}

/// Bytes of extended state (`KVM_CAP_XSAVE2`).
fn xsave_len(vm: &Vm) -> usize {
    check_extension(vm.fd, k::KVM_CAP_XSAVE2 as usize).map_or(4096, |len| (len as usize).max(4096))
}

fn create_vcpu(vm: &Vm, id: u32) -> Result<i32, i32> {
    let Some(owner) = vm.fabric.owner(id) else {
        die(
            NOT_STARTED,
            &format!("QEMU makes vCPU {id}, but the cluster description has none of that number"),
            Some("-smp must be the same in the cluster and on QEMU's command line"),
        );
    };
    // SAFETY: GET_VCPU_MMAP_SIZE takes no argument.
    let len = unsafe { kernel(vm.device, ioctl::GET_VCPU_MMAP_SIZE, 0)? } as usize;
    let (fd, object) = if owner == NodeId::HEAD {
        // SAFETY: CREATE_VCPU takes a number.
        let fd = unsafe { kernel(vm.fd, ioctl::CREATE_VCPU, id as usize)? };
        let vcpu = Arc::new(Vcpu::new(id, fd, map(fd, len)?));
        if !vm.fabric.add(Arc::clone(&vcpu)) {
            return Err(libc::EEXIST);
        }
        (fd, Object::Local(LocalVcpu::new(vcpu)))
    } else {
        let worker = &vm.workers()[owner.index() - 1];
        if let Err(error) = worker.ask(control::CREATE_VCPU, id as u16, &[]) {
            die(
                NOT_STARTED,
                &format!("vCPU {id} on {}: {error}", vm.name_of(owner)),
                None,
            );
        }
        let fd = anonymous_file(len as u64)
            .map_err(|error| errno(&error))?
            .into_raw_fd();
        let channel = open_vcpu(vm, owner, id);
        (
            fd,
            Object::Remote(RemoteVcpu::new(id, map(fd, len)?, xsave_len(vm), channel)),
        )
    };
    if table::insert(fd, object) {
        Ok(fd)
    } else {
        Err(libc::EMFILE)
    }
}

/// Our own view of a vCPU's page, for the life of the process.
fn map(fd: i32, len: usize) -> Result<RunPage, i32> {
    // SAFETY: a fresh shared mapping.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(errno(&std::io::Error::last_os_error()));
    }
    // SAFETY: `len` bytes are mapped and never unmapped.
    Ok(unsafe { RunPage::new(base.cast(), len) })
}
