//! The C symbols that this library puts before glibc's.

use crate::{discard, entry, fail, vm};
use lev_kvmabi::ioctl as number;
use std::ffi::{c_int, c_ulong, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Runs `body` with errno kept on success; a panic ends the process with a message instead of crossing into C.
fn guarded(body: impl FnOnce() -> Result<i32, i32>) -> c_int {
    // SAFETY: errno's location is valid for the calling thread.
    let before = unsafe { *libc::__errno_location() };
    let result = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| fail::die(fail::GUEST_DIED, "internal error in the KVM facade", None));
    let (value, errno) = match result {
        Ok(value) => (value, before),
        Err(errno) => (-1, errno),
    };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    value
}

fn raw_ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    // SAFETY: what the caller gave goes to the kernel unchanged; the system call sets errno as ioctl does.
    unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int }
}

/// `ioctl(2)`: KVM's calls are answered here, all others go to the kernel.
///
/// # Safety
/// As for ioctl(2).
#[no_mangle]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    // QEMU passes an `int`: numbers with the top bit set arrive sign-extended.
    let call = request as u32;
    if !number::is_kvm(call) || !vm::enabled() {
        return raw_ioctl(fd, request, argument);
    }
    // SAFETY: the caller's contract: `argument` is what `call` expects.
    guarded(|| unsafe { entry::kvm_call(fd, call, argument) })
}

/// The kernel's answer to a raw system call as `Result`.
fn answered(result: i64) -> Result<(), i32> {
    if result < 0 {
        Err(entry::errno(&std::io::Error::last_os_error()))
    } else {
        Ok(())
    }
}

/// `madvise(2)`: guest memory that QEMU gives back is emptied on every node.
///
/// # Safety
/// As for madvise(2).
#[no_mangle]
pub unsafe extern "C" fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int {
    const DISCARDS: [c_int; 3] = [libc::MADV_DONTNEED, libc::MADV_REMOVE, libc::MADV_FREE];
    // SAFETY: the caller's arguments, or a part of the caller's range.
    let raw =
        |start: usize, len: usize| unsafe { libc::syscall(libc::SYS_madvise, start, len, advice) };
    // Huge pages would make the unit of coherence 2 MiB.
    let huge = advice == libc::MADV_HUGEPAGE || advice == libc::MADV_MERGEABLE;
    match vm::current() {
        Some(vm) if huge && discard::holds(vm, address as usize, len) => 0,
        Some(vm) if DISCARDS.contains(&advice) => guarded(|| {
            discard::divide(vm, address as usize, len, |start, len| {
                answered(raw(start, len))
            })
        }),
        _ => raw(address as usize, len) as c_int,
    }
}

/// `munmap(2)`: coherent guest memory is emptied on every node and its addresses stay taken, so that nothing else can appear
/// where other nodes know a page of the guest.
///
/// # Safety
/// As for munmap(2).
#[no_mangle]
pub unsafe extern "C" fn munmap(address: *mut c_void, len: usize) -> c_int {
    // SAFETY: the caller's arguments, or a part of the caller's range.
    let raw = |start: usize, len: usize| unsafe { libc::syscall(libc::SYS_munmap, start, len) };
    match vm::current() {
        Some(vm) => guarded(|| {
            if let Some(shared) = &vm.shared {
                vm.kept.give_up(&shared.engine, address as usize, len);
            }
            discard::divide(vm, address as usize, len, |start, len| {
                answered(raw(start, len))
            })
        }),
        None => raw(address as usize, len) as c_int,
    }
}

/// `fallocate(2)`: a hole in a file that is guest memory is made on every node.
///
/// # Safety
/// As for fallocate(2).
#[no_mangle]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, offset: i64, len: i64) -> c_int {
    // SAFETY: numbers only.
    let result = unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, offset, len) };
    match vm::current() {
        Some(vm) if result == 0 && mode & libc::FALLOC_FL_PUNCH_HOLE != 0 => guarded(|| {
            discard::punch(vm, fd, offset, len);
            Ok(0)
        }),
        _ => result as c_int,
    }
}

/// `fallocate64(2)`: what programs with 64-bit file offsets call.
///
/// # Safety
/// As for fallocate(2).
#[no_mangle]
pub unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: i64, len: i64) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { fallocate(fd, mode, offset, len) }
}

extern "C" fn start() {
    // Programs that QEMU starts are not QEMU.
    // SAFETY: before main, one thread.
    unsafe { libc::unsetenv(c"LD_PRELOAD".as_ptr()) };
}

#[used]
#[link_section = ".init_array"]
static START: extern "C" fn() = start;
