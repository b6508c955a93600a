//! What can go wrong with userfaultfd.

use std::fmt;

/// An error of userfaultfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UffdError {
    /// This process may not serve page faults of the kernel.
    Permission {
        /// Its error number.
        errno: i32,
    },
    /// The kernel lacks something.
    Missing {
        /// What it lacks.
        what: &'static str,
        /// What it offers, as bits.
        features: u64,
    },
    /// A call failed.
    Call {
        /// Which call.
        call: &'static str,
        /// Address that it was about, or its operand.
        at: u64,
        /// Its error number.
        errno: i32,
    },
}

impl UffdError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Permission { .. } => Some(
                "run as root, or give this user read and write access to /dev/userfaultfd (Linux 6.1 and later), \
                 or set the sysctl vm.unprivileged_userfaultfd=1",
            ),
            Self::Missing { .. } => Some("use a kernel of 5.19 or later with CONFIG_USERFAULTFD=y"),
            Self::Call { errno: libc::EBUSY, .. } => Some("another userfaultfd is registered on this memory"),
            Self::Call { errno: libc::ENOMEM, .. } => Some("raise the sysctl vm.max_map_count, or free memory"),
            Self::Call { .. } => None,
        }
    }
}

impl fmt::Display for UffdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permission { errno } => {
                write!(
                    f,
                    "no permission to serve the kernel's page faults (errno {errno})"
                )?;
            }
            Self::Missing { what, features } => {
                write!(f, "the kernel lacks {what}; it offers {features:#x}")?
            }
            Self::Call { call, at, errno } => {
                write!(f, "{call} at {at:#x} failed with errno {errno}")?
            }
        }
        match self.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UffdError {}
