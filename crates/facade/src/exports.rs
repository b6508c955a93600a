//! The C symbols that this library puts before glibc's.

use crate::{entry, fail, vm};
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

/// `madvise(2)`: guest memory that QEMU gives back is emptied on every node.
///
/// # Safety
/// As for madvise(2).
#[no_mangle]
pub unsafe extern "C" fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int {
    const DISCARDS: [c_int; 3] = [libc::MADV_DONTNEED, libc::MADV_REMOVE, libc::MADV_FREE];
    if let Some(vm) = vm::current().filter(|vm| vm.holds(address as usize, len)) {
        if DISCARDS.contains(&advice) {
            return guarded(|| {
                vm.discard(address.cast(), len);
                Ok(0)
            });
        }
        // Huge pages would make the unit of coherence 2 MiB.
        if advice == libc::MADV_HUGEPAGE || advice == libc::MADV_MERGEABLE {
            return 0;
        }
    }
    // SAFETY: the caller's arguments, unchanged.
    unsafe { libc::syscall(libc::SYS_madvise, address, len, advice) as c_int }
}

extern "C" fn start() {
    // Programs that QEMU starts are not QEMU.
    // SAFETY: before main, one thread.
    unsafe { libc::unsetenv(c"LD_PRELOAD".as_ptr()) };
}

#[used]
#[link_section = ".init_array"]
static START: extern "C" fn() = start;
