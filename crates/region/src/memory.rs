//! The mapping behind a region.

use crate::RegionError;

/// Anonymous memory, mapped until it is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: u64,
    len: u64,
}

fn failed(call: &'static str) -> RegionError {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    RegionError::System { call, errno }
}

impl Mapping {
    /// `len` bytes, whole pages. A child made by fork does not get them: nobody would keep them coherent there.
    pub(crate) fn new(len: u64) -> Result<Self, RegionError> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        let mapping = Self {
            base: place as u64,
            len,
        };
        // SAFETY: the whole of the mapping that was just made; the advice concerns forks only.
        if unsafe { libc::madvise(place, len as usize, libc::MADV_DONTFORK) } != 0 {
            return Err(failed("madvise(MADV_DONTFORK)"));
        }
        Ok(mapping)
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base as *mut u8
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Makes it inaccessible: what is in it is not the region's memory any more.
    pub(crate) fn forbid(&self) {
        // SAFETY: the whole of a live mapping. Whoever touches it afterwards gets the signal that it should.
        unsafe {
            libc::mprotect(
                self.base as *mut libc::c_void,
                self.len as usize,
                libc::PROT_NONE,
            )
        };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: a live mapping made by `new`; its owner vouches that nobody uses it any more.
        unsafe { libc::munmap(self.base as *mut libc::c_void, self.len as usize) };
    }
}
