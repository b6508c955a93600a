//! userfaultfd, the smallest wrapper that serves guest memory: missing and write-protect faults, installed by copy
//! or zero fill.
//!
//! KVM's own faults must be served, so `UFFD_USER_MODE_ONLY` is never used. The device node is tried before the
//! system call: access to a file can be given to a user, and it grants kernel faults without a sysctl.
//!
//! System calls are made by number, not through libc's wrappers: this crate also runs inside a process whose
//! `ioctl` is interposed.

mod abi;
mod error;
mod fill;

pub use error::UffdError;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Events taken from the kernel at once.
const BATCH: usize = 16;

/// What kind of memory is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Private anonymous memory.
    Anonymous,
    /// Shared memory (memfd, tmpfs); needs kernel 5.19.
    Shmem,
}

/// A page fault. It may be old when it is read: decide by the page's state, never by the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Address that faulted, rounded down to its page.
    pub address: u64,
    /// The access was a write.
    pub write: bool,
    /// The page was there and write-protected when the fault happened.
    pub protected: bool,
    /// Id of the thread that faulted.
    pub thread: u32,
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// All pages are in place.
    Complete,
    /// The page at this address was there already; those before it are in place, it and those after it untouched.
    Exists(u64),
}

/// One userfaultfd context. May be used from many threads at once.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    features: u64,
}

impl Uffd {
    /// Opens a context (non-blocking, close-on-exec) with write-protection and thread ids.
    ///
    /// # Errors
    /// [`UffdError::Permission`], [`UffdError::Missing`] for a kernel that lacks what is needed, or a failed call.
    pub fn open() -> Result<Self, UffdError> {
        Self::open_with(0)
    }

    /// The same, and memory that `mremap` moves stays registered. From then on, whoever moves registered memory waits inside of
    /// `mremap` until a thread calls [`Uffd::read`], and fills and protections wait meanwhile.
    ///
    /// # Errors
    /// As [`Uffd::open`]; [`UffdError::Missing`] also for a kernel that does not know this.
    pub fn open_movable() -> Result<Self, UffdError> {
        Self::open_with(abi::UFFD_FEATURE_EVENT_REMAP)
    }

    fn open_with(more: u64) -> Result<Self, UffdError> {
        // A context takes its features once only, so one context is spent on asking what there is.
        let available = handshake(&open_descriptor()?, 0)?;
        if available & more != more {
            return Err(UffdError::Missing {
                what: "registration that survives mremap (UFFD_FEATURE_EVENT_REMAP, Linux 4.11)",
                features: available,
            });
        }
        let needed = abi::UFFD_FEATURE_PAGEFAULT_FLAG_WP | abi::UFFD_FEATURE_THREAD_ID | more;
        if available & needed != needed {
            return Err(UffdError::Missing {
                what: "write-protect faults (Linux 5.7)",
                features: available,
            });
        }
        let features = needed | (available & abi::SHMEM_FEATURES);
        let fd = open_descriptor()?;
        handshake(&fd, features)?;
        Ok(Self { fd, features })
    }

    /// Registers `[start, start + len)` for missing and write-protect faults.
    ///
    /// # Errors
    /// The kernel cannot do this for shared memory, or the call failed (`EBUSY`: another context has the range).
    pub fn register(&self, start: u64, len: u64, memory: Memory) -> Result<(), UffdError> {
        if memory == Memory::Shmem && self.features & abi::SHMEM_FEATURES != abi::SHMEM_FEATURES {
            return Err(UffdError::Missing {
                what: "write-protection of shared memory (Linux 5.19)",
                features: self.features,
            });
        }
        let mut request = abi::UffdioRegister {
            range: abi::UffdioRange { start, len },
            mode: abi::UFFDIO_REGISTER_MODE_MISSING | abi::UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        self.ioctl("UFFDIO_REGISTER", abi::UFFDIO_REGISTER, &mut request, start)?;
        if request.ioctls & abi::NEEDED_RANGE_IOCTLS != abi::NEEDED_RANGE_IOCTLS {
            return Err(UffdError::Missing {
                what: "copy, zero fill or write-protection of this memory",
                features: request.ioctls,
            });
        }
        Ok(())
    }

    /// Ends the registration of `[start, start + len)` and wakes everybody who waits there.
    ///
    /// # Errors
    /// The call failed.
    pub fn unregister(&self, start: u64, len: u64) -> Result<(), UffdError> {
        let mut range = abi::UffdioRange { start, len };
        self.ioctl(
            "UFFDIO_UNREGISTER",
            abi::UFFDIO_UNREGISTER,
            &mut range,
            start,
        )?;
        // The kernel wakes first and ends the registration then. Faults hold the lock of their mapping only (Linux 6.7), so
        // one may begin to wait in between, of which nothing would ever wake it. Now none can come any more.
        self.wake(start, len)
    }

    /// Installs `bytes` (whole pages) at `to` and wakes the waiters; `protect`: without the right to write.
    ///
    /// # Errors
    /// The call failed for another reason than a page that was there already.
    pub fn copy(&self, to: u64, bytes: &[u8], protect: bool) -> Result<Fill, UffdError> {
        let mode = if protect { abi::UFFDIO_COPY_MODE_WP } else { 0 };
        fill::all(to, bytes.len() as u64, |done, len| {
            let (part, dst) = (&bytes[done as usize..][..len as usize], to + done);
            let mut request = abi::UffdioCopy {
                dst,
                src: part.as_ptr() as u64,
                len,
                mode,
                copy: 0,
            };
            let result = self.ioctl("UFFDIO_COPY", abi::UFFDIO_COPY, &mut request, dst);
            (request.copy, result)
        })
    }

    /// Installs zeroes, writable, in `[start, start + len)` and wakes the waiters.
    ///
    /// # Errors
    /// The call failed for another reason than a page that was there already.
    pub fn zero(&self, start: u64, len: u64) -> Result<Fill, UffdError> {
        fill::all(start, len, |done, len| {
            let range = abi::UffdioRange {
                start: start + done,
                len,
            };
            let mut request = abi::UffdioZeropage {
                range,
                mode: 0,
                zeropage: 0,
            };
            let call = "UFFDIO_ZEROPAGE";
            let result = self.ioctl(call, abi::UFFDIO_ZEROPAGE, &mut request, range.start);
            (request.zeropage, result)
        })
    }

    /// Takes the right to write from the pages that are present in `[start, start + len)`. On return no processor
    /// and no KVM guest of this process can write them.
    ///
    /// # Errors
    /// The call failed.
    pub fn protect(&self, start: u64, len: u64) -> Result<(), UffdError> {
        self.write_protect(start, len, abi::UFFDIO_WRITEPROTECT_MODE_WP)
    }

    /// Gives the right to write back and wakes the waiters.
    ///
    /// # Errors
    /// The call failed.
    pub fn unprotect(&self, start: u64, len: u64) -> Result<(), UffdError> {
        self.write_protect(start, len, 0)
    }

    /// Wakes everybody who waits for a page in `[start, start + len)`: they try again.
    ///
    /// # Errors
    /// The call failed.
    pub fn wake(&self, start: u64, len: u64) -> Result<(), UffdError> {
        let mut range = abi::UffdioRange { start, len };
        self.ioctl("UFFDIO_WAKE", abi::UFFDIO_WAKE, &mut range, start)
    }

    /// Takes the faults that wait now, at most a batch, without blocking; `faults` is replaced.
    ///
    /// # Errors
    /// Reading failed.
    pub fn read(&self, faults: &mut Vec<Fault>) -> Result<(), UffdError> {
        faults.clear();
        let mut messages = [abi::UffdMsg::default(); BATCH];
        // SAFETY: read(2) writes at most the given number of bytes into `messages`, which is that large, is
        // exclusively borrowed here, and for which every bit pattern is valid (integers only).
        let count = unsafe {
            libc::syscall(
                libc::SYS_read,
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                std::mem::size_of_val(&messages),
            )
        };
        if count < 0 {
            return match errno() {
                libc::EAGAIN | libc::EINTR => Ok(()),
                errno => Err(UffdError::Call {
                    call: "read",
                    at: 0,
                    errno,
                }),
            };
        }
        let messages = &messages[..count as usize / std::mem::size_of::<abi::UffdMsg>()];
        faults.extend(
            messages
                .iter()
                .filter(|message| message.event == abi::UFFD_EVENT_PAGEFAULT)
                .map(|message| Fault {
                    address: message.address & !(PAGE - 1),
                    write: message.flags & abi::UFFD_PAGEFAULT_FLAG_WRITE != 0,
                    protected: message.flags & abi::UFFD_PAGEFAULT_FLAG_WP != 0,
                    thread: message.ptid,
                }),
        );
        Ok(())
    }

    fn write_protect(&self, start: u64, len: u64, mode: u64) -> Result<(), UffdError> {
        fill::each(len, |done, len| {
            let range = abi::UffdioRange {
                start: start + done,
                len,
            };
            let mut request = abi::UffdioWriteprotect { range, mode };
            let call = "UFFDIO_WRITEPROTECT";
            self.ioctl(call, abi::UFFDIO_WRITEPROTECT, &mut request, range.start)
        })
    }

    fn ioctl<T>(
        &self,
        call: &'static str,
        request: u64,
        argument: &mut T,
        at: u64,
    ) -> Result<(), UffdError> {
        ioctl(&self.fd, request, argument).map_err(|errno| UffdError::Call { call, at, errno })
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Uffd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Agrees on the interface version and the features; returns what the kernel offers.
fn handshake(fd: &OwnedFd, features: u64) -> Result<u64, UffdError> {
    let mut api = abi::UffdioApi {
        api: abi::UFFD_API,
        features,
        ioctls: 0,
    };
    ioctl(fd, abi::UFFDIO_API, &mut api).map_err(|errno| UffdError::Call {
        call: "UFFDIO_API",
        at: features,
        errno,
    })?;
    Ok(api.features)
}

fn open_descriptor() -> Result<OwnedFd, UffdError> {
    const FLAGS: libc::c_int = libc::O_CLOEXEC | libc::O_NONBLOCK;
    if let Ok(device) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")
    {
        // SAFETY: USERFAULTFD_IOC_NEW takes flags by value and touches no memory of this process.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_ioctl,
                device.as_raw_fd(),
                abi::USERFAULTFD_IOC_NEW,
                FLAGS,
            )
        };
        if fd >= 0 {
            // SAFETY: the kernel just returned this descriptor and nobody else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        }
    }
    // SAFETY: userfaultfd(2) takes flags by value and touches no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) };
    if fd >= 0 {
        // SAFETY: the kernel just returned this descriptor and nobody else knows it.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    }
    Err(match errno() {
        errno @ (libc::EPERM | libc::EACCES) => UffdError::Permission { errno },
        libc::ENOSYS => UffdError::Missing {
            what: "userfaultfd (CONFIG_USERFAULTFD)",
            features: 0,
        },
        errno => UffdError::Call {
            call: "userfaultfd",
            at: 0,
            errno,
        },
    })
}

fn ioctl<T>(fd: &OwnedFd, request: u64, argument: &mut T) -> Result<(), i32> {
    // SAFETY: every request used in this crate reads and writes exactly the structure whose size is part of its
    // number, and `abi` asserts that `T` has that size; `argument` is exclusively borrowed for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), request, argument as *mut T) };
    if result < 0 {
        return Err(errno());
    }
    Ok(())
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
