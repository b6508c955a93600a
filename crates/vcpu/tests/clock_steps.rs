//! Two vCPUs of one node hand a lock to each other and compare time-stamp counters, while the clock is stepped forward: what
//! one reads is never behind what the other read before. Needs KVM that offsets the counter (a paravirtual one does not); says
//! so and passes without.

use kvm_bindings as k;
use lev_kvmabi::run_page::RunPage;
use lev_kvmabi::{ioctl, os};
use lev_vcpu::{kick, Caller, Fabric, MpState, Outcome, Runner, Vcpu};
use lev_wire::NodeId;
use std::arch::global_asm;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MEMORY: usize = 0x10000;
const CODE: usize = 0x8000;
/// Words of the guest: lock, errors, stop, then the rounds of each vCPU and the last reading.
const LOCK: usize = 0x6000;
const ERRORS: usize = 0x6008;
const STOP: usize = 0x6010;
const ROUNDS: usize = 0x6020;
const LAST: usize = 0x6040;

/// A step that no hand-off can hide: some milliseconds.
const STEP: u64 = 30_000_000;
const STEPS: u64 = 60;

global_asm!(
    r#"
    .section .rodata.lev_clock, "a"
    .globl lev_clock_start
    .globl lev_clock_end
    lev_clock_start:
    2:  movl $1, %eax
        xchgl %eax, {lock}
        testl %eax, %eax
        jz 3f
        pause
        jmp 6f
    3:  lfence
        rdtsc
        shlq $32, %rdx
        orq %rdx, %rax
        cmpq {last}, %rax
        jae 4f
        incq {errors}
    4:  movq %rax, {last}
        incq (%rdi)
        movl $0, {lock}
        # Lets the other one have it.
        movl $50, %ecx
    5:  pause
        decl %ecx
        jnz 5b
    6:  cmpl $0, {stop}
        je 2b
        outb %al, $0x10
    7:  jmp 7b
    lev_clock_end:
    .text
    "#,
    lock = const LOCK,
    last = const LAST,
    errors = const ERRORS,
    stop = const STOP,
    options(att_syntax)
);

extern "C" {
    static lev_clock_start: u8;
    static lev_clock_end: u8;
}

struct Guest {
    memory: *mut u8,
    _vm: OwnedFd,
    vcpus: Vec<(Arc<Vcpu>, OwnedFd)>,
}

fn call(fd: &impl AsRawFd, request: u32, argument: usize) -> io::Result<OwnedFd> {
    // SAFETY: only for calls that take a number and give a new descriptor.
    unsafe {
        Ok(OwnedFd::from_raw_fd(os::ioctl(
            fd.as_raw_fd(),
            request,
            argument,
        )?))
    }
}

fn map(len: usize, fd: i32) -> io::Result<*mut u8> {
    let flags = if fd < 0 {
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
    } else {
        libc::MAP_SHARED
    };
    // SAFETY: a fresh mapping, never unmapped.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            fd,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(memory.cast())
}

impl Guest {
    fn new() -> io::Result<Self> {
        let device = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")?;
        let vm = call(&device, ioctl::CREATE_VM, 0)?;
        let memory = map(MEMORY, -1)?;
        // SAFETY: all inside the mapping: page tables for the first 2 MiB, and the code between its two labels.
        unsafe {
            memory.add(0x1000).cast::<u64>().write(0x2003);
            memory.add(0x2000).cast::<u64>().write(0x3003);
            memory.add(0x3000).cast::<u64>().write(0x83);
            let start = std::ptr::addr_of!(lev_clock_start);
            let len = std::ptr::addr_of!(lev_clock_end) as usize - start as usize;
            std::ptr::copy_nonoverlapping(start, memory.add(CODE), len);
        }
        let mut region = k::kvm_userspace_memory_region {
            memory_size: MEMORY as u64,
            userspace_addr: memory as u64,
            ..Default::default()
        };
        // SAFETY: the region describes the mapping.
        unsafe { os::ioctl_with(vm.as_raw_fd(), ioctl::SET_USER_MEMORY_REGION, &mut region)? };
        let vcpus = (0..2).map(|id| -> io::Result<_> {
            let fd = call(&vm, ioctl::CREATE_VCPU, id)?;
            // SAFETY: GET_VCPU_MMAP_SIZE takes nothing.
            let len = unsafe { os::ioctl(device.as_raw_fd(), ioctl::GET_VCPU_MMAP_SIZE, 0)? };
            let base = map(len as usize, fd.as_raw_fd())?;
            // SAFETY: mapped just now, never unmapped.
            let page = unsafe { RunPage::new(base, len as usize) };
            enter_long_mode(&fd, ROUNDS + 8 * id)?;
            Ok((Arc::new(Vcpu::new(id as u32, fd.as_raw_fd(), page)), fd))
        });
        Ok(Self {
            memory,
            vcpus: vcpus.collect::<io::Result<_>>()?,
            _vm: vm,
        })
    }

    fn word(&self, at: usize) -> u64 {
        // SAFETY: an aligned word inside the mapping; the guest may write it.
        unsafe { self.memory.add(at).cast::<u64>().read_volatile() }
    }

    fn stop(&self) {
        // SAFETY: as in `word`.
        unsafe { self.memory.add(STOP).cast::<u64>().write_volatile(1) }
    }
}

fn enter_long_mode(vcpu: &OwnedFd, rounds: usize) -> io::Result<()> {
    let mut sregs = k::kvm_sregs::default();
    let mut regs = k::kvm_regs {
        rip: CODE as u64,
        rdi: rounds as u64,
        rsp: 0x7ff0,
        rflags: 2,
        ..Default::default()
    };
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
    // SAFETY: the calls take exactly these structures.
    unsafe {
        os::ioctl_with(vcpu.as_raw_fd(), ioctl::GET_SREGS, &mut sregs)?;
        (sregs.cr3, sregs.cr4) = (0x1000, 0x20);
        (sregs.cr0, sregs.efer) = (0x8000_0011, 0x500);
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

#[test]
fn a_step_is_never_seen_on_one_vcpu_before_the_other_has_it() {
    kick::install().unwrap();
    let guest = match Guest::new() {
        Ok(guest) => guest,
        Err(error) => {
            println!("skipped: no KVM here: {error}");
            return;
        }
    };
    let fabric = Fabric::new(NodeId::HEAD, vec![NodeId::HEAD; 2]);
    let mut offset = 0;
    assert!(fabric.set_clock(offset));
    for (vcpu, _) in &guest.vcpus {
        vcpu.set_mp_state(MpState::Runnable);
        assert!(fabric.add(Arc::clone(vcpu)));
    }
    std::thread::scope(|scope| {
        for (vcpu, _) in &guest.vcpus {
            let fabric = &fabric;
            scope.spawn(move || {
                let mut runner = Runner::for_this_thread(vcpu).unwrap();
                let outcome = runner.run(vcpu, fabric, Caller::Remote(1));
                assert_eq!(outcome, Outcome::Exit);
                assert_eq!(vcpu.page.exit_reason(), k::KVM_EXIT_IO);
            });
        }
        let rounds = || [guest.word(ROUNDS), guest.word(ROUNDS + 8)];
        let mut before = [0, 0];
        for _ in 0..STEPS {
            // Both get somewhere between two steps.
            let end = Instant::now() + Duration::from_secs(5);
            while rounds()
                .iter()
                .zip(before)
                .any(|(now, then)| *now < then + 20)
            {
                assert!(Instant::now() < end, "{before:?} {:?}", rounds());
                std::thread::sleep(Duration::from_micros(200));
            }
            before = rounds();
            offset += STEP;
            assert!(fabric.set_clock(offset));
        }
        assert!(!fabric.set_clock(offset - 1), "backwards");
        guest.stop();
    });
    println!(
        "{} and {} rounds",
        guest.word(ROUNDS),
        guest.word(ROUNDS + 8)
    );
    let shown = guest.word(LAST).wrapping_sub(lev_vcpu::clock::host_tsc());
    if (shown as i64) < (offset / 2) as i64 {
        println!("skipped: KVM here does not offset the counter");
        return;
    }
    let overlaps: u64 = guest
        .vcpus
        .iter()
        .flat_map(|(vcpu, _)| vcpu.stats.named())
        .filter_map(|(name, count)| (name == "clock_overlaps").then_some(count))
        .sum();
    assert!(
        guest.word(ERRORS) <= overlaps,
        "{} hand-offs went back, {overlaps} waits were given up",
        guest.word(ERRORS)
    );
}
