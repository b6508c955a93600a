//! userfaultfd: the smallest possible wrapper.

use std::fmt;

/// An error of userfaultfd.
#[derive(Debug)]
pub enum UffdError {
    /// A call failed.
    Call {
        /// Which call.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
}

impl fmt::Display for UffdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { call, errno } => write!(f, "{call} failed with errno {errno}"),
        }
    }
}

impl std::error::Error for UffdError {}
