//! What can be the pool: a file that every node can map, or a DAX device (`/dev/dax0.0`): memory that several machines
//! share, such as a region of CXL memory.

use crate::PoolMapping;
use lev_wire::PAGE_SIZE;
use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Why a file cannot be the pool.
#[derive(Debug)]
pub enum PoolFileError {
    /// It cannot be opened.
    Open {
        /// Of the file.
        path: String,
        /// As the kernel says it.
        error: std::io::Error,
    },
    /// It is neither a file nor a DAX device.
    Kind {
        /// Of the file.
        path: String,
    },
    /// It is smaller than the pool.
    Short {
        /// Of the file.
        path: String,
        /// Its bytes.
        size: u64,
        /// The pool's bytes.
        wanted: u64,
    },
    /// The device takes mappings at multiples of so many bytes only, and pages are mapped one by one.
    Alignment {
        /// Of the device.
        path: String,
        /// Bytes.
        alignment: u64,
    },
}

impl fmt::Display for PoolFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, error } => write!(f, "pool {path}: {error}"),
            Self::Kind { path } => write!(f, "pool {path} is neither a file nor a DAX device"),
            Self::Short { path, size, wanted } => write!(f, "pool {path} has {size} of {wanted} bytes"),
            Self::Alignment { path, alignment } => write!(
                f,
                "pool {path} is mapped in units of {alignment} bytes, and pages of {PAGE_SIZE} are needed one by one: make \
                 it anew with `ndctl create-namespace -m devdax --align {PAGE_SIZE}` or `daxctl create-device --align {PAGE_SIZE}`"
            ),
        }
    }
}

impl std::error::Error for PoolFileError {}

impl PoolMapping {
    /// Opens the pool in a file or DAX device and checks that it fits.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &str, len: u64) -> Result<Self, PoolFileError> {
        let open = |error| PoolFileError::Open {
            path: path.to_owned(),
            error,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(open)?;
        let metadata = file.metadata().map_err(open)?;
        let size = if metadata.file_type().is_char_device() {
            let (size, alignment) = dax(&metadata).ok_or_else(|| PoolFileError::Kind {
                path: path.to_owned(),
            })?;
            if alignment != PAGE_SIZE as u64 {
                return Err(PoolFileError::Alignment {
                    path: path.to_owned(),
                    alignment,
                });
            }
            size
        } else if metadata.is_file() {
            metadata.len()
        } else {
            return Err(PoolFileError::Kind {
                path: path.to_owned(),
            });
        };
        if size < len {
            return Err(PoolFileError::Short {
                path: path.to_owned(),
                size,
                wanted: len,
            });
        }
        Ok(Self {
            fd: file.into(),
            offset: 0,
            len,
        })
    }
}

/// Size and alignment of a DAX device, as its folder in /sys tells them (Documentation/ABI/testing/sysfs-bus-dax).
fn dax(metadata: &Metadata) -> Option<(u64, u64)> {
    let device = metadata.rdev();
    let folder = format!(
        "/sys/dev/char/{}:{}",
        libc::major(device),
        libc::minor(device)
    );
    let number = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("{folder}/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some((number("size")?, number("align")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_fit_or_are_refused_with_numbers() {
        let path = std::env::temp_dir().join(format!("lev-pool-{}", std::process::id()));
        let name = path.to_str().unwrap();
        File::create(&path).unwrap().set_len(8192).unwrap();
        assert_eq!(PoolMapping::open(name, 8192).unwrap().len, 8192);
        let error = PoolMapping::open(name, 8193).unwrap_err().to_string();
        assert!(error.ends_with("has 8192 of 8193 bytes"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = PoolMapping::open(name, 1).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn other_devices_and_folders_are_no_pool() {
        for path in ["/dev/null", "/dev/zero"] {
            let error = PoolMapping::open(path, 4096).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("pool {path} is neither a file nor a DAX device")
            );
        }
        assert!(PoolMapping::open("/tmp", 4096).is_err());
    }
}
