//! The parts of a `kvm_run` page that cross the network with a run and with its exit.
//!
//! Run: 8 bytes (interrupts that the head had sent to this worker), 1 byte (a completion follows), the page's head, then for a
//! completion the union and the port data. Exit: the page's head, the union, the port data.

use kvm_bindings as k;
use lev_kvmabi::run_page::{RunPage, HEAD_LEN, UNION_LEN};

/// Builds the payload of a run. `completes`: the last exit asked QEMU for data that go back now.
pub fn encode_run(page: &RunPage, interrupts_sent: u64, out: &mut Vec<u8>) {
    let reason = page.exit_reason();
    let completes = matches!(
        reason,
        k::KVM_EXIT_MMIO
            | k::KVM_EXIT_IO
            | k::KVM_EXIT_X86_RDMSR
            | k::KVM_EXIT_X86_WRMSR
            | k::KVM_EXIT_HYPERCALL
    );
    out.clear();
    out.extend_from_slice(&interrupts_sent.to_le_bytes());
    out.push(u8::from(completes));
    append(page, completes, out);
}

/// Builds the payload of an exit.
pub fn encode_exit(page: &RunPage, out: &mut Vec<u8>) {
    out.clear();
    append(page, true, out);
}

fn append(page: &RunPage, all: bool, out: &mut Vec<u8>) {
    let start = out.len();
    let len = if all { HEAD_LEN + UNION_LEN } else { HEAD_LEN };
    out.resize(start + len, 0);
    page.copy_out(0, &mut out[start..]);
    if all && page.exit_reason() == k::KVM_EXIT_IO {
        if let Some(range) = page.port_data_range() {
            let start = out.len();
            out.resize(start + range.len(), 0);
            page.copy_out(range.start, &mut out[start..]);
        }
    }
}

/// Puts a run's payload into the worker's page; returns the number of interrupts to wait for.
///
/// # Errors
/// What is wrong with the payload.
pub fn apply_run(page: &RunPage, payload: &[u8]) -> Result<u64, String> {
    let short = || format!("run of {} bytes", payload.len());
    let (sent, rest) = payload.split_first_chunk::<8>().ok_or_else(short)?;
    let (completes, rest) = rest.split_first().ok_or_else(short)?;
    let head = rest.get(..HEAD_LEN).ok_or_else(short)?;
    page.set_request_interrupt_window(head[0] != 0);
    if *completes != 0 {
        let union = rest.get(HEAD_LEN..HEAD_LEN + UNION_LEN).ok_or_else(short)?;
        let reason = page.exit_reason();
        let port = (reason == k::KVM_EXIT_IO)
            .then(|| page.port_data_range())
            .flatten();
        match (reason, port) {
            // Only the data may be written: where they stand in the page is the kernel's business.
            (k::KVM_EXIT_IO, Some(range)) => {
                let data = &rest[HEAD_LEN + UNION_LEN..];
                if data.len() != range.len() {
                    return Err(format!(
                        "{} bytes of port data instead of {}",
                        data.len(),
                        range.len()
                    ));
                }
                page.copy_in(range.start, data);
            }
            (
                k::KVM_EXIT_MMIO
                | k::KVM_EXIT_X86_RDMSR
                | k::KVM_EXIT_X86_WRMSR
                | k::KVM_EXIT_HYPERCALL,
                _,
            ) => page.copy_in(HEAD_LEN, union),
            _ => {}
        }
    }
    Ok(u64::from_le_bytes(*sent))
}

/// Puts an exit's payload into QEMU's page; `immediate_exit` stays QEMU's own.
///
/// # Errors
/// What is wrong with the payload.
pub fn apply_exit(page: &RunPage, payload: &[u8]) -> Result<(), String> {
    if payload.len() < HEAD_LEN + UNION_LEN {
        return Err(format!("exit of {} bytes", payload.len()));
    }
    let (fixed, data) = payload.split_at(HEAD_LEN + UNION_LEN);
    // Bytes 0 and 1 are QEMU's requests, 2-7 padding.
    page.copy_in(8, &fixed[8..]);
    if page.exit_reason() == k::KVM_EXIT_IO {
        let range = page.port_data_range().ok_or("port data outside the page")?;
        if data.len() != range.len() {
            return Err(format!(
                "{} bytes of port data instead of {}",
                data.len(),
                range.len()
            ));
        }
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
        let mut frame = vec![0; HEAD_LEN + UNION_LEN];
        frame[8] = k::KVM_EXIT_IO as u8;
        frame[HEAD_LEN + 1] = 4;
        frame[HEAD_LEN + 4..HEAD_LEN + 8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(apply_exit(&qemu, &frame).is_err());
    }
}
