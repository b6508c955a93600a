//! Runs a program that must not outlive the one who asked for it.
//!
//! The asker holds the other end of our standard input and never writes to it: however it
//! ends, even by SIGKILL, that end closes and the program is killed. Should the guard itself
//! be killed, the kernel kills the program.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::sys;

/// Exit code when the program could not be started.
const NOT_STARTED: i32 = 127;

/// Runs the program to its end or the asker's; returns the exit code (128 + signal number).
pub fn guard(argv: &[OsString]) -> io::Result<i32> {
    let Some((name, arguments)) = argv.split_first() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "guard: no program",
        ));
    };
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null());
    sys::die_with_parent(&mut command);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // The asker reads our standard error as the program's.
            let text = format!("cannot start {}: {error}\n", name.to_string_lossy());
            io::Write::write_all(&mut io::stderr(), text.as_bytes())?;
            return Ok(NOT_STARTED);
        }
    };
    let pidfd = sys::pidfd(child.id())?;
    loop {
        let watch = |fd: i32| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut list = [watch(io::stdin().as_raw_fd()), watch(pidfd.as_raw_fd())];
        sys::poll(&mut list, -1)?;
        if list[0].revents != 0 {
            child.kill()?;
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        if list[0].revents != 0 {
            child.wait()?;
            return Ok(128 + libc::SIGKILL);
        }
    }
}
