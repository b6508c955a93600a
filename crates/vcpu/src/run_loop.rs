//! `KVM_RUN` with a local APIC in user space.
//!
//! Facts of KVM without an in-kernel interrupt controller that shape the loop (Linux, `arch/x86/kvm`): HLT leaves to
//! user space; `KVM_INTERRUPT` queues without any check, so it may be called only when the last exit said that the vCPU
//! is ready; `cr8` is in and out on every run; the APIC page is plain MMIO.

use crate::cell::{event, MpState, Vcpu};
use crate::clock::{monotonic_ns, set_tsc_offset};
use crate::fabric::Fabric;
use crate::stats::{add, bump};
use crate::{kick, reset};
use kvm_bindings as k;
use lev_apic::Effects;
use lev_kvmabi::{ioctl, os};
use std::io;
use std::sync::atomic::Ordering;

const APIC_PAGE_MASK: u64 = !0xfff;

/// Time between two interrupts of the timer where they are dear.
const TICKS_APART_NS: u64 = 500_000_000;

/// Who asked for this run, and how it takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// QEMU's own thread in this process: its signal handler sets `immediate_exit` in the shared page.
    Qemu,
    /// QEMU on another node: run number `.0` ends when [`Vcpu::cancel_run`] is called with it.
    Remote(u64),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The page describes an exit that QEMU must handle.
    Exit,
    /// The caller took the run back: `-EINTR`.
    Interrupted,
    /// The kernel refused: errno.
    Failed(i32),
}

enum Next {
    Again,
    Return,
}

/// The thread of one vCPU: what belongs to the thread, not to the vCPU.
pub struct Runner {
    mask: libc::sigset_t,
    timer: kick::KickTimer,
}

impl Runner {
    /// Makes the calling thread the one that runs `vcpu`: blocks the kick signal in it and lets it through in `KVM_RUN`.
    ///
    /// # Errors
    /// The kernel refused the signal mask or a timer.
    pub fn for_this_thread(vcpu: &Vcpu) -> io::Result<Self> {
        #[repr(C)]
        struct SignalMask {
            len: u32,
            set: [u8; 8],
        }
        let mask = kick::block_in_this_thread();
        let mut argument = SignalMask {
            len: 8,
            set: [0; 8],
        };
        // SAFETY: the kernel's signal set is the first 8 bytes of glibc's.
        unsafe {
            std::ptr::copy_nonoverlapping(
                std::ptr::from_ref(&mask).cast(),
                argument.set.as_mut_ptr(),
                8,
            )
        };
        // SAFETY: KVM_SET_SIGNAL_MASK takes a length word followed by that many bytes.
        unsafe { os::ioctl_with(vcpu.fd, ioctl::SET_SIGNAL_MASK, &mut argument)? };
        vcpu.adopt_thread(kick::current_thread());
        Ok(Self {
            mask,
            timer: kick::KickTimer::for_this_thread()?,
        })
    }

    /// Runs the vCPU until QEMU has to see something. `page` is the one that the caller reads.
    pub fn run(&mut self, vcpu: &Vcpu, fabric: &Fabric, caller: Caller) -> Outcome {
        let window_for_caller = vcpu.page.request_interrupt_window();
        let outcome = loop {
            vcpu.clear_poke();
            if taken_back(vcpu, caller) {
                break Outcome::Interrupted;
            }
            if let Err(error) = self.prepare(vcpu, fabric) {
                break Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO));
            }
            if vcpu.mp_state() != MpState::Runnable {
                self.sleep(vcpu, caller);
                continue;
            }
            if let Err(error) = inject(vcpu, window_for_caller) {
                break Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO));
            }
            match self.enter(vcpu, fabric) {
                Entry::NotNow => continue,
                Entry::Failed(libc::EINTR | libc::EAGAIN) => {
                    bump(&vcpu.stats.interrupted);
                    continue;
                }
                Entry::Failed(errno) => break Outcome::Failed(errno),
                Entry::Exit => {}
            }
            if let Next::Return = handle(vcpu, fabric, window_for_caller) {
                bump(&vcpu.stats.to_qemu);
                break Outcome::Exit;
            }
        };
        vcpu.page.set_request_interrupt_window(window_for_caller);
        let for_caller = vcpu.ready.load(Ordering::Relaxed) && vcpu.apic().accepts_ext_int();
        vcpu.page.set_ready_for_interrupt(for_caller);
        outcome
    }

    /// What others posted, the clock, the timer: everything that must be settled before the guest goes on.
    fn prepare(&mut self, vcpu: &Vcpu, fabric: &Fabric) -> io::Result<()> {
        if fabric.clock.number() != vcpu.clock.load(Ordering::SeqCst) {
            take_clock(vcpu, fabric)?;
        }
        let events = vcpu.take_events();
        if events != 0 {
            take(vcpu, fabric, events)?;
        }
        if vcpu.loiter.is_wanted() {
            vcpu.loiter.note(instruction_pointer(vcpu)?);
        }
        let now = monotonic_ns();
        let earliest = earliest_tick(vcpu, fabric);
        let mut apic = vcpu.apic();
        if now >= earliest && apic.timer_poll(now) {
            vcpu.ticked_ns.store(now, Ordering::Relaxed);
            bump(&vcpu.stats.timer);
        }
        let wakes = apic.next_interrupt().is_some();
        drop(apic);
        if wakes && vcpu.mp_state() == MpState::Halted {
            vcpu.move_to(MpState::Runnable);
        }
        Ok(())
    }

    /// Sleeps while the guest has halted or waits to be started.
    fn sleep(&mut self, vcpu: &Vcpu, caller: Caller) {
        let deadline = vcpu.apic().timer_deadline();
        let start = monotonic_ns();
        let timeout = deadline.map(|at| at.saturating_sub(start));
        let blocked = (caller == Caller::Qemu).then(kick::Blocked::all);
        if !taken_back(vcpu, caller) && timeout != Some(0) && vcpu.enter() {
            vcpu.asleep.store(true, Ordering::Relaxed);
            kick::wait(&self.mask, timeout);
            vcpu.asleep.store(false, Ordering::Relaxed);
            vcpu.leave();
        }
        drop(blocked);
        add(&vcpu.stats.halted_ns, monotonic_ns() - start);
    }

    fn enter(&mut self, vcpu: &Vcpu, fabric: &Fabric) -> Entry {
        let (deadline, cr8) = {
            let apic = vcpu.apic();
            (apic.timer_deadline(), apic.cr8())
        };
        self.timer
            .set(deadline.map(|at| at.max(earliest_tick(vcpu, fabric))));
        vcpu.page.set_cr8(u64::from(cr8));
        let clock = vcpu.clock.load(Ordering::SeqCst);
        if !vcpu.enter_guest(clock, || fabric.clock.number()) {
            return Entry::NotNow;
        }
        let start = monotonic_ns();
        // SAFETY: KVM_RUN takes no argument; `fd` is this vCPU's and this is its thread.
        let result = unsafe { os::ioctl(vcpu.fd, ioctl::RUN, 0) };
        vcpu.leave_guest();
        add(&vcpu.stats.run_ns, monotonic_ns() - start);
        vcpu.ready.store(
            vcpu.page.ready_for_interrupt() && vcpu.page.interrupt_flag(),
            Ordering::Relaxed,
        );
        {
            let mut apic = vcpu.apic();
            let cr8 = vcpu.page.cr8() as u8;
            if cr8 != apic.cr8() {
                apic.set_cr8(cr8);
            }
        }
        match result {
            Ok(_) => Entry::Exit,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                if errno == libc::EINTR {
                    kick::drain();
                }
                Entry::Failed(errno)
            }
        }
    }
}

fn instruction_pointer(vcpu: &Vcpu) -> io::Result<u64> {
    let mut regs = k::kvm_regs::default();
    // SAFETY: KVM_GET_REGS fills a kvm_regs.
    unsafe { os::ioctl_with(vcpu.fd, ioctl::GET_REGS, &mut regs)? };
    Ok(regs.rip)
}

/// Before this time its timer does not interrupt a vCPU that runs. Where nodes take turns, each interrupt makes a program that
/// needs few pages need all those of the kernel; Linux makes up for late ticks by the clock.
fn earliest_tick(vcpu: &Vcpu, fabric: &Fabric) -> u64 {
    if vcpu.mp_state() != MpState::Runnable || !fabric.are_ticks_dear() {
        return 0;
    }
    vcpu.ticked_ns.load(Ordering::Relaxed) + TICKS_APART_NS
}

enum Entry {
    Exit,
    NotNow,
    Failed(i32),
}

fn taken_back(vcpu: &Vcpu, caller: Caller) -> bool {
    match caller {
        Caller::Qemu => vcpu.page.immediate_exit(),
        Caller::Remote(run) => vcpu.cancelled_run.load(Ordering::SeqCst) >= run,
    }
}

/// Takes over the clock setting in force.
fn take_clock(vcpu: &Vcpu, fabric: &Fabric) -> io::Result<()> {
    let (number, offset) = fabric.clock.setting();
    set_tsc_offset(vcpu.fd, offset)?;
    vcpu.clock.store(number, Ordering::SeqCst);
    if !fabric
        .clock
        .wait_for_others(number, || Box::new(fabric.all_local()))
    {
        bump(&vcpu.stats.clock_overlaps);
    }
    Ok(())
}

/// INIT, start-up, NMI, SMI.
fn take(vcpu: &Vcpu, fabric: &Fabric, events: u32) -> io::Result<()> {
    if events & event::INIT != 0 {
        vcpu.apic().reset_init();
        fabric.view_changed(vcpu);
        reset::init(vcpu.fd, vcpu.cpu_signature.load(Ordering::Relaxed))?;
        vcpu.registers_changed();
        vcpu.clock_changed();
        vcpu.move_to(if vcpu.bootstrap {
            MpState::Runnable
        } else {
            MpState::InitReceived
        });
    }
    if events & event::START_UP != 0 && vcpu.mp_state() == MpState::InitReceived {
        reset::start_up(vcpu.fd, (events >> event::VECTOR_SHIFT) as u8)?;
        vcpu.registers_changed();
        vcpu.move_to(MpState::Runnable);
    }
    for (bit, request) in [(event::NMI, ioctl::NMI), (event::SMI, ioctl::SMI)] {
        let started = matches!(vcpu.mp_state(), MpState::Runnable | MpState::Halted);
        if events & bit != 0 && started {
            // SAFETY: neither call takes an argument.
            unsafe { os::ioctl(vcpu.fd, request, 0)? };
            vcpu.move_to(MpState::Runnable);
        }
    }
    Ok(())
}

/// Queues the highest interrupt if the guest can take it, else asks for an exit when it can.
fn inject(vcpu: &Vcpu, window_for_caller: bool) -> io::Result<()> {
    let mut apic = vcpu.apic();
    // A window that nobody can use would end every run before the guest's first instruction.
    let mut want_window = window_for_caller && apic.accepts_ext_int();
    if apic.next_interrupt().is_some() {
        if !vcpu.ready.load(Ordering::Relaxed) {
            want_window = true;
        } else if let Some(vector) = apic.acknowledge() {
            let mut interrupt = k::kvm_interrupt {
                irq: u32::from(vector),
            };
            // SAFETY: KVM_INTERRUPT takes a kvm_interrupt.
            let result = unsafe { os::ioctl_with(vcpu.fd, ioctl::INTERRUPT, &mut interrupt) };
            if let Err(error) = result {
                apic.unacknowledge(vector);
                return Err(error);
            }
            bump(&vcpu.stats.injected);
            vcpu.ready.store(false, Ordering::Relaxed);
            want_window |= apic.next_interrupt().is_some();
        }
    }
    drop(apic);
    vcpu.page.set_request_interrupt_window(want_window);
    Ok(())
}

/// Handles an exit here if QEMU need not see it.
fn handle(vcpu: &Vcpu, fabric: &Fabric, window_for_caller: bool) -> Next {
    let reason = vcpu.page.exit_reason();
    vcpu.stats.exit(reason);
    vcpu.loiter.reset();
    let base = vcpu.page.apic_base();
    if base != vcpu.apic().base() {
        let effects = vcpu.apic().set_base(base);
        apply(vcpu, fabric, &effects);
    }
    match reason {
        k::KVM_EXIT_HLT => {
            vcpu.move_to(MpState::Halted);
            Next::Again
        }
        k::KVM_EXIT_SET_TPR => Next::Again,
        k::KVM_EXIT_IRQ_WINDOW_OPEN => {
            let for_caller = window_for_caller
                && vcpu.ready.load(Ordering::Relaxed)
                && vcpu.apic().accepts_ext_int();
            if for_caller {
                Next::Return
            } else {
                Next::Again
            }
        }
        k::KVM_EXIT_MMIO => handle_mmio(vcpu, fabric),
        k::KVM_EXIT_IO => handle_port(vcpu, fabric),
        k::KVM_EXIT_X86_RDMSR | k::KVM_EXIT_X86_WRMSR => handle_msr(vcpu, fabric, reason),
        _ => Next::Return,
    }
}

fn handle_mmio(vcpu: &Vcpu, fabric: &Fabric) -> Next {
    let access = vcpu.page.mmio_exit();
    let base = vcpu.apic().base();
    let enabled = base & (1 << 11) != 0;
    if !enabled || access.address & APIC_PAGE_MASK != base & APIC_PAGE_MASK {
        let rung = access.write
            && fabric.ring(
                false,
                access.address,
                access.len,
                value_of(access.data, access.len),
            );
        if rung {
            bump(&vcpu.stats.doorbells);
            return Next::Again;
        }
        return Next::Return;
    }
    let offset = (access.address & 0xfff) as u32;
    let now = monotonic_ns();
    if access.write {
        bump(&vcpu.stats.apic_writes);
        let value = u32::from_le_bytes([
            access.data[0],
            access.data[1],
            access.data[2],
            access.data[3],
        ]);
        let effects = vcpu.apic().write(offset, value, now);
        return apply(vcpu, fabric, &effects);
    }
    bump(&vcpu.stats.apic_reads);
    let value = u64::from(vcpu.apic().read(offset, now));
    // A narrow read in the middle of a register sees its upper bytes.
    vcpu.page
        .set_mmio_data((value >> (8 * (offset & 3))).to_le_bytes());
    Next::Again
}

fn value_of(data: [u8; 8], len: u32) -> u64 {
    let mask = if len >= 8 {
        u64::MAX
    } else {
        (1 << (8 * len)) - 1
    };
    u64::from_le_bytes(data) & mask
}

fn handle_port(vcpu: &Vcpu, fabric: &Fabric) -> Next {
    let exit = vcpu.page.port_exit();
    if !exit.out || exit.count != 1 {
        return Next::Return;
    }
    let Some(range) = vcpu.page.port_data_range() else {
        return Next::Return;
    };
    let mut data = [0; 8];
    vcpu.page
        .copy_out(range.start, &mut data[..range.len().min(8)]);
    if fabric.ring(
        true,
        u64::from(exit.port),
        u32::from(exit.size),
        u64::from_le_bytes(data),
    ) {
        bump(&vcpu.stats.doorbells);
        return Next::Again;
    }
    Next::Return
}

/// x2APIC registers reach us as accesses that KVM finds invalid (it has no local APIC of its own; its MSR filters do not
/// apply to this range). Filtered ones are QEMU's; any other invalid one is the guest's fault.
fn handle_msr(vcpu: &Vcpu, fabric: &Fabric, reason: u32) -> Next {
    let exit = vcpu.page.msr_exit();
    if exit.reason != k::KVM_MSR_EXIT_REASON_INVAL {
        return Next::Return;
    }
    if !(0x800..0x900).contains(&exit.index) {
        vcpu.page.complete_msr(None);
        return Next::Again;
    }
    let now = monotonic_ns();
    if reason == k::KVM_EXIT_X86_RDMSR {
        bump(&vcpu.stats.apic_reads);
        let value = vcpu.apic().read_msr(exit.index, now);
        vcpu.page.complete_msr(value);
        return Next::Again;
    }
    bump(&vcpu.stats.apic_writes);
    let effects = vcpu.apic().write_msr(exit.index, exit.data, now);
    vcpu.page.complete_msr(effects.as_ref().map(|_| exit.data));
    let Some(effects) = effects else {
        return Next::Again;
    };
    if effects.eoi.as_ref().is_some_and(|eoi| eoi.level) {
        complete_now(vcpu);
    }
    apply(vcpu, fabric, &effects)
}

/// Lets the kernel take the completion of an exit out of the page without running the guest, so that the page is free to
/// describe another exit. Signals are blocked: QEMU's handler uses the same flag.
fn complete_now(vcpu: &Vcpu) {
    let _blocked = kick::Blocked::all();
    let asked = vcpu.page.immediate_exit();
    vcpu.page.set_immediate_exit(true);
    // SAFETY: KVM_RUN takes no argument; with `immediate_exit` it returns at once.
    let _ = unsafe { os::ioctl(vcpu.fd, ioctl::RUN, 0) };
    vcpu.page.set_immediate_exit(asked);
}

/// Carries out what an APIC write asks for.
fn apply(vcpu: &Vcpu, fabric: &Fabric, effects: &Effects) -> Next {
    if effects.view_changed {
        fabric.view_changed(vcpu);
    }
    if let Some(interrupt) = &effects.ipi {
        bump(&vcpu.stats.ipis_sent);
        fabric.deliver(interrupt, Some(vcpu.id));
    }
    if let Some(eoi) = &effects.eoi {
        bump(&vcpu.stats.eois);
        if eoi.level {
            vcpu.page.set_ioapic_eoi(eoi.vector);
            return Next::Return;
        }
    }
    Next::Again
}

#[cfg(test)]
mod tests {
    use super::*;
    use lev_kvmabi::run_page::RunPage;
    use lev_wire::NodeId;

    #[test]
    fn ticks_are_put_off_only_where_they_are_dear_and_the_vcpu_runs() {
        let mut memory = vec![0u64; 512];
        // SAFETY: the memory outlives the vCPU.
        let page = unsafe { RunPage::new(memory.as_mut_ptr().cast(), 4096) };
        let vcpu = Vcpu::new(0, -1, page);
        vcpu.ticked_ns.store(7, Ordering::Relaxed);
        let fabric = Fabric::new(NodeId::HEAD, vec![NodeId::HEAD]);
        assert_eq!(earliest_tick(&vcpu, &fabric), 0);
        fabric.spare_ticks(Box::new(|| true));
        assert_eq!(earliest_tick(&vcpu, &fabric), 7 + TICKS_APART_NS);
        vcpu.move_to(MpState::Halted);
        assert_eq!(earliest_tick(&vcpu, &fabric), 0);
    }
}
