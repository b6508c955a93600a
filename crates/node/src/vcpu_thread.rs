//! The thread of one vCPU on a worker: QEMU's thread on the head asks over the vCPU's own channel, this one does.

use crate::worker::Worker;
use lev_kvmabi::shape::{self, Refused, Shape};
use lev_mesh::message::vcpu as kind;
use lev_mesh::run_frame;
use lev_transport::{Channel, Sender};
use lev_vcpu::call::{call, CallError};
use lev_vcpu::{Caller, Outcome, Runner, Vcpu};
use lev_wire::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for interrupts that were sent before a run.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// Serves one vCPU until its channel ends. Returns why.
pub fn serve(worker: &Arc<Worker>, vcpu: &Arc<Vcpu>, channel: Channel) -> String {
    let (sender, mut receiver) = channel.split();
    let mut runner = match Runner::for_this_thread(vcpu) {
        Ok(runner) => runner,
        Err(error) => return format!("vCPU {}: {error}", vcpu.id),
    };
    let xsave_len = worker.xsave_len();
    let mut buffer = vec![0u64; shape::largest(xsave_len).div_ceil(8)];
    let mut frame = Vec::with_capacity(16 * 1024);
    loop {
        let (header, payload) = match receiver.recv() {
            Ok(received) => received,
            Err(error) => return error.to_string(),
        };
        let result = match header.kind {
            kind::CALL => {
                let request = header.arg as u32;
                perform(
                    worker,
                    vcpu,
                    request,
                    xsave_len,
                    payload,
                    &mut buffer,
                    &sender,
                )
            }
            kind::RUN => run(
                worker,
                vcpu,
                &mut runner,
                header.arg,
                payload,
                &mut frame,
                &sender,
            ),
            other => Err(format!("vCPU frame of kind {other}")),
        };
        if let Err(what) = result {
            return what;
        }
    }
}

fn run(
    worker: &Worker,
    vcpu: &Vcpu,
    runner: &mut Runner,
    number: u64,
    payload: &[u8],
    frame: &mut Vec<u8>,
    sender: &Sender,
) -> Result<(), String> {
    let interrupts = run_frame::apply_run(&vcpu.page, payload)?;
    if !worker
        .peers
        .interrupts
        .wait_received(NodeId::HEAD, interrupts, ORDER_LIMIT)
    {
        return Err(format!(
            "{interrupts} interrupts from the head did not arrive"
        ));
    }
    let errno = match runner.run(vcpu, &worker.fabric, Caller::Remote(number)) {
        Outcome::Exit => 0,
        Outcome::Interrupted => libc::EINTR,
        Outcome::Failed(errno) => errno,
    };
    run_frame::encode_exit(&vcpu.page, frame);
    sender
        .send(kind::EXIT, errno as u16, number, &[frame])
        .map_err(|error| error.to_string())
}

fn perform(
    worker: &Worker,
    vcpu: &Vcpu,
    request: u32,
    xsave_len: usize,
    payload: &[u8],
    buffer: &mut [u64],
    sender: &Sender,
) -> Result<(), String> {
    let answer = |errno: i32, value: i32, data: &[u8]| {
        sender
            .send(kind::CALLED, errno as u16, value as u32 as u64, &[data])
            .map_err(|error| error.to_string())
    };
    let (shape, len) = match shape::check_call(request, xsave_len, payload) {
        Ok(checked) => checked,
        Err(Refused::Call) => return answer(libc::ENOTTY, 0, &[]),
        Err(refused) => return Err(format!("vCPU call {request:#x}: {refused}")),
    };
    assert!(len.max(payload.len()) <= buffer.len() * 8);
    // SAFETY: `len` and `payload.len()` are at most the buffer's size (asserted).
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<u8>(), len.max(8)) };
    bytes.fill(0);
    bytes[..payload.len()].copy_from_slice(payload);
    let argument = match shape {
        Shape::Value => u64::from_le_bytes([
            payload[0], payload[1], payload[2], payload[3], payload[4], payload[5], payload[6],
            payload[7],
        ]) as usize,
        _ => bytes.as_mut_ptr() as usize,
    };
    // SAFETY: the argument is a number, or points to `len` bytes of the call's own shape, aligned to 8.
    match unsafe { call(vcpu, &worker.fabric, request, argument) } {
        Ok(value) => answer(
            0,
            value,
            if shape.writes_back() {
                &bytes[..len]
            } else {
                &[]
            },
        ),
        Err(CallError::Errno(errno)) => answer(errno, 0, &[]),
        Err(CallError::MissingFeatures(missing)) => {
            let message = format!(
                "the processor of {} lacks features that the guest was given: {}",
                worker.configure.cluster.nodes[worker.configure.node.index()].name,
                missing.join(", ")
            );
            answer(libc::EOPNOTSUPP, 0, message.as_bytes())
        }
    }
}
