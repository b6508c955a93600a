//! `KVM_IRQFD`: an eventfd whose signal raises an interrupt line.
//!
//! The kernel's own would reach for local APICs that this VM does not have there. One thread sleeps on all registered
//! eventfds and raises their lines through the routing table. With `kernel-irqchip=split` QEMU keeps the "resample" eventfd
//! of a level-triggered line to itself and signals it when its I/O APIC sees the end of the interrupt, so none arrives here;
//! the kernel refuses them in that mode, and so do we.

use crate::entry::errno;
use lev_kvmabi::bindings as k;
use lev_mesh::peers::spawn_first;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

const DEASSIGN: u32 = 1;

/// What a signalled eventfd does: raises this line.
type Raise = Box<dyn Fn(u32) + Send + Sync>;

/// The registered eventfds; the thread starts with the first.
#[derive(Default)]
pub struct Irqfds {
    watch: OnceLock<Result<Arc<Watch>, i32>>,
}

impl Irqfds {
    /// Registers or removes one.
    pub fn change(
        &self,
        request: &k::kvm_irqfd,
        raise: impl FnOnce() -> Raise,
    ) -> Result<i32, i32> {
        if request.flags & !DEASSIGN != 0 {
            return Err(libc::EINVAL);
        }
        let watch = self
            .watch
            .get_or_init(|| Watch::start(raise()))
            .as_ref()
            .map_err(|errno| *errno)?;
        if request.flags & DEASSIGN != 0 {
            watch.remove(request.fd as i32, request.gsi);
            return Ok(0);
        }
        watch
            .add(request.fd as i32, request.gsi)
            .map_err(|error| errno(&error))?;
        Ok(0)
    }
}

struct Watch {
    epoll: OwnedFd,
    entries: Mutex<Entries>,
    raise: Raise,
}

#[derive(Default)]
struct Entries {
    next: u64,
    all: Vec<Entry>,
}

struct Entry {
    token: u64,
    /// QEMU's number of it.
    fd: i32,
    line: u32,
    /// Our own descriptor: QEMU may close its own first.
    eventfd: OwnedFd,
}

impl Watch {
    fn start(raise: Raise) -> Result<Arc<Self>, i32> {
        // SAFETY: a flag; the result is a new descriptor or an error.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(errno(&io::Error::last_os_error()));
        }
        let watch = Arc::new(Self {
            // SAFETY: a new descriptor of our own.
            epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
            entries: Mutex::default(),
            raise,
        });
        let this = Arc::clone(&watch);
        spawn_first("lev-irqfd", move || this.serve()).map_err(|_| libc::EAGAIN)?;
        Ok(watch)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An eventfd that has been signalled already raises its line at once, as in the kernel.
    fn add(&self, fd: i32, line: u32) -> io::Result<()> {
        let name = std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        if name.as_os_str() != "anon_inode:[eventfd]" {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: numbers only; the result is a new descriptor or an error.
        let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
        if own < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor of our own.
        let eventfd = unsafe { OwnedFd::from_raw_fd(own) };
        let mut entries = self.lock();
        // KVM forgets an eventfd that is closed: its number coming again means another one.
        self.forget(&mut entries, |entry| entry.fd == fd);
        let token = entries.next;
        entries.next += 1;
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        // SAFETY: two descriptors of ours and an event that lives through the call.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, own, &mut event)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        entries.all.push(Entry {
            token,
            fd,
            line,
            eventfd,
        });
        Ok(())
    }

    /// After it returns the eventfd is QEMU's alone.
    fn remove(&self, fd: i32, line: u32) {
        self.forget(&mut self.lock(), |entry| {
            entry.fd == fd && entry.line == line
        });
    }

    fn forget(&self, entries: &mut Entries, which: impl Fn(&Entry) -> bool) {
        let epoll = self.epoll.as_raw_fd();
        entries.all.retain(|entry| {
            let goes = which(entry);
            if goes {
                let own = entry.eventfd.as_raw_fd();
                // The registration hangs on the open eventfd, which outlives our descriptor.
                // SAFETY: two descriptors of ours; a null event is allowed for removal.
                unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, own, std::ptr::null_mut()) };
            }
            !goes
        });
    }

    fn serve(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        loop {
            // SAFETY: room for the number of events that is given; sleeps until there is one.
            let count = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    events.len() as i32,
                    -1,
                )
            };
            for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
                let token = event.u64;
                // Held until the line is raised: `remove` returns when nothing of the old registration is under way.
                let entries = self.lock();
                let entry = entries.all.iter().find(|entry| entry.token == token);
                if let Some(entry) = entry.filter(|entry| take(entry.eventfd.as_raw_fd())) {
                    (self.raise)(entry.line);
                }
            }
        }
    }
}

/// Takes an eventfd's count; false if somebody else was faster. Never waits, whatever the descriptor's mode.
fn take(fd: i32) -> bool {
    let mut count = 0u64;
    let part = libc::iovec {
        iov_base: std::ptr::from_mut(&mut count).cast(),
        iov_len: 8,
    };
    // SAFETY: one part of eight bytes; offset -1 means the descriptor's own position.
    unsafe { libc::preadv2(fd, &part, 1, -1, libc::RWF_NOWAIT) == 8 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{channel, Receiver};
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(5);
    const NEVER: Duration = Duration::from_millis(100);

    fn irqfds() -> (Irqfds, impl Fn() -> Raise, Receiver<u32>) {
        let (sender, receiver) = channel();
        let raise = move || -> Raise {
            let sender = sender.clone();
            Box::new(move |line| sender.send(line).unwrap())
        };
        (Irqfds::default(), raise, receiver)
    }

    fn eventfd(count: u32) -> OwnedFd {
        // SAFETY: numbers only; a new descriptor. Blocking, the harder case.
        unsafe { OwnedFd::from_raw_fd(libc::eventfd(count, libc::EFD_CLOEXEC)) }
    }

    fn signal(fd: &OwnedFd) {
        let one = 1u64;
        // SAFETY: eight bytes to an eventfd.
        let sent = unsafe { libc::write(fd.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
        assert_eq!(sent, 8);
    }

    fn request(fd: i32, gsi: u32, flags: u32) -> k::kvm_irqfd {
        k::kvm_irqfd {
            fd: fd as u32,
            gsi,
            flags,
            ..Default::default()
        }
    }

    #[test]
    fn a_signal_raises_the_line_until_the_eventfd_is_removed() {
        let (irqfds, raise, raised) = irqfds();
        let (first, second) = (eventfd(0), eventfd(1));
        let change =
            |fd: &OwnedFd, gsi, flags| irqfds.change(&request(fd.as_raw_fd(), gsi, flags), &raise);
        assert_eq!(change(&first, 24, 0), Ok(0));
        signal(&first);
        assert_eq!(raised.recv_timeout(SOON), Ok(24));
        // Signalled before it was registered.
        assert_eq!(change(&second, 25, 0), Ok(0));
        assert_eq!(raised.recv_timeout(SOON), Ok(25));
        // Of another line: nothing to remove.
        assert_eq!(change(&first, 26, DEASSIGN), Ok(0));
        signal(&first);
        assert_eq!(raised.recv_timeout(SOON), Ok(24));
        assert_eq!(change(&first, 24, DEASSIGN), Ok(0));
        signal(&first);
        assert!(raised.recv_timeout(NEVER).is_err());
        // What came after the removal is QEMU's to read.
        assert!(take(first.as_raw_fd()));
    }

    #[test]
    fn a_number_that_comes_again_is_another_eventfd() {
        let (irqfds, raise, raised) = irqfds();
        let old = eventfd(0);
        let number = old.as_raw_fd();
        irqfds.change(&request(number, 30, 0), &raise).unwrap();
        let new = eventfd(0);
        // SAFETY: puts the new eventfd at the old one's number, which `old` then closes.
        assert_eq!(unsafe { libc::dup2(new.as_raw_fd(), number) }, number);
        irqfds.change(&request(number, 31, 0), &raise).unwrap();
        signal(&new);
        assert_eq!(raised.recv_timeout(SOON), Ok(31));
        assert!(raised.recv_timeout(NEVER).is_err());
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let (irqfds, raise, _raised) = irqfds();
        let event = eventfd(0);
        let resample = request(event.as_raw_fd(), 5, 2);
        assert_eq!(irqfds.change(&resample, &raise), Err(libc::EINVAL));
        let file = std::fs::File::open("/dev/null").unwrap();
        let other = request(file.as_raw_fd(), 5, 0);
        assert_eq!(irqfds.change(&other, &raise), Err(libc::EINVAL));
        assert_eq!(
            irqfds.change(&request(-1i32, 5, 0), &raise),
            Err(libc::EBADF)
        );
    }
}
