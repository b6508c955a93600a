//! The kernel's interface, from `linux/userfaultfd.h`: numbers derived from their definition, sizes asserted.

use std::mem::{offset_of, size_of};

pub(crate) const UFFD_API: u64 = 0xAA;
const UFFDIO: u64 = 0xAA;

pub(crate) const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
/// Memory that `mremap` moves stays registered, and its mover waits until the event is read; Linux 4.11.
pub(crate) const UFFD_FEATURE_EVENT_REMAP: u64 = 1 << 2;
const UFFD_FEATURE_MISSING_SHMEM: u64 = 1 << 5;
pub(crate) const UFFD_FEATURE_THREAD_ID: u64 = 1 << 8;
const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// All that shared memory needs.
pub(crate) const SHMEM_FEATURES: u64 = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;

pub(crate) const UFFDIO_REGISTER_MODE_MISSING: u64 = 1 << 0;
pub(crate) const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
pub(crate) const UFFDIO_COPY_MODE_WP: u64 = 1 << 1;
pub(crate) const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;

pub(crate) const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
pub(crate) const UFFD_PAGEFAULT_FLAG_WRITE: u64 = 1 << 0;
pub(crate) const UFFD_PAGEFAULT_FLAG_WP: u64 = 1 << 1;

const NR_REGISTER: u64 = 0x00;
const NR_UNREGISTER: u64 = 0x01;
const NR_WAKE: u64 = 0x02;
const NR_COPY: u64 = 0x03;
const NR_ZEROPAGE: u64 = 0x04;
const NR_WRITEPROTECT: u64 = 0x06;
const NR_API: u64 = 0x3F;

/// Calls that a registered range must offer, as bits.
pub(crate) const NEEDED_RANGE_IOCTLS: u64 =
    1 << NR_WAKE | 1 << NR_COPY | 1 << NR_ZEROPAGE | 1 << NR_WRITEPROTECT;

const NONE: u64 = 0;
const READ: u64 = 2;
const READ_WRITE: u64 = 3;

/// `_IOC` of x86: direction, size, type and number in one word.
const fn ioc(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | UFFDIO << 8 | number
}

pub(crate) const USERFAULTFD_IOC_NEW: u64 = ioc(NONE, 0, 0);
pub(crate) const UFFDIO_API: u64 = ioc(READ_WRITE, NR_API, size_of::<UffdioApi>());
pub(crate) const UFFDIO_REGISTER: u64 = ioc(READ_WRITE, NR_REGISTER, size_of::<UffdioRegister>());
pub(crate) const UFFDIO_UNREGISTER: u64 = ioc(READ, NR_UNREGISTER, size_of::<UffdioRange>());
pub(crate) const UFFDIO_WAKE: u64 = ioc(READ, NR_WAKE, size_of::<UffdioRange>());
pub(crate) const UFFDIO_COPY: u64 = ioc(READ_WRITE, NR_COPY, size_of::<UffdioCopy>());
pub(crate) const UFFDIO_ZEROPAGE: u64 = ioc(READ_WRITE, NR_ZEROPAGE, size_of::<UffdioZeropage>());
pub(crate) const UFFDIO_WRITEPROTECT: u64 =
    ioc(READ_WRITE, NR_WRITEPROTECT, size_of::<UffdioWriteprotect>());

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UffdioApi {
    pub(crate) api: u64,
    pub(crate) features: u64,
    pub(crate) ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UffdioRange {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UffdioRegister {
    pub(crate) range: UffdioRange,
    pub(crate) mode: u64,
    pub(crate) ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UffdioCopy {
    pub(crate) dst: u64,
    pub(crate) src: u64,
    pub(crate) len: u64,
    pub(crate) mode: u64,
    pub(crate) copy: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UffdioZeropage {
    pub(crate) range: UffdioRange,
    pub(crate) mode: u64,
    pub(crate) zeropage: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UffdioWriteprotect {
    pub(crate) range: UffdioRange,
    pub(crate) mode: u64,
}

/// What `read` returns, with the union as its page-fault member. Naturally aligned although the kernel packs it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct UffdMsg {
    pub(crate) event: u8,
    reserved1: u8,
    reserved2: u16,
    reserved3: u32,
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) ptid: u32,
    reserved4: u32,
}

const _: () = {
    assert!(size_of::<UffdioApi>() == 24);
    assert!(size_of::<UffdioRange>() == 16);
    assert!(size_of::<UffdioRegister>() == 32);
    assert!(size_of::<UffdioCopy>() == 40);
    assert!(size_of::<UffdioZeropage>() == 32);
    assert!(size_of::<UffdioWriteprotect>() == 24);
    assert!(size_of::<UffdMsg>() == 32);
    assert!(
        offset_of!(UffdMsg, flags) == 8
            && offset_of!(UffdMsg, address) == 16
            && offset_of!(UffdMsg, ptid) == 24
    );
    assert!(USERFAULTFD_IOC_NEW == 0x0000_AA00);
    assert!(UFFDIO_API == 0xC018_AA3F);
    assert!(UFFDIO_REGISTER == 0xC020_AA00);
    assert!(UFFDIO_UNREGISTER == 0x8010_AA01);
    assert!(UFFDIO_WAKE == 0x8010_AA02);
    assert!(UFFDIO_COPY == 0xC028_AA03);
    assert!(UFFDIO_ZEROPAGE == 0xC020_AA04);
    assert!(UFFDIO_WRITEPROTECT == 0xC018_AA06);
};
