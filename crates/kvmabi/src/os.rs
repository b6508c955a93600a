//! The raw system call: in QEMU's process the symbol `ioctl` is ours, so the kernel is called directly.

use std::io;

/// `ioctl` by system call, without any library symbol.
///
/// # Safety
/// `argument` must be what `request` on `fd` expects: a number, or a pointer to memory of the right size and
/// alignment that lives through the call.
pub unsafe fn ioctl(fd: i32, request: u32, argument: usize) -> io::Result<i32> {
    // SAFETY: the caller vouches for the argument; an unknown descriptor or request is an error, not undefined.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, fd, libc::c_ulong::from(request), argument) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// `ioctl` with a structure.
///
/// # Safety
/// `request` must take a pointer to a `T`, and any pointers inside it must hold for the call.
pub unsafe fn ioctl_with<T>(fd: i32, request: u32, argument: &mut T) -> io::Result<i32> {
    // SAFETY: a reference is a valid pointer for the call; the rest is the caller's promise.
    unsafe { ioctl(fd, request, std::ptr::from_mut(argument) as usize) }
}
