//! What can stop a check from running at all (as opposed to a check that fails).

use std::fmt;

/// A check could not be carried out.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong: {0}
    Usage(String),
    /// {call} failed: errno {errno}
    Syscall {
        /// Name of the system call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
    /// {path} cannot be read: {reason}
    Read {
        /// The file.
        path: String,
        /// Text of the I/O error.
        reason: String,
    },
    /// {what} is not understood: {text}
    Parse {
        /// What was being read.
        what: &'static str,
        /// The offending text.
        text: String,
    },
    /// this check needs {needed} CPUs, {found} may be used
    TooFewCpus {
        /// Least number of distinct CPUs.
        needed: usize,
        /// Number of CPUs found.
        found: usize,
    },
    /// CPU {cpu} cannot be used (online and allowed: {allowed:?})
    NoSuchCpu {
        /// The CPU asked for.
        cpu: usize,
        /// CPUs on which this process may run.
        allowed: Vec<usize>,
    },
    /// member {tid} of the team, a process, ended with {code:?} before its work was done
    Member {
        /// Its number.
        tid: usize,
        /// Its exit code; none: a signal ended it.
        code: Option<i32>,
    },
}

impl Error {
    /// The failure of `call` with the errno of this thread.
    pub fn last(call: &'static str) -> Error {
        Error::Syscall {
            call,
            errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(what) => write!(f, "{what}"),
            Error::Syscall { call, errno } => {
                let text = std::io::Error::from_raw_os_error(*errno);
                write!(f, "{call} failed: {text}")
            }
            Error::Read { path, reason } => write!(f, "{path} cannot be read: {reason}"),
            Error::Parse { what, text } => write!(f, "{what} is not understood: {text:?}"),
            Error::TooFewCpus { needed, found } => {
                write!(f, "this check needs {needed} CPUs, {found} may be used")
            }
            Error::Member { tid, code } => {
                write!(f, "member {tid} of the team, a process, ended with {code:?} before its work was done")
            }
            Error::NoSuchCpu { cpu, allowed } => {
                write!(f, "CPU {cpu} cannot be used (allowed: {allowed:?})")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Result of carrying out a check.
pub type Result<T> = std::result::Result<T, Error>;
