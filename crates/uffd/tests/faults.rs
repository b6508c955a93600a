//! The wrapper against the running kernel. Needs the right to use userfaultfd; skips with a reason without it.

use lev_uffd::{Fault, Fill, Memory, Uffd, UffdError};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

/// Memory that stays mapped until the test process ends.
fn map(pages: usize, memory: Memory) -> u64 {
    let (flags, fd) = match memory {
        Memory::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        Memory::Shmem => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            fd,
            0,
        )
    };
    assert_ne!(address, libc::MAP_FAILED);
    address as u64
}

fn open() -> Option<Uffd> {
    match Uffd::open() {
        Ok(uffd) => Some(uffd),
        Err(error @ UffdError::Permission { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn next_fault(uffd: &Uffd) -> Fault {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut faults = Vec::new();
    while faults.is_empty() {
        assert!(Instant::now() < deadline, "no fault within 5 s");
        let mut poll = libc::pollfd {
            fd: uffd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one valid entry, exclusively borrowed for the call.
        unsafe { libc::poll(&mut poll, 1, 100) };
        uffd.read(&mut faults).unwrap();
    }
    assert_eq!(faults.len(), 1);
    faults[0]
}

fn read_at(address: u64) -> u8 {
    // SAFETY: only called with addresses inside of mappings made by `map`, which are never unmapped.
    unsafe { (address as *const u8).read_volatile() }
}

fn write_at(address: u64, value: u8) {
    // SAFETY: as in `read_at`; the tests do not hold references into the mappings.
    unsafe { (address as *mut u8).write_volatile(value) }
}

fn missing_and_protected(memory: Memory) {
    let Some(uffd) = open() else { return };
    let base = map(4, memory);
    uffd.register(base, 4 * PAGE as u64, memory).unwrap();
    let page = vec![7; PAGE];

    let reader = std::thread::spawn(move || read_at(base + 5));
    let fault = next_fault(&uffd);
    assert_eq!(
        (fault.address, fault.write, fault.protected),
        (base, false, false)
    );
    assert_ne!(fault.thread, 0);
    assert_eq!(uffd.copy(base, &page, true), Ok(Fill::Complete));
    assert_eq!(reader.join().unwrap(), 7);
    assert_eq!(uffd.copy(base, &page, true), Ok(Fill::Exists(base)));

    let writer = std::thread::spawn(move || write_at(base + 5, 9));
    let fault = next_fault(&uffd);
    assert_eq!(
        (fault.address, fault.write, fault.protected),
        (base, true, true)
    );
    uffd.unprotect(base, PAGE as u64).unwrap();
    writer.join().unwrap();
    uffd.protect(base, PAGE as u64).unwrap();
    let writer = std::thread::spawn(move || write_at(base + 6, 10));
    assert!(next_fault(&uffd).protected);
    assert_eq!((read_at(base + 5), read_at(base + 6)), (9, 7));
    uffd.unprotect(base, PAGE as u64).unwrap();
    writer.join().unwrap();
}

#[test]
fn anonymous_memory() {
    missing_and_protected(Memory::Anonymous);
}

#[test]
fn shared_memory() {
    missing_and_protected(Memory::Shmem);
}

#[test]
fn fills_go_on_around_pages_that_exist() {
    let Some(uffd) = open() else { return };
    let (base, len) = (map(8, Memory::Anonymous), 8 * PAGE as u64);
    uffd.register(base, len, Memory::Anonymous).unwrap();
    let third = base + 3 * PAGE as u64;
    assert_eq!(uffd.copy(third, &[1; PAGE], false), Ok(Fill::Complete));
    assert_eq!(uffd.zero(base, len), Ok(Fill::Exists(third)));
    assert_eq!(
        uffd.zero(third + PAGE as u64, len - 4 * PAGE as u64),
        Ok(Fill::Complete)
    );
    let bytes: Vec<u8> = (0..8)
        .map(|page| read_at(base + page * PAGE as u64))
        .collect();
    assert_eq!(bytes, [0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn wake_makes_the_waiter_fault_again() {
    let Some(uffd) = open() else { return };
    let base = map(1, Memory::Anonymous);
    uffd.register(base, PAGE as u64, Memory::Anonymous).unwrap();
    let reader = std::thread::spawn(move || read_at(base));
    assert_eq!(next_fault(&uffd).address, base);
    uffd.wake(base, PAGE as u64).unwrap();
    assert_eq!(next_fault(&uffd).address, base);
    assert_eq!(uffd.zero(base, PAGE as u64), Ok(Fill::Complete));
    assert_eq!(reader.join().unwrap(), 0);
}

#[test]
fn a_range_belongs_to_one_context() {
    let (Some(first), Some(second)) = (open(), open()) else {
        return;
    };
    let base = map(1, Memory::Anonymous);
    first
        .register(base, PAGE as u64, Memory::Anonymous)
        .unwrap();
    let error = second
        .register(base, PAGE as u64, Memory::Anonymous)
        .unwrap_err();
    assert!(
        matches!(
            error,
            UffdError::Call {
                errno: libc::EBUSY,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn ranges_may_lie_in_several_mappings() {
    let Some(uffd) = open() else { return };
    let page = PAGE as u64;
    let base = map(16, Memory::Anonymous);
    uffd.register(base, 16 * page, Memory::Anonymous).unwrap();
    for cut in [3, 4, 11] {
        // SAFETY: a page of the mapping; the advice concerns forks only, and makes it a mapping of its own.
        let result = unsafe {
            libc::madvise(
                (base + cut * page) as *mut libc::c_void,
                PAGE,
                libc::MADV_DONTFORK,
            )
        };
        assert_eq!(result, 0);
    }
    let bytes = vec![5; 8 * PAGE];
    assert_eq!(uffd.copy(base, &bytes, true), Ok(Fill::Complete));
    assert_eq!(uffd.zero(base + 8 * page, 8 * page), Ok(Fill::Complete));
    uffd.unprotect(base, 16 * page).unwrap();
    (0..16).for_each(|number| write_at(base + number * page + 1, 6));
    uffd.protect(base, 16 * page).unwrap();
    let writers: Vec<_> = (0..16)
        .map(|number| {
            let writer = std::thread::spawn(move || write_at(base + number * page + 2, 7));
            let fault = next_fault(&uffd);
            assert_eq!(
                (fault.address, fault.protected),
                (base + number * page, true)
            );
            writer
        })
        .collect();
    uffd.unprotect(base, 16 * page).unwrap();
    writers
        .into_iter()
        .for_each(|writer| writer.join().unwrap());
    for number in 0..16 {
        let first = if number < 8 { 5 } else { 0 };
        let read = [0, 1, 2].map(|at| read_at(base + number * page + at));
        assert_eq!(read, [first, 6, 7], "page {number}");
    }
}

#[test]
fn moved_memory_stays_registered_and_its_mover_waits_until_that_is_read() {
    let uffd = match Uffd::open_movable() {
        Ok(uffd) => uffd,
        Err(error @ UffdError::Permission { .. }) => return println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    let (pattern, place) = (map(1, Memory::Anonymous), map(1, Memory::Shmem));
    uffd.register(pattern, PAGE as u64, Memory::Anonymous)
        .unwrap();
    write_at(place, 1);
    for round in 0..3 {
        let mover = std::thread::spawn(move || {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
            // SAFETY: both are pages of this test; the one at `place` is replaced, which nobody has references into.
            let result =
                unsafe { libc::syscall(libc::SYS_mremap, pattern, PAGE, PAGE, flags, place) };
            assert_eq!(result as u64, place);
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!mover.is_finished());
        let mut faults = Vec::new();
        while !mover.is_finished() {
            uffd.read(&mut faults).unwrap();
            assert!(faults.is_empty(), "an event that is no fault");
        }
        mover.join().unwrap();
        let reader = std::thread::spawn(move || read_at(place));
        assert_eq!(next_fault(&uffd).address, place);
        assert_eq!(uffd.copy(place, &[round; PAGE], false), Ok(Fill::Complete));
        assert_eq!(reader.join().unwrap(), round);
    }
}
