//! What stands for a call on the KVM API: exits and runs, ioctls of vCPUs and of the VM, interrupts, APIC views.

use super::target;
use crate::{Seed, Target};
use kvm_bindings as k;
use lev_apic::{ApicView, DeliveryMode, Destination, Interrupt, LocalApic, Trigger};
use lev_kvmabi::ioctl;
use lev_kvmabi::run_page::{RunPage, HEAD_LEN, UNION_LEN};
use lev_kvmabi::shape::{self, Shape};
use lev_mesh::run_frame::{apply_exit, apply_run, encode_exit, encode_run};
use lev_mesh::vm_frame::{decode_slot, encode_slot, ClearDirtyLog, MsrFilter, MsrRange, VmCall};

pub(super) fn all() -> Vec<Target> {
    vec![
        target("kvm-exit", exit, exits),
        target("kvm-run", run, runs),
        Target {
            memory: 512 << 10,
            ..target("kvm-vcpu-call", vcpu_call, vcpu_calls)
        },
        target("kvm-vm-call", vm_call, vm_calls),
        target("kvm-slot", slot, slots),
        target("kvm-dirty-log", dirty_log, dirty_logs),
        target("kvm-msr-filter", msr_filter, msr_filters),
        target("apic", apic, apics),
    ]
}

/// Bytes of a `kvm_run` mapping: three pages, as on x86.
const MAPPED: usize = 3 * 4096;

/// A page and the memory that it is, which must outlive it.
#[allow(unsafe_code)]
fn page() -> (Box<[u64]>, RunPage) {
    let mut memory = vec![0u64; MAPPED / 8].into_boxed_slice();
    // SAFETY: aligned memory of this size, which the caller keeps beside the page and which does not move.
    let page = unsafe { RunPage::new(memory.as_mut_ptr().cast(), MAPPED) };
    (memory, page)
}

/// QEMU's page after an exit holds nothing that would make QEMU read beyond it, and sends on what came.
fn exit(bytes: &[u8]) {
    let (_memory, page) = page();
    page.set_immediate_exit(true);
    if apply_exit(&page, bytes).is_err() {
        assert_eq!(page.exit_reason(), 0, "a refused exit changed the page");
        return;
    }
    assert!(page.immediate_exit());
    match page.exit_reason() {
        k::KVM_EXIT_IO => {
            let range = page.port_data_range().expect("port data inside the page");
            assert!(range.end <= MAPPED && matches!(page.port_exit().size, 1 | 2 | 4));
        }
        k::KVM_EXIT_MMIO => assert!(page.mmio_exit().len <= 8),
        k::KVM_EXIT_INTERNAL_ERROR | k::KVM_EXIT_SYSTEM_EVENT => {
            let mut words = [0; 4];
            page.copy_out(HEAD_LEN + 4, &mut words);
            assert!(u32::from_le_bytes(words) <= 16);
        }
        _ => {}
    }
    let mut again = Vec::new();
    encode_exit(&page, &mut again);
    assert_eq!(again, bytes);
}

fn exits() -> Vec<Seed> {
    let exit = |reason: u32, union: &[u8], data: &[u8]| {
        let (_memory, page) = page();
        page.set_exit_reason(reason);
        page.set_cr8(5);
        page.copy_in(HEAD_LEN, union);
        page.copy_in(4096, data);
        let mut out = Vec::new();
        encode_exit(&page, &mut out);
        out
    };
    let port = [1, 2, 0xFC, 0x0C, 2, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0];
    let mut mmio = [0; 24];
    mmio[..8].copy_from_slice(&0xFEE0_0300u64.to_le_bytes());
    mmio[16] = 4;
    vec![
        ("port".into(), exit(k::KVM_EXIT_IO, &port, &[1, 2, 3, 4])),
        ("mmio".into(), exit(k::KVM_EXIT_MMIO, &mmio, &[])),
        ("halt".into(), exit(k::KVM_EXIT_HLT, &[], &[])),
        ("msr".into(), exit(k::KVM_EXIT_X86_RDMSR, &[0; 24], &[])),
        (
            "error".into(),
            exit(k::KVM_EXIT_INTERNAL_ERROR, &[1, 0, 0, 0, 2, 0, 0, 0], &[]),
        ),
        (
            "event".into(),
            exit(k::KVM_EXIT_SYSTEM_EVENT, &[1, 0, 0, 0, 1, 0, 0, 0], &[]),
        ),
    ]
}

/// The first byte chooses the exit that the worker's page shows.
fn run(bytes: &[u8]) {
    let Some((choice, payload)) = bytes.split_first() else {
        return;
    };
    let (_memory, page) = page();
    prepare(&page, *choice);
    let before = snapshot(&page);
    match apply_run(&page, payload) {
        Ok(interrupts) => {
            let mut again = Vec::new();
            encode_run(&page, interrupts, &mut again);
            // A run that completes nothing may come after an exit that asked for something.
            if payload[8] & 2 != 0 || again[8] & 2 == 0 {
                assert_eq!(again, payload);
            }
        }
        Err(_) => assert_eq!(snapshot(&page), before, "a refused run changed the page"),
    }
    assert_eq!(page.exit_reason().to_le_bytes(), before[8..12]);
}

fn snapshot(page: &RunPage) -> Vec<u8> {
    let mut bytes = vec![0; MAPPED];
    page.copy_out(0, &mut bytes);
    bytes
}

fn prepare(page: &RunPage, choice: u8) {
    const REASONS: [u32; 6] = [
        k::KVM_EXIT_HLT,
        k::KVM_EXIT_IO,
        k::KVM_EXIT_MMIO,
        k::KVM_EXIT_X86_RDMSR,
        k::KVM_EXIT_HYPERCALL,
        k::KVM_EXIT_INTR,
    ];
    page.set_exit_reason(REASONS[usize::from(choice) % REASONS.len()]);
    let port = [0, 4, 0xF8, 3, 3, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0];
    page.copy_in(HEAD_LEN, &port);
}

fn runs() -> Vec<Seed> {
    (0..6u8)
        .map(|choice| {
            let (_memory, page) = page();
            prepare(&page, choice);
            page.set_request_interrupt_window(choice % 2 == 0);
            let mut out = Vec::new();
            encode_run(&page, 77, &mut out);
            (format!("reason-{choice}"), [&[choice][..], &out].concat())
        })
        .collect()
}

/// Bytes of extended state of a processor with AMX, the largest there is.
const XSAVE_LEN: usize = 11008;

/// Four bytes of number, then the payload. What is accepted fits into the buffer that a worker has for it.
fn vcpu_call(bytes: &[u8]) {
    let Some((number, payload)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let request = u32::from_le_bytes(*number);
    let Ok((shape, len)) = shape::check_call(request, XSAVE_LEN, payload) else {
        return;
    };
    assert!(len <= shape::largest(XSAVE_LEN));
    assert!(ioctl::is_kvm(request) && request != ioctl::RUN);
    match shape {
        Shape::Value => assert_eq!((len, payload.len()), (0, 8)),
        _ if shape.reads() => assert_eq!(payload.len(), len),
        _ => assert!(payload.is_empty()),
    }
    // The head measures the answer by the same rule.
    let first = payload
        .first_chunk()
        .map_or(0, |word| u32::from_le_bytes(*word));
    assert_eq!(shape.len(first), Some(len));
}

fn vcpu_calls() -> Vec<Seed> {
    let seed = |name: &str, request: u32, payload: &[u8]| {
        (
            name.to_owned(),
            [&request.to_le_bytes()[..], payload].concat(),
        )
    };
    let msrs = [&2u32.to_le_bytes()[..], &[0; 4 + 2 * 16]].concat();
    let leaves = [&3u32.to_le_bytes()[..], &[0; 4 + 3 * 40]].concat();
    vec![
        seed("get-regs", ioctl::GET_REGS, &[]),
        seed("set-regs", ioctl::SET_REGS, &[1; 0x90]),
        seed("get-msrs", ioctl::GET_MSRS, &msrs),
        seed("set-msrs", ioctl::SET_MSRS, &msrs),
        seed("set-cpuid2", ioctl::SET_CPUID2, &leaves),
        seed("nmi", ioctl::NMI, &[0; 8]),
        seed("get-xsave2", ioctl::GET_XSAVE2, &[]),
        seed("set-xsave", ioctl::SET_XSAVE, &[0; XSAVE_LEN]),
        seed("set-lapic", ioctl::SET_LAPIC, &[0; 1024]),
    ]
}

fn vm_call(bytes: &[u8]) {
    if let Ok(call) = VmCall::decode(bytes) {
        assert_eq!(call.encode(), bytes);
        assert_ne!(call.request, ioctl::X86_SET_MSR_FILTER);
    }
}

fn vm_calls() -> Vec<Seed> {
    [
        ("enable-cap", ioctl::ENABLE_CAP, 104),
        ("tss", ioctl::SET_TSS_ADDR, 8),
        ("identity-map", ioctl::SET_IDENTITY_MAP_ADDR, 8),
        ("boot-cpu", ioctl::SET_BOOT_CPU_ID, 8),
    ]
    .map(|(name, request, len)| {
        let bytes = [&request.to_le_bytes()[..], &vec![1; len]].concat();
        (name.to_owned(), bytes)
    })
    .to_vec()
}

fn slot(bytes: &[u8]) {
    if let Some(region) = decode_slot(bytes) {
        assert_eq!(encode_slot(&region), bytes);
    }
}

fn slots() -> Vec<Seed> {
    let region = k::kvm_userspace_memory_region {
        slot: 0x1_0003,
        flags: 1,
        guest_phys_addr: 0xC_0000,
        memory_size: 0x4_0000,
        userspace_addr: 0x7F12_3450_0000,
    };
    vec![("ram".into(), encode_slot(&region).to_vec())]
}

fn dirty_log(bytes: &[u8]) {
    if let Some(clear) = ClearDirtyLog::decode(bytes) {
        assert_eq!(clear.encode(), bytes);
        assert_eq!(clear.bitmap.len(), (clear.pages as usize).div_ceil(64));
    }
}

fn dirty_logs() -> Vec<Seed> {
    let clear = |pages: u32| ClearDirtyLog {
        slot: 1,
        pages,
        first_page: 64,
        bitmap: vec![5; (pages as usize).div_ceil(64)],
    };
    vec![
        ("none".into(), clear(0).encode()),
        ("some".into(), clear(130).encode()),
    ]
}

fn msr_filter(bytes: &[u8]) {
    if let Some(filter) = MsrFilter::decode(bytes) {
        assert_eq!(filter.encode(), bytes);
        for range in &filter.ranges {
            assert_eq!(range.bits.len(), (range.count as usize).div_ceil(8));
        }
    }
}

fn msr_filters() -> Vec<Seed> {
    let mut filter = MsrFilter {
        flags: 1,
        ..MsrFilter::default()
    };
    let empty = filter.encode();
    for (index, count) in [(0, 1u32), (3, 9), (15, 300)] {
        filter.ranges[index] = MsrRange {
            flags: 3,
            count,
            base: 0xC000_0080,
            bits: vec![0xA5; (count as usize).div_ceil(8)],
        };
    }
    vec![("empty".into(), empty), ("ranges".into(), filter.encode())]
}

fn apic(bytes: &[u8]) {
    if let Some(interrupt) = Interrupt::decode(bytes) {
        assert_eq!(interrupt.encode(), bytes);
        // Whatever it says, a local APIC can take it.
        LocalApic::new(1, true).accept(&interrupt);
    }
    if let Some(view) = ApicView::decode(bytes) {
        assert_eq!(view.encode(), bytes);
        for id in [0, 1, 0xFF, view.id, u32::MAX] {
            let _ = (view.matches_physical(id), view.matches_logical(id));
        }
    }
}

fn apics() -> Vec<Seed> {
    let interrupt = |destination, mode| Interrupt {
        destination,
        mode,
        vector: 0x41,
        trigger: Trigger::Edge,
        assert: true,
    };
    let mut all = vec![(
        "view".into(),
        LocalApic::new(3, false).view().encode().to_vec(),
    )];
    for (name, destination) in [
        ("physical", Destination::Physical(3)),
        ("logical", Destination::Logical(1)),
        ("all", Destination::AllIncludingSelf),
    ] {
        for mode in [
            DeliveryMode::Fixed,
            DeliveryMode::Init,
            DeliveryMode::StartUp,
        ] {
            let bytes = interrupt(destination, mode).encode().to_vec();
            all.push((format!("{name}-{mode:?}"), bytes));
        }
    }
    all
}

// The union that an exit describes itself in is part of every exit.
const _: () = assert!(lev_mesh::run_frame::EXIT_LEN == HEAD_LEN - 8 + UNION_LEN);
