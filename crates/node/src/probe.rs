//! What this host can do, found out by doing it: a device file that opens proves nothing.

use crate::probe_guest as guest;
use lev_kvmabi::bindings as k;
use lev_kvmabi::run_page::RunPage;
use lev_kvmabi::{ioctl, os};
use lev_vcpu::clock::{host_tsc, measure_khz, monotonic_ns};
use lev_vcpu::kick;
use serde_json::json;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Longest time that the probe's guest may take.
const LIMIT_NS: u64 = 3_000_000_000;
/// More exits than the guest can make in any order.
const MOST_EXITS: usize = 64;
/// Ticks that the guest's counter is set ahead: years.
const TSC_OFFSET: u64 = 1 << 60;
const NO_HARDWARE: &str = "the CPU offers no hardware virtualization (neither vmx nor svm)";

/// The whole report as one line of JSON. `kvm` and `userfaultfd` are null when they work, else the reason.
pub fn report() -> String {
    let kvm = probe_kvm();
    let (tsc_khz, kvm_error) = match &kvm {
        Ok(khz) => (*khz, None),
        Err(reason) => (measure_khz(), Some(reason.as_str())),
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

/// Whether KVM runs ordinary guests here; the rate of the time-stamp counter in kHz.
fn probe_kvm() -> Result<u32, String> {
    // A paravirtual KVM runs all instructions of the probe's guest and still no ordinary kernel; a real one needs one of two
    // flags.
    match (run_a_guest(), has_hardware()) {
        (Ok(khz), true) => Ok(khz),
        (Ok(_), false) => Err(format!(
            "{NO_HARDWARE}: a paravirtual KVM runs no ordinary guests"
        )),
        (Err(reason), true) => Err(reason),
        (Err(reason), false) => Err(format!("{reason}; {NO_HARDWARE}")),
    }
}

/// The processor has Intel's VMX or AMD's SVM. Source: Intel SDM volume 2A (CPUID, leaf 1), AMD APM volume 3 (appendix E.4).
fn has_hardware() -> bool {
    use std::arch::x86_64::__cpuid;
    // Newer compilers know this to be safe.
    #[allow(unused_unsafe)]
    // SAFETY: every 64-bit processor has CPUID and leaf 0x80000001.
    unsafe {
        __cpuid(1).ecx & 1 << 5 != 0 || __cpuid(0x8000_0001).ecx & 1 << 2 != 0
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a descriptor that KVM has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn failed(step: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("KVM does not work: {step}: {error}")
}

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
    let vendor = give_cpuid(&vcpu).map_err(failed("set CPUID"))?;
    start_in_real_mode(&vcpu).map_err(failed("set registers"))?;
    lev_vcpu::clock::set_tsc_offset(vcpu.as_raw_fd(), TSC_OFFSET)
        .map_err(|error| format!("KVM cannot set a vCPU's TSC offset (Linux 5.16): {error}"))?;
    run_to_the_end(&vcpu, &page)?;
    let word = |at: usize| {
        // SAFETY: inside the mapping made by `guest_memory`; the guest has stopped.
        unsafe { memory.add(at).cast::<u32>().read_volatile() }
    };
    let found = [0, 4, 8].map(|offset| word(guest::result::VENDOR + offset));
    let seen = (
        found == vendor,
        word(guest::result::READ) == guest::READ,
        word(guest::result::EXCEPTIONS) == 0x101,
    );
    if seen != (true, true, true) {
        return Err(format!(
            "KVM runs guests wrongly: CPUID {}, device register {}, exceptions {:#x} instead of 0x101",
            if seen.0 { "right" } else { "wrong" },
            if seen.1 { "right" } else { "wrong" },
            word(guest::result::EXCEPTIONS),
        ));
    }
    let clock =
        u64::from(word(guest::result::CLOCK)) | u64::from(word(guest::result::CLOCK + 4)) << 32;
    let lag = host_tsc().wrapping_add(TSC_OFFSET).wrapping_sub(clock);
    if lag > TSC_OFFSET / 2 {
        return Err(
            "KVM does not offset the guest's time-stamp counter: nodes could not show one clock"
                .to_owned(),
        );
    }
    check_kernel(&vm)
}

/// What nodes need of KVM beyond running a guest.
fn check_kernel(vm: &OwnedFd) -> Result<u32, String> {
    if !lev_vcpu::x2apic::enable(vm.as_raw_fd()) {
        return Err(
            "KVM cannot report invalid MSR accesses: Linux 5.10 or newer is needed".to_owned(),
        );
    }
    lev_mesh::host::tsc_khz(vm.as_raw_fd())
        .map_err(|error| format!("KVM cannot tell the TSC's rate (Linux 5.18): {error}"))
}

/// Runs the guest until it halts.
fn run_to_the_end(vcpu: &OwnedFd, page: &RunPage) -> Result<(), String> {
    let limit = || -> std::io::Result<kick::KickTimer> {
        kick::install()?;
        let mut timer = kick::KickTimer::for_this_thread()?;
        timer.set(Some(monotonic_ns() + LIMIT_NS));
        Ok(timer)
    };
    let _timer = limit().map_err(failed("timer"))?;
    let mut step = 0;
    let stuck = |step: usize, what: String| {
        let name = guest::STEPS.get(step).unwrap_or(&"?");
        Err(format!(
            "KVM does not run ordinary guests here: {what} at the step \"{name}\""
        ))
    };
    for _ in 0..MOST_EXITS {
        // SAFETY: KVM_RUN takes no argument.
        if let Err(error) = unsafe { os::ioctl(vcpu.as_raw_fd(), ioctl::RUN, 0) } {
            let what = match error.raw_os_error() {
                Some(libc::EINTR) => format!("no end within {} s", LIMIT_NS / 1_000_000_000),
                _ => error.to_string(),
            };
            return stuck(step, what);
        }
        match page.exit_reason() {
            k::KVM_EXIT_HLT if step == guest::STEPS.len() - 1 => return Ok(()),
            k::KVM_EXIT_IO => step = progress(page).unwrap_or(step),
            k::KVM_EXIT_MMIO if page.mmio_exit().address == guest::REGISTER => {
                let access = page.mmio_exit();
                if !access.write {
                    let mut data = [0; 8];
                    data[..4].copy_from_slice(&guest::READ.to_le_bytes());
                    page.set_mmio_data(data);
                } else if access.data[..4] != guest::WRITTEN.to_le_bytes() {
                    return stuck(step, format!("write of {:02x?}", access.data));
                }
            }
            reason => {
                let name = lev_vcpu::stats::exit_name(reason as usize);
                return stuck(step, format!("exit {reason} ({name})"));
            }
        }
    }
    stuck(step, format!("more than {MOST_EXITS} exits"))
}

/// The number of the step that the guest has begun, if the exit says so.
fn progress(page: &RunPage) -> Option<usize> {
    let exit = page.port_exit();
    let range = page.port_data_range().filter(|range| range.len() == 1)?;
    let mut number = [0];
    page.copy_out(range.start, &mut number);
    (exit.out && exit.port == guest::PORT).then_some(usize::from(number[0]))
}

fn guest_memory(vm: &OwnedFd) -> std::io::Result<*mut u8> {
    // SAFETY: a fresh private mapping.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            guest::MEMORY,
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
    let contents = guest::memory();
    // SAFETY: the mapping has exactly so many bytes.
    unsafe { std::ptr::copy_nonoverlapping(contents.as_ptr(), memory, contents.len()) };
    let mut region = k::kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: guest::MEMORY as u64,
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

/// Gives the vCPU all that this node's KVM offers; the vendor's three words in the guest's order (EBX, EDX, ECX).
fn give_cpuid(vcpu: &OwnedFd) -> std::io::Result<[u32; 3]> {
    #[repr(C)]
    struct Leaves {
        count: u32,
        padding: u32,
        entries: [k::kvm_cpuid_entry2; lev_vcpu::call::MAX_CPUID],
    }
    let supported = lev_vcpu::call::supported_cpuid()?;
    let mut leaves = Box::new(Leaves {
        count: supported.len() as u32,
        padding: 0,
        entries: [k::kvm_cpuid_entry2::default(); lev_vcpu::call::MAX_CPUID],
    });
    leaves.entries[..supported.len()].copy_from_slice(&supported);
    // SAFETY: SET_CPUID2 takes a count and that many entries.
    unsafe { os::ioctl_with(vcpu.as_raw_fd(), ioctl::SET_CPUID2, &mut *leaves)? };
    let vendor = supported.iter().find(|leaf| leaf.function == 0);
    Ok(vendor.map_or([0; 3], |leaf| [leaf.ebx, leaf.edx, leaf.ecx]))
}

/// The state after reset, with the code segment where the guest's code is.
fn start_in_real_mode(vcpu: &OwnedFd) -> std::io::Result<()> {
    let mut sregs = k::kvm_sregs::default();
    let mut regs = k::kvm_regs {
        rflags: 2,
        ..Default::default()
    };
    // SAFETY: the calls take exactly these structures.
    unsafe {
        os::ioctl_with(vcpu.as_raw_fd(), ioctl::GET_SREGS, &mut sregs)?;
        sregs.cs.base = guest::BASE as u64;
        sregs.cs.selector = (guest::BASE >> 4) as u16;
        os::ioctl_with(vcpu.as_raw_fd(), ioctl::SET_SREGS, &mut sregs)?;
        os::ioctl_with(vcpu.as_raw_fd(), ioctl::SET_REGS, &mut regs)?;
    }
    Ok(())
}
