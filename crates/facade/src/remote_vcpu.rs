//! A vCPU that runs on another node. QEMU's thread for it talks over the vCPU's own channel, in turn with the worker's
//! thread: no other thread stands in between.

use crate::vm::{self, Vm};
use crate::{fail, watch};
use lev_kvmabi::ioctl;
use lev_kvmabi::run_page::RunPage;
use lev_kvmabi::shape::{self, Shape};
use lev_mesh::message::vcpu as kind;
use lev_mesh::run_frame;
use lev_transport::{Channel, Receiver, Sender};
use lev_vcpu::kick;
use lev_wire::NodeId;
use std::sync::{Mutex, PoisonError};

/// The vCPU as QEMU sees it.
pub struct RemoteVcpu {
    id: u32,
    owner: NodeId,
    page: RunPage,
    xsave_len: usize,
    line: Mutex<Line>,
}

struct Line {
    sender: Sender,
    receiver: Receiver,
    run: u64,
    frame: Vec<u8>,
}

impl RemoteVcpu {
    /// Wraps the channel to the worker's thread. `page` is QEMU's view of `kvm_run`.
    pub fn new(id: u32, page: RunPage, xsave_len: usize, channel: Channel) -> Self {
        let owner = channel.peer();
        let (sender, receiver) = channel.split();
        let line = Line {
            sender,
            receiver,
            run: 0,
            frame: Vec::with_capacity(16 * 1024),
        };
        Self {
            id,
            owner,
            page,
            xsave_len,
            line: Mutex::new(line),
        }
    }

    /// Answers an ioctl on the vCPU's descriptor.
    ///
    /// # Safety
    /// `argument` is what `request` expects.
    pub unsafe fn call(&self, request: u32, argument: usize) -> Result<i32, i32> {
        let Some(vm) = vm::current() else {
            return Err(libc::ENXIO);
        };
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            ioctl::RUN => self.run(vm, &mut line),
            // The worker's thread has its own mask.
            ioctl::SET_SIGNAL_MASK => Ok(0),
            // SAFETY: the caller's contract.
            _ => unsafe { self.forward(vm, &mut line, request, argument) },
        }
    }

    fn lost(&self, vm: &Vm, reason: &str) -> ! {
        watch::node_lost(
            vm,
            self.owner,
            &format!("vCPU {}: {reason}", self.id).into(),
        )
    }

    /// Sends a call with its argument and brings back what the kernel there wrote.
    unsafe fn forward(
        &self,
        vm: &Vm,
        line: &mut Line,
        request: u32,
        argument: usize,
    ) -> Result<i32, i32> {
        let shape = shape::of_vcpu_call(request, self.xsave_len).ok_or(libc::ENXIO)?;
        let value = (argument as u64).to_le_bytes();
        let counted = matches!(shape, Shape::Counted { .. });
        let first = if counted {
            // SAFETY: a counted argument begins with its count.
            unsafe { (argument as *const u32).read_unaligned() }
        } else {
            0
        };
        let len = shape.len(first).ok_or(libc::E2BIG)?;
        let payload: &[u8] = match shape {
            Shape::Value => &value,
            // SAFETY: `len` bytes are the argument's size (caller's contract).
            _ if shape.reads() => unsafe { std::slice::from_raw_parts(argument as *const u8, len) },
            _ => &[],
        };
        if let Err(error) = line
            .sender
            .send(kind::CALL, 0, u64::from(request), &[payload])
        {
            self.lost(vm, &error.to_string());
        }
        let (header, answer) = match line.receiver.recv() {
            Ok(received) => received,
            Err(error) => self.lost(vm, &error.to_string()),
        };
        if header.kind != kind::CALLED {
            self.lost(vm, &format!("answer of kind {} to a call", header.kind));
        }
        if header.tag != 0 {
            if request == ioctl::SET_CPUID2 && !answer.is_empty() {
                let message = String::from_utf8_lossy(answer).into_owned();
                fail::die(
                    fail::NOT_STARTED,
                    &message,
                    Some("give the guest a CPU model that every node has"),
                );
            }
            return Err(i32::from(header.tag));
        }
        if shape.writes_back() {
            if answer.len() != len {
                self.lost(
                    vm,
                    &format!("call {request:#x}: {} bytes instead of {len}", answer.len()),
                );
            }
            // SAFETY: the argument has `len` bytes that the call may write (caller's contract).
            unsafe { std::ptr::copy_nonoverlapping(answer.as_ptr(), argument as *mut u8, len) };
        }
        Ok(header.arg as u32 as i32)
    }

    /// `KVM_RUN`: until the worker reports an exit, or QEMU takes the run back and the worker has stopped.
    fn run(&self, vm: &Vm, line: &mut Line) -> Result<i32, i32> {
        if self.page.immediate_exit() {
            return Err(libc::EINTR);
        }
        let Some(shared) = &vm.shared else {
            return Err(libc::ENXIO);
        };
        line.run += 1;
        let number = line.run;
        let interrupts = shared.peers.interrupts.sent_to(self.owner);
        run_frame::encode_run(&self.page, interrupts, &mut line.frame);
        if let Err(error) = line.sender.send(kind::RUN, 0, number, &[&line.frame]) {
            self.lost(vm, &error.to_string());
        }
        // QEMU's kick is a signal whose handler sets `immediate_exit`. With every signal blocked it cannot come
        // between the look at that flag and the wait; the wait itself lets it through.
        let blocked = kick::Blocked::all();
        let mut cancelled = false;
        loop {
            if !cancelled && self.page.immediate_exit() {
                shared
                    .peers
                    .interrupts
                    .cancel_run(self.owner, self.id, number);
                cancelled = true;
            }
            match line
                .receiver
                .recv_interruptible(Some(blocked.before()), None)
            {
                Ok(None) => {}
                Ok(Some((header, payload))) => {
                    if header.kind != kind::EXIT || header.arg != number {
                        self.lost(
                            vm,
                            &format!(
                                "frame {} {} instead of exit {number}",
                                header.kind, header.arg
                            ),
                        );
                    }
                    if let Err(what) = run_frame::apply_exit(&self.page, payload) {
                        self.lost(vm, &what);
                    }
                    return match header.tag {
                        0 => Ok(0),
                        errno => Err(i32::from(errno)),
                    };
                }
                Err(error) => self.lost(vm, &error.to_string()),
            }
        }
    }
}
