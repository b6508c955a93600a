//! System calls on guest memory. Made by number: in QEMU's process `madvise` and `mmap` are interposed, and the
//! engine's own calls must not come back to it.

use crate::segment::CHUNK_PAGES;
use crate::{Backing, DsmError};
use lev_wire::PAGE_SIZE;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;
/// include/uapi/asm-generic/mman-common.h, since Linux 6.1.
const MADV_COLLAPSE: i32 = 25;
/// The same header, since Linux 5.14.
const MADV_POPULATE_WRITE: i32 = 23;
const COLLAPSE_TRIES: u32 = 3;

/// The bytes of a page, aligned like one.
#[repr(C, align(4096))]
pub(crate) struct PageBuffer(pub(crate) [u8; PAGE_SIZE]);

impl PageBuffer {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; PAGE_SIZE]))
    }

    pub(crate) fn is_zero(&self) -> bool {
        is_zero(&self.0)
    }
}

pub(crate) fn is_zero(page: &[u8; PAGE_SIZE]) -> bool {
    *page == [0; PAGE_SIZE]
}

fn call(name: &'static str, at: u64, result: i64) -> Result<i64, DsmError> {
    if result >= 0 {
        return Ok(result);
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    Err(DsmError::System {
        call: name,
        at,
        errno,
    })
}

pub(crate) fn madvise(
    start: u64,
    len: u64,
    advice: i32,
    name: &'static str,
) -> Result<(), DsmError> {
    // SAFETY: callers pass ranges of guest memory, which the engine owns: what the advice does to its contents is
    // what the protocol wants, and nobody holds Rust references into it.
    let result = unsafe { libc::syscall(libc::SYS_madvise, start, len, advice) };
    call(name, start, result).map(|_| ())
}

/// Keeps huge pages away: they would make one page out of 512.
pub(crate) fn forbid_huge_pages(start: u64, len: u64) -> Result<(), DsmError> {
    advise_huge_pages(
        start,
        len,
        libc::MADV_NOHUGEPAGE,
        "madvise(MADV_NOHUGEPAGE)",
    )
}

/// Asks for huge pages where the range is touched.
pub(crate) fn allow_huge_pages(start: u64, len: u64) -> Result<(), DsmError> {
    advise_huge_pages(start, len, libc::MADV_HUGEPAGE, "madvise(MADV_HUGEPAGE)")
}

/// Puts a huge page where pages of 4 KiB are, or none; the first page is there. Without one (a kernel before 6.1, no huge
/// page free) all works as well, only slower.
pub(crate) fn collapse(start: u64, len: u64) {
    // A page that has left userfaultfd may be written only after the next fault (change_pte_range() in mm/mprotect.c takes
    // the right with the mark), and a block without a page that may be written stays as it is (hpage_collapse_scan_pmd()).
    let _ = madvise(
        start,
        PAGE,
        MADV_POPULATE_WRITE,
        "madvise(MADV_POPULATE_WRITE)",
    );
    // A page that a thread touches meanwhile is busy for a moment.
    for _ in 0..COLLAPSE_TRIES {
        if madvise(start, len, MADV_COLLAPSE, "madvise(MADV_COLLAPSE)").is_ok() {
            return;
        }
    }
}

fn advise_huge_pages(
    start: u64,
    len: u64,
    advice: i32,
    name: &'static str,
) -> Result<(), DsmError> {
    match madvise(start, len, advice, name) {
        // A kernel without transparent huge pages does not know the advice, and does not need it.
        Err(DsmError::System {
            errno: libc::EINVAL,
            ..
        }) => Ok(()),
        result => result,
    }
}

/// Removes pages, so that the next touch is a missing fault.
pub(crate) fn remove(start: u64, len: u64, backing: Backing) -> Result<(), DsmError> {
    match backing {
        Backing::Anonymous => madvise(start, len, libc::MADV_DONTNEED, "madvise(MADV_DONTNEED)"),
        Backing::Shmem => madvise(start, len, libc::MADV_REMOVE, "madvise(MADV_REMOVE)"),
    }
}

/// Copies a held page; `false`: it is not there although the engine holds it (somebody discarded it behind the
/// engine's back), so it reads as zero. A thread that serves faults must not touch such a page: it would wait for
/// itself.
pub(crate) fn read_page(
    address: u64,
    backing: Backing,
    to: &mut PageBuffer,
) -> Result<bool, DsmError> {
    if backing == Backing::Anonymous && !resident(address)? && !in_page_table(address)? {
        to.0.fill(0);
        return Ok(false);
    }
    copy_page(address, &mut to.0);
    Ok(true)
}

/// Copies a page that is present ([`resident_run`]) and cannot be written now.
pub(crate) fn copy_page(address: u64, to: &mut [u8; PAGE_SIZE]) {
    // SAFETY: `address` is a page of guest memory that is mapped until `Engine::stop` and, as the caller has checked, has
    // contents; it is write-protected and stays so while its lock is held, so nobody writes it during the copy. `to` is a
    // whole page and exclusively borrowed.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.as_mut_ptr(), PAGE_SIZE) };
}

/// Has `see` look at pages as they lie in guest memory, without a copy: all present ([`resident_run`]) and protected, so that
/// nobody can write them.
pub(crate) fn with_pages(address: u64, pages: u64, see: impl FnOnce(&[[u8; PAGE_SIZE]])) {
    // SAFETY: `address` is the first of so many pages of guest memory that are mapped until `Engine::stop` and, as the caller
    // has checked, have contents; they are write-protected and stay so while their lock is held, which outlasts the call, so
    // nobody writes them while the reference lives.
    see(unsafe { std::slice::from_raw_parts(address as *const [u8; PAGE_SIZE], pages as usize) })
}

/// Whether a page that is present ([`resident_run`]) has only zeroes. Somebody may write it at the same time: a hint.
pub(crate) fn looks_empty(address: u64) -> bool {
    let words = address as *const u64;
    // SAFETY: `address` is a page of guest memory that is mapped until `Engine::stop` and, as the caller has checked, has
    // contents, so that reading it does not wait for this engine; whole aligned words inside of the page are read, volatile
    // because others may write them.
    (0..PAGE_SIZE / 8).all(|index| unsafe { words.add(index).read_volatile() } == 0)
}

/// Which pages of a run, not longer than a block under one lock, are present: one call for all.
pub(crate) fn resident_run(address: u64, pages: u64) -> Result<[bool; CHUNK_PAGES], DsmError> {
    let mut answer = [0u8; CHUNK_PAGES];
    let pages = pages.min(CHUNK_PAGES as u64);
    // SAFETY: mincore writes one byte per page asked about into `answer`, which has room for so many.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mincore,
            address,
            pages * PAGE,
            answer.as_mut_ptr(),
        )
    };
    call("mincore", address, result)?;
    Ok(answer.map(|byte| byte & 1 == 1))
}

fn resident(address: u64) -> Result<bool, DsmError> {
    Ok(resident_run(address, 1)?[0])
}

/// Whether the page is present or swapped out: `mincore` does not see swapped pages.
fn in_page_table(address: u64) -> Result<bool, DsmError> {
    let mut entry = [0; 8];
    pagemap()?
        .read_exact_at(&mut entry, address / PAGE * 8)
        .map_err(|error| file_error(PAGEMAP, address, &error))?;
    Ok(has_contents(u64::from_le_bytes(entry)))
}

const PAGEMAP: &str = "/proc/self/pagemap";

fn pagemap() -> Result<File, DsmError> {
    File::open(PAGEMAP).map_err(|error| file_error(PAGEMAP, 0, &error))
}

/// A file of the kernel about this process cannot be read.
pub(crate) fn file_error(name: &'static str, at: u64, error: &std::io::Error) -> DsmError {
    DsmError::System {
        call: name,
        at,
        errno: error.raw_os_error().unwrap_or(0),
    }
}

/// Bits 63 (present) and 62 (swapped) of a pagemap entry: Documentation/admin-guide/mm/pagemap.rst.
fn has_contents(entry: u64) -> bool {
    entry >> 62 != 0
}

/// Which pages of `[start, start + pages)` have contents, as ranges of page offsets.
pub(crate) fn populated(
    start: u64,
    pages: u64,
    backing: Backing,
) -> Result<Vec<Range<u64>>, DsmError> {
    const BATCH: u64 = 8192;
    let pagemap = pagemap()?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut entries = vec![0; (BATCH * 8) as usize];
    let mut residency = vec![0u8; BATCH as usize];
    for first in (0..pages).step_by(BATCH as usize) {
        let count = BATCH.min(pages - first);
        let address = start + first * PAGE;
        let entries = &mut entries[..(count * 8) as usize];
        pagemap
            .read_exact_at(entries, address / PAGE * 8)
            .map_err(|error| file_error(PAGEMAP, address, &error))?;
        if backing == Backing::Shmem {
            // Contents may be in the file without being mapped here.
            // SAFETY: mincore writes one byte per page, `count` of them, into `residency`, which has at least so many.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_mincore,
                    address,
                    count * PAGE,
                    residency.as_mut_ptr(),
                )
            };
            call("mincore", address, result)?;
        }
        for (index, entry) in entries.chunks_exact(8).enumerate() {
            let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
            if !has_contents(entry) && residency[index] & 1 == 0 {
                continue;
            }
            let page = first + index as u64;
            match ranges.last_mut() {
                Some(last) if last.end == page => last.end += 1,
                _ => ranges.push(page..page + 1),
            }
        }
    }
    Ok(ranges)
}

/// Maps one page of a shared file at `address`, in the place of what is there.
pub(crate) fn map_shared_page(
    address: u64,
    fd: BorrowedFd<'_>,
    offset: u64,
) -> Result<(), DsmError> {
    // SAFETY: `address` is a page of guest memory, which the engine owns and into which nobody holds Rust
    // references; its contents have been moved to the file before.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mmap,
            address,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED,
            fd.as_raw_fd(),
            offset,
        )
    };
    call("mmap", address, result).map(|_| ())
}

/// Maps `len` bytes of a shared file wherever there is room; returns the address.
pub(crate) fn map_shared(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, DsmError> {
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mmap,
            0,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            offset,
        )
    };
    call("mmap", offset, result).map(|address| address as u64)
}

/// Maps `len` bytes of private memory wherever there is room; returns the address.
pub(crate) fn map_private(len: u64, no_reserve: bool) -> Result<u64, DsmError> {
    let more = if no_reserve { libc::MAP_NORESERVE } else { 0 };
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mmap,
            0,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more,
            -1,
            0,
        )
    };
    call("mmap", 0, result).map(|address| address as u64)
}

/// `mremap` of `[from, from + old)` to so many bytes; `old` 0: the mapping, which is shared, is copied. `to`: there, in the
/// place of what is there, and what lies at `from` stays, empty; `None`: wherever there is room. Returns the address.
pub(crate) fn remap(from: u64, old: u64, new: u64, to: Option<u64>) -> Result<u64, DsmError> {
    let flags = match (old, to) {
        (_, None) => libc::MREMAP_MAYMOVE,
        (0, Some(_)) => libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
        (_, Some(_)) => libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP,
    };
    // SAFETY: `from` is memory of the engine that nobody touches, or guest memory of which only the mapping is copied; `to` is a
    // page of guest memory, which the engine owns and into which nobody holds Rust references: the protocol says that nobody
    // needs what is mapped there any more.
    let result = unsafe { libc::syscall(libc::SYS_mremap, from, old, new, flags, to.unwrap_or(0)) };
    call("mremap", to.unwrap_or(from), result).map(|address| address as u64)
}

/// Ends a mapping made by [`map_shared`], [`map_private`] or [`remap`].
pub(crate) fn unmap(address: u64, len: u64) {
    // SAFETY: only called for a mapping that the engine made and that is not used any more. It cannot fail for one, and
    // there is nothing to do about it if it did.
    unsafe { libc::syscall(libc::SYS_munmap, address, len) };
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
