//! The floor under the engine: what userfaultfd and the memory calls cost on this machine when one thread faults and
//! another one resolves, without any network or protocol.

use crate::command::{Access, Touch};
use crate::touch::Pages;
use lev_uffd::{Memory, Uffd};
use lev_wire::PAGE_SIZE;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

const PAGE: u64 = PAGE_SIZE as u64;

/// Memory that is unmapped when it is dropped.
struct Mapping {
    base: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> Result<Self, String> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; the advice concerns it alone.
        let base = unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            libc::madvise(base, len, libc::MADV_NOHUGEPAGE);
            base
        };
        if base == libc::MAP_FAILED {
            return Err(format!("mmap: {}", std::io::Error::last_os_error()));
        }
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: a live mapping that nobody uses any more: the threads of `measure` have ended.
        unsafe { libc::munmap(self.base, self.len) };
    }
}

/// How the resolving thread answers a missing page.
struct Resolver {
    uffd: Arc<Uffd>,
    zero: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Resolver {
    /// Serves faults until told to stop.
    fn run(self) {
        lev_dsm::threads::serve_first();
        let (bytes, mut faults) = (vec![1; PAGE_SIZE], Vec::new());
        while !self.stop.load(Ordering::Acquire) {
            let mut entry = libc::pollfd {
                fd: self.uffd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid entry, exclusively borrowed for the call. The limit lets it see the flag.
            unsafe { libc::poll(&mut entry, 1, 100) };
            if self.uffd.read(&mut faults).is_err() {
                return;
            }
            for fault in &faults {
                let zero = self.zero.load(Ordering::Relaxed);
                // A fault that is resolved already is no error.
                let _ = match (fault.protected, zero) {
                    (true, _) => self.uffd.unprotect(fault.address, PAGE),
                    (false, true) => self.uffd.zero(fault.address, PAGE).map(|_| ()),
                    (false, false) => self
                        .uffd
                        .copy(fault.address, &bytes, !fault.write)
                        .map(|_| ()),
                };
            }
        }
    }
}

/// Times of each kind of fault and of taking a page away, `pages` samples of each.
pub fn measure(pages: u64) -> Result<BTreeMap<&'static str, Vec<u64>>, String> {
    let uffd = Arc::new(Uffd::open().map_err(|error| error.to_string())?);
    let len = pages * PAGE;
    let mapping = Mapping::new(len as usize)?;
    let base = mapping.base as u64;
    uffd.register(base, len, Memory::Anonymous)
        .map_err(|error| error.to_string())?;
    let (zero, stop) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let resolver = Resolver {
        uffd: Arc::clone(&uffd),
        zero: Arc::clone(&zero),
        stop: Arc::clone(&stop),
    };
    let thread = std::thread::spawn(move || resolver.run());
    // SAFETY: the mapping lives to the end of this function, and is used by volatile accesses only.
    let memory = unsafe { Pages::new(mapping.base.cast(), pages) };
    let all = |access| Touch {
        first: 0,
        pages,
        access,
        random: false,
    };
    let mut kinds = BTreeMap::new();
    kinds.insert("read", memory.touch(all(Access::Read)));
    kinds.insert("upgrade", memory.touch(all(Access::Write)));
    kinds.insert(
        "copy_out",
        each(pages, |page| copy_out(&uffd, &memory, page)),
    );
    kinds.insert("drop", each(pages, |page| drop_page(&memory, page)));
    kinds.insert("write", memory.touch(all(Access::Write)));
    let take = |page| copy_out(&uffd, &memory, page) && drop_page(&memory, page);
    kinds.insert("take", each(pages, take));
    zero.store(true, Ordering::Relaxed);
    kinds.insert("zero", memory.touch(all(Access::Write)));
    stop.store(true, Ordering::Release);
    thread
        .join()
        .map_err(|_| "the resolving thread failed".to_owned())?;
    Ok(kinds)
}

fn each(pages: u64, mut body: impl FnMut(u64) -> bool) -> Vec<u64> {
    let sample = |page| {
        let start = Instant::now();
        assert!(body(page), "a call on memory of this process failed");
        start.elapsed().as_nanos() as u64
    };
    (0..pages).map(sample).collect()
}

/// Write-protects a page and copies it, as its owner does for a reader.
fn copy_out(uffd: &Uffd, memory: &Pages, page: u64) -> bool {
    let mut buffer = [0u8; PAGE_SIZE];
    let protected = uffd.protect(memory.address(page), PAGE).is_ok();
    // SAFETY: a present page of a live mapping, and a buffer as large as it.
    unsafe {
        let from = memory.address(page) as *const u8;
        std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), PAGE_SIZE);
    }
    std::hint::black_box(&buffer);
    protected
}

fn drop_page(memory: &Pages, page: u64) -> bool {
    let at = memory.address(page) as *mut libc::c_void;
    // SAFETY: removes a page of a live mapping into which nobody holds references.
    unsafe { libc::madvise(at, PAGE_SIZE, libc::MADV_DONTNEED) == 0 }
}
