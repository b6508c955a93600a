//! What can be wrong with a trace file.

use std::fmt;

/// A file that is no trace, or a broken one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceError {
    /// The file is too short for a header: so many bytes.
    Short(usize),
    /// The first eight bytes are not those of a trace.
    Magic,
    /// Written by another version of the layout.
    Version(u16),
    /// A field of the header has a value that cannot be.
    Header {
        /// Where, in bytes.
        offset: usize,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The header announces another number of records than there are.
    Length {
        /// Records announced.
        announced: u64,
        /// Bytes after the header.
        bytes: usize,
    },
    /// A record that cannot be.
    Record {
        /// Where, in bytes.
        offset: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Files that do not belong together.
    Mixed {
        /// What differs.
        what: &'static str,
        /// In the first file.
        first: u64,
        /// In this one.
        other: u64,
    },
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(bytes) => {
                write!(f, "{bytes} bytes are too few for the header of a trace")
            }
            Self::Magic => write!(f, "offset 0: not a trace of Leviathan"),
            Self::Version(version) => {
                write!(
                    f,
                    "offset 8: version {version} of the layout; this program reads 1"
                )
            }
            Self::Header {
                offset,
                field,
                value,
            } => write!(f, "offset {offset}: {field} cannot be {value}"),
            Self::Length { announced, bytes } => write!(
                f,
                "offset 40: {announced} records are announced, and {bytes} bytes follow the header"
            ),
            Self::Record { offset, why } => write!(f, "offset {offset}: {why}"),
            Self::Mixed { what, first, other } => {
                write!(f, "not of one run: {what} is {first} and {other}")
            }
        }
    }
}

impl std::error::Error for TraceError {}
