//! The system calls that the standard library does not wrap.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use lev_agent::message::TerminalSize;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Makes reads and writes on a descriptor return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain fcntl on a descriptor that the borrow keeps open; no memory is passed.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// A descriptor that becomes readable when the child ends.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers; the child has not been waited for, so the id is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    check(fd as libc::c_int)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Waits until something in the list is ready, at most `timeout` milliseconds (-1: for ever).
pub fn poll(list: &mut [libc::pollfd], timeout: i32) -> io::Result<()> {
    // SAFETY: the pointer and length are those of a live slice of pollfd.
    let done = unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout) };
    match check(done) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Sends a signal to one process, or with a negative id to a process group.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Makes processes whose parent has ended our children, if they descend from us.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: prctl with integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map(drop)
}

/// Takes the exit status of a child that nobody else waits for, if it has ended.
pub fn reap(pid: u32) {
    // SAFETY: waitpid with no place for the status; the id is a child's or the call fails.
    unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::WNOHANG) };
}

/// A new terminal: our side, and the side for a program.
pub fn open_terminal(size: TerminalSize) -> io::Result<(File, OwnedFd)> {
    let (mut ours, mut theirs) = (-1, -1);
    let window = window_size(size);
    // SAFETY: two valid places for descriptors, no name, default settings, and a live winsize.
    check(unsafe {
        libc::openpty(
            &mut ours,
            &mut theirs,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            &window,
        )
    })?;
    // SAFETY: openpty has just returned both descriptors to us alone.
    let (ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    set_close_on_exec(ours.as_fd())?;
    set_close_on_exec(theirs.as_fd())?;
    Ok((ours, theirs))
}

fn set_close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain fcntl on a descriptor that the borrow keeps open.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Tells a terminal its size.
pub fn resize_terminal(terminal: BorrowedFd<'_>, size: TerminalSize) -> io::Result<()> {
    let window = window_size(size);
    // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call returns.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &window) }).map(drop)
}

fn window_size(size: TerminalSize) -> libc::winsize {
    libc::winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Makes the program a session leader of its own; with `terminal` its standard input becomes
/// its controlling terminal.
pub fn own_session(command: &mut Command, terminal: bool) {
    let prepare = move || {
        // SAFETY: setsid takes nothing and is async-signal-safe.
        check(unsafe { libc::setsid() })?;
        if terminal {
            // SAFETY: TIOCSCTTY takes an integer; descriptor 0 is the terminal by now.
            check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system
    // calls; it allocates nothing (an io::Error from errno holds only the number).
    unsafe { command.pre_exec(prepare) };
}

/// The kernel kills the program when the thread that starts it ends.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id() as libc::pid_t;
    let prepare = move || {
        // SAFETY: prctl with integers only, async-signal-safe.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: getppid takes nothing. A parent that ended before the prctl sends no signal.
        if unsafe { libc::getppid() } != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: as in `own_session`.
    unsafe { command.pre_exec(prepare) };
}

/// Switches the machine off. Returns only on failure.
pub fn power_off() -> io::Error {
    // SAFETY: sync takes nothing; reboot takes one integer.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    io::Error::last_os_error()
}
