//! The `kvm_run` page: shared between the kernel (or the facade) and whoever calls `KVM_RUN`.

use kvm_bindings::{kvm_run, kvm_run__bindgen_ty_1};
use std::mem::offset_of;

/// Bytes before the union: request and state words.
pub const HEAD_LEN: usize = 32;
/// Bytes of the union that an exit describes itself in.
pub const UNION_LEN: usize = 256;
const _: () = assert!(offset_of!(kvm_run, __bindgen_anon_1) == HEAD_LEN);
const _: () = assert!(std::mem::size_of::<kvm_run__bindgen_ty_1>() == UNION_LEN);
const _: () = assert!(offset_of!(kvm_run, exit_reason) == 8);
const _: () = assert!(offset_of!(kvm_run, immediate_exit) == 1);
const _: () = assert!(offset_of!(kvm_run, apic_base) == 24);

/// The exit of a port access, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortExit {
    /// The guest writes.
    pub out: bool,
    /// Bytes an item: 1, 2 or 4.
    pub size: u8,
    /// The port.
    pub port: u16,
    /// Items (string instructions).
    pub count: u32,
    /// Where the data stand, from the start of the page.
    pub data_offset: u64,
}

/// The exit of a memory-mapped access, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioExit {
    /// Guest physical address.
    pub address: u64,
    /// Up to eight bytes, little-endian.
    pub data: [u8; 8],
    /// Bytes.
    pub len: u32,
    /// The guest writes.
    pub write: bool,
}

/// The exit of an MSR access (`KVM_CAP_X86_USER_SPACE_MSR`), decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrExit {
    /// The register.
    pub index: u32,
    /// The value written.
    pub data: u64,
    /// Why it came to user space.
    pub reason: u32,
}

/// A mapped `kvm_run` page. All accesses are volatile: the other side may be the kernel or a signal handler.
#[derive(Clone, Copy, Debug)]
pub struct RunPage {
    base: *mut u8,
    len: usize,
}

// SAFETY: the page stays mapped for the life of the process (constructor's contract), and it is only accessed with
// volatile loads and stores of plain integers, never through references.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Wraps a mapping.
    ///
    /// # Safety
    /// `base` is the start of a readable and writable mapping of `len` >= 4096 bytes that is never unmapped.
    #[must_use]
    pub unsafe fn new(base: *mut u8, len: usize) -> Self {
        assert!(len >= 4096, "a kvm_run mapping has at least one page");
        Self { base, len }
    }

    fn load<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + std::mem::size_of::<T>() <= self.len);
        // SAFETY: in bounds (asserted) of a mapping that stays (constructor); the fields are naturally aligned.
        unsafe { self.base.add(offset).cast::<T>().read_volatile() }
    }

    fn store<T: Copy>(&self, offset: usize, value: T) {
        assert!(offset + std::mem::size_of::<T>() <= self.len);
        // SAFETY: as in `load`.
        unsafe { self.base.add(offset).cast::<T>().write_volatile(value) }
    }

    /// Bytes of the mapping.
    #[must_use]
    pub fn mapped_len(&self) -> usize {
        self.len
    }

    /// QEMU wants to know when it may inject an interrupt.
    #[must_use]
    pub fn request_interrupt_window(&self) -> bool {
        self.load::<u8>(0) != 0
    }
    /// See [`Self::request_interrupt_window`].
    pub fn set_request_interrupt_window(&self, on: bool) {
        self.store(0, u8::from(on));
    }
    /// `KVM_RUN` must return at once with `-EINTR`.
    #[must_use]
    pub fn immediate_exit(&self) -> bool {
        self.load::<u8>(1) != 0
    }
    /// See [`Self::immediate_exit`].
    pub fn set_immediate_exit(&self, on: bool) {
        self.store(1, u8::from(on));
    }
    /// `KVM_EXIT_…`.
    #[must_use]
    pub fn exit_reason(&self) -> u32 {
        self.load(8)
    }
    /// See [`Self::exit_reason`].
    pub fn set_exit_reason(&self, reason: u32) {
        self.store(8, reason);
    }
    /// An interrupt may be injected now.
    #[must_use]
    pub fn ready_for_interrupt(&self) -> bool {
        self.load::<u8>(12) != 0
    }
    /// See [`Self::ready_for_interrupt`].
    pub fn set_ready_for_interrupt(&self, on: bool) {
        self.store(12, u8::from(on));
    }
    /// RFLAGS.IF of the guest.
    #[must_use]
    pub fn interrupt_flag(&self) -> bool {
        self.load::<u8>(13) != 0
    }
    /// Task priority class, 0-15: in and out on every run.
    #[must_use]
    pub fn cr8(&self) -> u64 {
        self.load(16)
    }
    /// See [`Self::cr8`].
    pub fn set_cr8(&self, value: u64) {
        self.store(16, value);
    }
    /// IA32_APIC_BASE.
    #[must_use]
    pub fn apic_base(&self) -> u64 {
        self.load(24)
    }

    /// Decodes `KVM_EXIT_IO`.
    #[must_use]
    pub fn port_exit(&self) -> PortExit {
        PortExit {
            out: self.load::<u8>(HEAD_LEN) == 1,
            size: self.load(HEAD_LEN + 1),
            port: self.load(HEAD_LEN + 2),
            count: self.load(HEAD_LEN + 4),
            data_offset: self.load(HEAD_LEN + 8),
        }
    }
    /// The same from the bytes of the union, missing ones taken as 0.
    #[must_use]
    pub fn decode_port_exit(union: &[u8]) -> PortExit {
        let mut bytes = [0; 16];
        let len = union.len().min(bytes.len());
        bytes[..len].copy_from_slice(&union[..len]);
        let [out, size, p0, p1, c0, c1, c2, c3, offset @ ..] = bytes;
        PortExit {
            out: out == 1,
            size,
            port: u16::from_le_bytes([p0, p1]),
            count: u32::from_le_bytes([c0, c1, c2, c3]),
            data_offset: u64::from_le_bytes(offset),
        }
    }
    /// Bytes of port data of the exit at hand, if they lie inside the mapping.
    #[must_use]
    pub fn port_data_range(&self) -> Option<std::ops::Range<usize>> {
        self.port_data_of(&self.port_exit())
    }
    /// Bytes of port data of an exit, if they would lie inside this mapping.
    #[must_use]
    pub fn port_data_of(&self, exit: &PortExit) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(exit.data_offset).ok()?;
        let len = usize::from(exit.size).checked_mul(exit.count as usize)?;
        let end = start.checked_add(len)?;
        (start >= HEAD_LEN + UNION_LEN && end <= self.len).then_some(start..end)
    }

    /// Decodes `KVM_EXIT_MMIO`.
    #[must_use]
    pub fn mmio_exit(&self) -> MmioExit {
        MmioExit {
            address: self.load(HEAD_LEN),
            data: self.load(HEAD_LEN + 8),
            len: self.load(HEAD_LEN + 16),
            write: self.load::<u8>(HEAD_LEN + 20) != 0,
        }
    }
    /// Gives the guest the bytes that it reads.
    pub fn set_mmio_data(&self, data: [u8; 8]) {
        self.store(HEAD_LEN + 8, data);
    }

    /// Decodes `KVM_EXIT_X86_RDMSR` and `KVM_EXIT_X86_WRMSR`.
    #[must_use]
    pub fn msr_exit(&self) -> MsrExit {
        MsrExit {
            reason: self.load(HEAD_LEN + 8),
            index: self.load(HEAD_LEN + 12),
            data: self.load(HEAD_LEN + 16),
        }
    }
    /// Completes an MSR exit: `Some(value)` read or written, `None`: general protection fault.
    pub fn complete_msr(&self, outcome: Option<u64>) {
        self.store(HEAD_LEN, u8::from(outcome.is_none()));
        if let Some(value) = outcome {
            self.store(HEAD_LEN + 16, value);
        }
    }
    /// Turns the exit into `KVM_EXIT_IOAPIC_EOI` for QEMU's I/O APIC.
    pub fn set_ioapic_eoi(&self, vector: u8) {
        self.set_exit_reason(kvm_bindings::KVM_EXIT_IOAPIC_EOI);
        self.store(HEAD_LEN, vector);
    }

    /// Copies bytes out of the page.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.len);
        // SAFETY: in bounds (asserted); `out` is a distinct allocation; the vCPU is not running, so nobody writes.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(offset), out.as_mut_ptr(), out.len()) }
    }
    /// Copies bytes into the page.
    pub fn copy_in(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.len);
        // SAFETY: as in `copy_out`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.base.add(offset), data.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> (Vec<u64>, RunPage) {
        let mut memory = vec![0u64; 1536];
        // SAFETY: the vector is returned beside the page and outlives it in each test.
        let page = unsafe { RunPage::new(memory.as_mut_ptr().cast(), 12288) };
        (memory, page)
    }

    #[test]
    fn port_data_outside_the_page_are_refused() {
        let (_memory, page) = page();
        page.copy_in(
            HEAD_LEN,
            &[1, 4, 0xf8, 0x03, 2, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
        );
        assert_eq!(
            page.port_exit(),
            PortExit {
                out: true,
                size: 4,
                port: 0x3f8,
                count: 2,
                data_offset: 4096
            }
        );
        assert_eq!(page.port_data_range(), Some(4096..4104));
        page.copy_in(HEAD_LEN + 8, &12287u64.to_le_bytes());
        assert_eq!(page.port_data_range(), None);
        page.copy_in(HEAD_LEN + 8, &u64::MAX.to_le_bytes());
        assert_eq!(page.port_data_range(), None);
    }

    #[test]
    fn eoi_replaces_the_exit() {
        let (_memory, page) = page();
        page.set_exit_reason(kvm_bindings::KVM_EXIT_MMIO);
        page.set_ioapic_eoi(0x31);
        assert_eq!(page.exit_reason(), kvm_bindings::KVM_EXIT_IOAPIC_EOI);
        assert_eq!(page.load::<u8>(HEAD_LEN), 0x31);
    }
}
