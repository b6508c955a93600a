//! Registered memory for tests, and what the kernel says about its pages.
#![allow(dead_code)] // each test file uses a part of it

use lev_uffd::{Memory, Uffd, UffdError};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

pub const PAGE: usize = 4096;

/// Memory registered with a context of its own, mapped until the process ends.
pub struct Mapping {
    pub uffd: Uffd,
    base: u64,
    memory: Memory,
    pagemap: File,
}

impl Mapping {
    /// `None`, with a reason on standard output: this process may not use userfaultfd.
    pub fn new(pages: usize, memory: Memory) -> Option<Self> {
        let uffd = match Uffd::open() {
            Ok(uffd) => uffd,
            Err(error @ UffdError::Permission { .. }) => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let flags = match memory {
            Memory::Anonymous => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            Memory::Shmem => libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; the advice is for it alone.
        let base = unsafe {
            let base = libc::mmap(std::ptr::null_mut(), pages * PAGE, rights, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            libc::madvise(base, pages * PAGE, libc::MADV_NOHUGEPAGE);
            base as u64
        };
        uffd.register(base, (pages * PAGE) as u64, memory).unwrap();
        Some(Self {
            uffd,
            base,
            memory,
            pagemap: File::open("/proc/self/pagemap").unwrap(),
        })
    }

    pub fn address(&self, page: usize) -> u64 {
        self.base + (page * PAGE) as u64
    }

    /// A word at the page's start.
    pub fn word(&self, page: usize) -> &AtomicU64 {
        // SAFETY: aligned and inside of the mapping, which is never unmapped; accessed as an atomic or volatile only.
        unsafe { AtomicU64::from_ptr(self.address(page) as *mut u64) }
    }

    /// Takes pages away with their contents.
    pub fn drop_pages(&self, first: usize, count: usize) {
        let advice = match self.memory {
            Memory::Anonymous => libc::MADV_DONTNEED,
            Memory::Shmem => libc::MADV_REMOVE,
        };
        let address = self.address(first) as *mut libc::c_void;
        // SAFETY: a part of the mapping; nobody holds references into it.
        assert_eq!(unsafe { libc::madvise(address, count * PAGE, advice) }, 0);
    }

    /// Whether a page is present, and whether a write to it faults: bits 63 and 57 of its pagemap entry (Linux,
    /// Documentation/admin-guide/mm/pagemap.rst).
    pub fn entry(&self, page: usize) -> (bool, bool) {
        let mut entry = [0; 8];
        let at = self.address(page) / PAGE as u64 * 8;
        self.pagemap.read_exact_at(&mut entry, at).unwrap();
        let entry = u64::from_le_bytes(entry);
        (entry >> 63 == 1, entry >> 57 & 1 == 1)
    }

    /// For a page that is present.
    pub fn first_byte(&self, page: usize) -> u8 {
        self.word(page).load(Ordering::Relaxed) as u8
    }

    /// For a page that is present: all of its bytes are the same.
    pub fn is_uniform(&self, page: usize) -> bool {
        let word = u64::from_ne_bytes([self.first_byte(page); 8]);
        let words = self.address(page) as *const u64;
        // SAFETY: whole aligned words inside of the page, volatile because others could write them.
        (0..PAGE / 8).all(|index| unsafe { words.add(index).read_volatile() } == word)
    }

    /// For a page that may be written.
    pub fn fill_page(&self, page: usize, byte: u8) {
        // SAFETY: a page of the mapping, into which nobody holds references.
        unsafe { std::ptr::write_bytes(self.address(page) as *mut u8, byte, PAGE) };
    }
}
