//! The parts of a `kvm_run` page that cross the network with a run and with its exit.
//!
//! Run: 8 bytes (interrupts that the head had sent to this worker), 1 byte of flags, then what completes the last exit:
//! port data, or the union. Exit: the page's head from byte 8 on, the union, the port data. Both have one form only: a
//! frame that could not have been made here is refused, and nothing of it reaches the page.

use kvm_bindings as k;
use lev_kvmabi::run_page::{RunPage, HEAD_LEN, UNION_LEN};

/// The first bytes of a page are QEMU's requests to the kernel: they stay on their side.
const REQUESTS_LEN: usize = 8;
/// Bytes of an exit before the port data.
pub const EXIT_LEN: usize = HEAD_LEN - REQUESTS_LEN + UNION_LEN;
/// QEMU wants to know when it may inject an interrupt.
const WINDOW: u8 = 1;
/// What the last exit asked for goes back.
const COMPLETES: u8 = 2;
/// Bytes that a memory-mapped access moves at most, and words that describe an error or a system event.
const MMIO_MAX: u32 = 8;
const WORDS_MAX: u32 = 16;

/// Whether an exit asks QEMU for data.
fn asks(reason: u32) -> bool {
    matches!(
        reason,
        k::KVM_EXIT_MMIO
            | k::KVM_EXIT_IO
            | k::KVM_EXIT_X86_RDMSR
            | k::KVM_EXIT_X86_WRMSR
            | k::KVM_EXIT_HYPERCALL
    )
}

/// Builds the payload of a run.
pub fn encode_run(page: &RunPage, interrupts_sent: u64, out: &mut Vec<u8>) {
    let reason = page.exit_reason();
    let window = if page.request_interrupt_window() {
        WINDOW
    } else {
        0
    };
    let completes = if asks(reason) { COMPLETES } else { 0 };
    out.clear();
    out.extend_from_slice(&interrupts_sent.to_le_bytes());
    out.push(window | completes);
    if reason == k::KVM_EXIT_IO {
        append_port_data(page, out);
    } else if completes != 0 {
        append(page, HEAD_LEN, UNION_LEN, out);
    }
}

/// Builds the payload of an exit.
pub fn encode_exit(page: &RunPage, out: &mut Vec<u8>) {
    out.clear();
    append(page, REQUESTS_LEN, EXIT_LEN, out);
    if page.exit_reason() == k::KVM_EXIT_IO {
        append_port_data(page, out);
    }
}

fn append(page: &RunPage, offset: usize, len: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + len, 0);
    page.copy_out(offset, &mut out[start..]);
}

fn append_port_data(page: &RunPage, out: &mut Vec<u8>) {
    if let Some(range) = page.port_data_range() {
        append(page, range.start, range.len(), out);
    }
}

/// Puts a run's payload into the worker's page; returns the number of interrupts to wait for.
///
/// # Errors
/// What is wrong with the payload; the page is as it was.
pub fn apply_run(page: &RunPage, payload: &[u8]) -> Result<u64, String> {
    let short = || format!("run of {} bytes", payload.len());
    let (sent, rest) = payload.split_first_chunk::<8>().ok_or_else(short)?;
    let (flags, data) = rest.split_first().ok_or_else(short)?;
    if flags & !(WINDOW | COMPLETES) != 0 {
        return Err(format!("run with flags {flags:#x}"));
    }
    let reason = page.exit_reason();
    // Only data may be written: where they stand in the page is the kernel's business.
    let (offset, len) = match (flags & COMPLETES != 0, reason) {
        (false, _) => (HEAD_LEN, 0),
        (true, k::KVM_EXIT_IO) => page
            .port_data_range()
            .map_or((HEAD_LEN, 0), |range| (range.start, range.len())),
        (true, reason) if asks(reason) => (HEAD_LEN, UNION_LEN),
        (true, reason) => return Err(format!("run that completes exit {reason}")),
    };
    if data.len() != len {
        return Err(format!(
            "run with {} bytes of data instead of {len}",
            data.len()
        ));
    }
    page.set_request_interrupt_window(flags & WINDOW != 0);
    page.copy_in(offset, data);
    Ok(u64::from_le_bytes(*sent))
}

/// Puts an exit's payload into QEMU's page; the requests there stay QEMU's own. QEMU believes what the kernel says about an
/// exit without looking twice, so what a worker says is looked at here.
///
/// # Errors
/// What is wrong with the payload; the page is as it was.
pub fn apply_exit(page: &RunPage, payload: &[u8]) -> Result<(), String> {
    let short = || format!("exit of {} bytes", payload.len());
    let (fixed, data) = payload.split_at_checked(EXIT_LEN).ok_or_else(short)?;
    let (head, union) = fixed.split_at(HEAD_LEN - REQUESTS_LEN);
    let word = |bytes: &[u8], at: usize| {
        let field = bytes
            .get(at..at + 4)
            .and_then(|field| field.try_into().ok());
        field.map_or(0, u32::from_le_bytes)
    };
    let mut port = None;
    match word(head, 0) {
        k::KVM_EXIT_IO => {
            let exit = RunPage::decode_port_exit(union);
            let range = page
                .port_data_of(&exit)
                .ok_or("port data outside the page")?;
            if !matches!(exit.size, 1 | 2 | 4) {
                return Err(format!("port access of {} bytes", exit.size));
            }
            port = Some(range);
        }
        k::KVM_EXIT_MMIO if word(union, 16) > MMIO_MAX => {
            return Err(format!("memory access of {} bytes", word(union, 16)));
        }
        reason @ (k::KVM_EXIT_INTERNAL_ERROR | k::KVM_EXIT_SYSTEM_EVENT)
            if word(union, 4) > WORDS_MAX =>
        {
            return Err(format!("exit {reason} with {} words", word(union, 4)));
        }
        _ => {}
    }
    let len = port.as_ref().map_or(0, ExactSizeIterator::len);
    if data.len() != len {
        return Err(format!(
            "{} bytes of port data instead of {len}",
            data.len()
        ));
    }
    page.copy_in(REQUESTS_LEN, fixed);
    if let Some(range) = port {
        page.copy_in(range.start, data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(memory: &mut [u64]) -> RunPage {
        // SAFETY: each test keeps the memory alive.
        unsafe { RunPage::new(memory.as_mut_ptr().cast(), 12288) }
    }

    fn port_exit(page: &RunPage, out: bool) {
        page.set_exit_reason(k::KVM_EXIT_IO);
        page.copy_in(
            HEAD_LEN,
            &[
                u8::from(out),
                2,
                0xfc,
                0x0c,
                1,
                0,
                0,
                0,
                0,
                0x10,
                0,
                0,
                0,
                0,
                0,
                0,
            ],
        );
    }

    #[test]
    fn a_port_read_goes_out_and_its_data_come_back() {
        let (mut a, mut b) = (vec![0u64; 1536], vec![0u64; 1536]);
        let (worker, qemu) = (page(&mut a), page(&mut b));
        port_exit(&worker, false);
        let mut frame = Vec::new();
        encode_exit(&worker, &mut frame);
        apply_exit(&qemu, &frame).unwrap();
        assert_eq!(qemu.port_exit().port, 0xcfc);
        qemu.copy_in(4096, &[0x86, 0x80]);
        encode_run(&qemu, 7, &mut frame);
        assert_eq!(apply_run(&worker, &frame), Ok(7));
        let mut data = [0; 2];
        worker.copy_out(4096, &mut data);
        assert_eq!(data, [0x86, 0x80]);
    }

    #[test]
    fn qemus_kick_survives_an_exit() {
        let (mut a, mut b) = (vec![0u64; 1536], vec![0u64; 1536]);
        let (worker, qemu) = (page(&mut a), page(&mut b));
        qemu.set_immediate_exit(true);
        worker.set_exit_reason(k::KVM_EXIT_HLT);
        let mut frame = Vec::new();
        encode_exit(&worker, &mut frame);
        apply_exit(&qemu, &frame).unwrap();
        assert!(qemu.immediate_exit());
        assert_eq!(qemu.exit_reason(), k::KVM_EXIT_HLT);
    }

    #[test]
    fn bad_frames_are_refused() {
        let mut a = vec![0u64; 1536];
        let qemu = page(&mut a);
        assert!(apply_exit(&qemu, &[0; 10]).is_err());
        assert!(apply_run(&qemu, &[0; 12]).is_err());
        let exit = |reason: u32, at: usize, value: u32| {
            let mut frame = vec![0; EXIT_LEN];
            frame[..4].copy_from_slice(&reason.to_le_bytes());
            frame[24 + at..24 + at + 4].copy_from_slice(&value.to_le_bytes());
            frame
        };
        let mut port = exit(k::KVM_EXIT_IO, 4, u32::MAX);
        port[25] = 4;
        assert!(apply_exit(&qemu, &port).is_err());
        // What QEMU would read or print beyond the page if it believed these.
        assert!(apply_exit(&qemu, &exit(k::KVM_EXIT_MMIO, 16, 9)).is_err());
        assert!(apply_exit(&qemu, &exit(k::KVM_EXIT_INTERNAL_ERROR, 4, 17)).is_err());
        assert_eq!(qemu.exit_reason(), 0);
        assert_eq!(apply_exit(&qemu, &exit(k::KVM_EXIT_MMIO, 16, 8)), Ok(()));
        let longer = [exit(k::KVM_EXIT_HLT, 0, 0), vec![0]].concat();
        assert!(apply_exit(&qemu, &longer).is_err());
    }

    #[test]
    fn only_what_an_exit_asked_for_can_be_completed() {
        let mut a = vec![0u64; 1536];
        let worker = page(&mut a);
        worker.set_exit_reason(k::KVM_EXIT_HLT);
        let run = |flags: u8, data: usize| [&[0; 8][..], &[flags], &vec![0; data]].concat();
        assert_eq!(apply_run(&worker, &run(WINDOW, 0)), Ok(0));
        assert!(worker.request_interrupt_window());
        assert!(apply_run(&worker, &run(COMPLETES, UNION_LEN)).is_err());
        assert!(apply_run(&worker, &run(0, 1)).is_err());
        assert!(apply_run(&worker, &run(4, 0)).is_err());
        worker.set_exit_reason(k::KVM_EXIT_MMIO);
        assert_eq!(apply_run(&worker, &run(COMPLETES, UNION_LEN)), Ok(0));
        assert!(apply_run(&worker, &run(COMPLETES, UNION_LEN - 1)).is_err());
    }
}
