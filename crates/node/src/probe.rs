//! What this host can do, found out by doing it: a device file that opens proves nothing.

use lev_kvmabi::bindings as k;
use lev_kvmabi::run_page::RunPage;
use lev_kvmabi::{ioctl, os};
use serde_json::json;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const MEMORY: usize = 64 * 1024;
const MARK: u64 = 0x1e71_a7a4_2026_0001;

/// The whole report as one line of JSON. `kvm` and `userfaultfd` are null when they work, else the reason.
pub fn report() -> String {
    let kvm = run_a_guest();
    let (tsc_khz, kvm_error) = match &kvm {
        Ok(khz) => (*khz, None),
        Err(reason) => (0, Some(reason.as_str())),
    };
    let userfaultfd = lev_uffd::Uffd::open().err().map(|error| error.to_string());
    json!({
        "kvm": kvm_error,
        "userfaultfd": userfaultfd,
        "tsc_khz": tsc_khz,
        "version": env!("CARGO_PKG_VERSION"),
    })
    .to_string()
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a descriptor that KVM has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs a few instructions in 64-bit mode; returns the rate of the time-stamp counter in kHz.
fn run_a_guest() -> Result<u32, String> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                "/dev/kvm is missing: no hardware virtualization, or module kvm_intel/kvm_amd not loaded".to_owned()
            }
            std::io::ErrorKind::PermissionDenied => {
                "no permission for /dev/kvm: add yourself to group kvm".to_owned()
            }
            _ => format!("/dev/kvm: {error}"),
        }
    })?;
    let failed = |step: &'static str| {
        move |error: std::io::Error| format!("KVM does not work: {step}: {error}")
    };
    // SAFETY: CREATE_VM and CREATE_VCPU take numbers.
    let vm = owned(
        unsafe { os::ioctl(device.as_raw_fd(), ioctl::CREATE_VM, 0) }
            .map_err(failed("create VM"))?,
    );
    let memory = guest_memory(&vm).map_err(failed("memory slot"))?;
    // SAFETY: as above.
    let vcpu = owned(
        unsafe { os::ioctl(vm.as_raw_fd(), ioctl::CREATE_VCPU, 0) }
            .map_err(failed("create vCPU"))?,
    );
    let page = map_run_page(device.as_raw_fd(), &vcpu).map_err(failed("map kvm_run"))?;
    enter_long_mode(&vcpu).map_err(failed("set registers"))?;
    // SAFETY: KVM_RUN and GET_TSC_KHZ take no argument.
    unsafe { os::ioctl(vcpu.as_raw_fd(), ioctl::RUN, 0) }.map_err(failed("run 64-bit code"))?;
    if page.exit_reason() != k::KVM_EXIT_HLT {
        return Err(format!(
            "KVM does not run 64-bit code here (exit {}): a paravirtual KVM, or broken nesting",
            page.exit_reason()
        ));
    }
    // SAFETY: inside the mapping made by `guest_memory`; the guest has stopped.
    let written = unsafe { memory.add(0x5000).cast::<u64>().read_volatile() };
    if written != MARK {
        return Err(format!("KVM ran 64-bit code wrongly: wrote {written:#x}"));
    }
    // SAFETY: as above.
    let khz = unsafe { os::ioctl(vcpu.as_raw_fd(), ioctl::GET_TSC_KHZ, 0) }.unwrap_or(0);
    Ok(khz as u32)
}

fn guest_memory(vm: &OwnedFd) -> std::io::Result<*mut u8> {
    // SAFETY: a fresh private mapping.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            MEMORY,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let memory = memory.cast::<u8>();
    // mov rax, MARK; mov [0x5000], rax; hlt
    let mut code = vec![0x48, 0xb8];
    code.extend_from_slice(&MARK.to_le_bytes());
    code.extend_from_slice(&[0x48, 0x89, 0x04, 0x25, 0x00, 0x50, 0x00, 0x00, 0xf4]);
    // Page tables at 0x1000, 0x2000, 0x3000: the first 2 MiB mapped onto themselves by one large page.
    // SAFETY: all places lie inside the 64 KiB mapping.
    unsafe {
        memory.add(0x1000).cast::<u64>().write(0x2003);
        memory.add(0x2000).cast::<u64>().write(0x3003);
        memory.add(0x3000).cast::<u64>().write(0x83);
        std::ptr::copy_nonoverlapping(code.as_ptr(), memory.add(0x4000), code.len());
    }
    let mut region = k::kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory as u64,
    };
    // SAFETY: the region describes the mapping, which is never unmapped.
    unsafe { os::ioctl_with(vm.as_raw_fd(), ioctl::SET_USER_MEMORY_REGION, &mut region)? };
    Ok(memory)
}

/// Maps a vCPU's shared page for the life of the process.
pub fn map_run_page(device: i32, vcpu: &OwnedFd) -> std::io::Result<RunPage> {
    // SAFETY: GET_VCPU_MMAP_SIZE takes no argument.
    let len = unsafe { os::ioctl(device, ioctl::GET_VCPU_MMAP_SIZE, 0)? } as usize;
    // SAFETY: a fresh shared mapping of the vCPU's descriptor.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            vcpu.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `len` bytes are mapped and never unmapped.
    Ok(unsafe { RunPage::new(base.cast(), len) })
}

fn enter_long_mode(vcpu: &OwnedFd) -> std::io::Result<()> {
    let mut sregs = k::kvm_sregs::default();
    let mut regs = k::kvm_regs {
        rip: 0x4000,
        rsp: 0x8000,
        rflags: 2,
        ..Default::default()
    };
    // SAFETY: the calls take exactly these structures.
    unsafe {
        os::ioctl_with(vcpu.as_raw_fd(), ioctl::GET_SREGS, &mut sregs)?;
        sregs.cr3 = 0x1000;
        sregs.cr4 = 0x20;
        sregs.cr0 = 0x8000_0011;
        sregs.efer = 0x500;
        let flat = k::kvm_segment {
            limit: 0xffff_ffff,
            selector: 0x10,
            type_: 3,
            present: 1,
            s: 1,
            g: 1,
            db: 1,
            ..Default::default()
        };
        sregs.cs = k::kvm_segment {
            selector: 8,
            type_: 11,
            l: 1,
            db: 0,
            ..flat
        };
        (sregs.ds, sregs.es, sregs.ss) = (flat, flat, flat);
        os::ioctl_with(vcpu.as_raw_fd(), ioctl::SET_SREGS, &mut sregs)?;
        os::ioctl_with(vcpu.as_raw_fd(), ioctl::SET_REGS, &mut regs)?;
    }
    Ok(())
}
