//! System calls that the checks need, each wrapped once.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8};

/// Size of a base page of x86.
pub const PAGE: usize = 4096;

/// Anonymous memory, zero-filled, unmapped when dropped. Shared between the threads of this process; contents are reached through atomics or raw pointers only.
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the type hands out only atomics and raw pointers, never references to plain data;
// the range itself is fixed for the life of the value.
unsafe impl Sync for Mapping {}
// SAFETY: as above; munmap may be called from any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `pages` pages with read and write access, copied on write after a fork.
    pub fn new(pages: usize) -> Result<Mapping> {
        Mapping::map(pages, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
    }

    /// Maps `pages` pages that a process shares with those that it forks.
    pub fn shared(pages: usize) -> Result<Mapping> {
        Mapping::map(pages, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
    }

    /// As [`Mapping::shared`]; the pages may also be executed.
    pub fn executable(pages: usize) -> Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        Mapping::map(pages, protection, libc::MAP_SHARED)
    }

    fn map(pages: usize, protection: i32, sharing: i32) -> Result<Mapping> {
        let len = pages * PAGE;
        let flags = sharing | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Error::last("mmap"));
        }
        Ok(Mapping {
            base: base.cast(),
            len,
        })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of byte `offset`, which must lie inside.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "offset {offset:#x} of {:#x}", self.len);
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.base.add(offset) }
    }

    fn aligned<T>(&self, offset: usize) -> *mut T {
        let size = std::mem::size_of::<T>();
        assert!(offset % size == 0 && offset + size <= self.len);
        self.at(offset).cast()
    }

    /// The byte at `offset`.
    pub fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: inside the mapping, which outlives the reference; accessed atomically.
        unsafe { AtomicU8::from_ptr(self.aligned(offset)) }
    }

    /// The 2-byte word at `offset` (aligned).
    pub fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: aligned and inside the mapping (checked); accessed atomically.
        unsafe { AtomicU16::from_ptr(self.aligned(offset)) }
    }

    /// The 4-byte word at `offset` (aligned).
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: aligned and inside the mapping (checked); accessed atomically.
        unsafe { AtomicU32::from_ptr(self.aligned(offset)) }
    }

    /// The 8-byte word at `offset` (aligned).
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: aligned and inside the mapping (checked); accessed atomically.
        unsafe { AtomicU64::from_ptr(self.aligned(offset)) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`; no borrow outlives `self`. Checks
        // that replace single pages of it leave nothing else inside the range.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn cpu_set(cpus: &[usize]) -> libc::cpu_set_t {
    // SAFETY: cpu_set_t is plain bits; all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: CPU_SET ignores numbers beyond the set's size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    set
}

/// Binds the calling thread to `cpu`; when it returns, the thread runs there.
pub fn pin(cpu: usize) -> Result<()> {
    pin_to(&[cpu])
}

/// Binds the calling thread to `cpus`.
pub fn pin_to(cpus: &[usize]) -> Result<()> {
    let set = cpu_set(cpus);
    // SAFETY: the set is a local of the size given.
    let rc = unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set) };
    if rc != 0 {
        return Err(Error::last("sched_setaffinity"));
    }
    Ok(())
}

/// CPUs on which this process may run, ascending.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    let mut set = cpu_set(&[]);
    // SAFETY: the set is a local of the size given.
    let rc = unsafe { libc::sched_getaffinity(0, std::mem::size_of_val(&set), &mut set) };
    if rc != 0 {
        return Err(Error::last("sched_getaffinity"));
    }
    let cpus = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: every index is below CPU_SETSIZE.
    Ok(cpus
        .filter(|&c| unsafe { libc::CPU_ISSET(c, &set) })
        .collect())
}

/// Waits for a child; its exit code, if it ended by itself.
pub fn wait(child: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    // SAFETY: status is a local; child is a child of ours that nobody else waits for.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    (waited == child && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status))
}

/// The CPU that the calling thread runs on.
pub fn current_cpu() -> Result<usize> {
    // SAFETY: no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).map_err(|_| Error::last("getcpu"))
}

/// A clock in nanoseconds.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: ts is a local; the clocks used here always exist.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Gives the CPU to another thread of it, if there is one.
pub fn yield_cpu() {
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}

/// Registers this process for [`membarrier`].
pub fn membarrier_register() -> Result<()> {
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    // SAFETY: membarrier takes three integers.
    let rc = unsafe { libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0) };
    (rc == 0)
        .then_some(())
        .ok_or_else(|| Error::last("membarrier"))
}

/// Interrupts every other CPU that runs a thread of this process right now.
pub fn membarrier() -> Result<()> {
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    // SAFETY: membarrier takes three integers.
    let rc = unsafe { libc::syscall(libc::SYS_membarrier, PRIVATE_EXPEDITED, 0, 0) };
    (rc == 0)
        .then_some(())
        .ok_or_else(|| Error::last("membarrier"))
}

/// Binds a mapping to one NUMA node: its pages are allocated there or not at all.
pub fn bind_to_node(mapping: &Mapping, node: usize) -> Result<()> {
    const MPOL_BIND: i32 = 2;
    let mut mask = [0u64; 16];
    let Some(word) = mask.get_mut(node / 64) else {
        let text = node.to_string();
        return Err(Error::Parse {
            what: "NUMA node",
            text,
        });
    };
    *word |= 1 << (node % 64);
    // SAFETY: the range is a mapping of ours; the mask is a local of 1024 bits, and mbind reads
    // one bit less than maxnode says.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.at(0),
            mapping.len(),
            MPOL_BIND,
            mask.as_ptr(),
            mask.len() * 64 + 1,
            0,
        )
    };
    (rc == 0).then_some(()).ok_or_else(|| Error::last("mbind"))
}

/// The NUMA node on which each page of a (touched) mapping lies; negative: an errno.
pub fn nodes_of_pages(mapping: &Mapping) -> Result<Vec<i32>> {
    let pages: Vec<*mut u8> = (0..mapping.len() / PAGE)
        .map(|i| mapping.at(i * PAGE))
        .collect();
    let mut status = vec![0i32; pages.len()];
    // SAFETY: both arrays hold `pages.len()` elements; without a node list pages only report.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<i32>(),
            status.as_mut_ptr(),
            0,
        )
    };
    if rc != 0 {
        return Err(Error::last("move_pages"));
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn mappings_are_zero_and_separate() {
        let a = Mapping::new(2).expect("mmap");
        let b = Mapping::new(1).expect("mmap");
        a.u64(PAGE).store(7, Relaxed);
        assert_eq!((a.u64(0).load(Relaxed), b.u64(0).load(Relaxed)), (0, 0));
        assert_eq!(a.u32(PAGE).load(Relaxed), 7);
    }

    #[test]
    #[should_panic(expected = "offset")]
    fn offsets_outside_are_refused() {
        Mapping::new(1).expect("mmap").at(PAGE);
    }

    #[test]
    fn pinning_moves_the_thread() {
        for cpu in allowed_cpus().expect("affinity") {
            pin(cpu).expect("pin");
            assert_eq!(current_cpu().expect("getcpu"), cpu);
        }
        assert!(pin(1000).is_err());
    }
}
