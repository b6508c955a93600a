//! Where a worker keeps guest memory: a reserved window of its address space in which each page has the place that QEMU
//! gave it on the head, up to a constant. So a memory slot that is one range there is one range here, whatever
//! pieces it grew from.

use lev_wire::PAGE_SIZE;
use std::io;

/// Bytes of the window: the low 42 bits of an address in QEMU tell the place.
const WINDOW: usize = 1 << 42;
const BASE: usize = 0x1000_0000_0000;

/// The reserved window.
#[derive(Debug)]
pub struct Window {
    mapped: Vec<std::ops::Range<usize>>,
}

impl Window {
    /// Reserves the addresses; no memory is taken.
    ///
    /// # Errors
    /// The address space is limited (`ulimit -v`) or the place is taken.
    pub fn reserve() -> io::Result<Self> {
        // SAFETY: a fresh reservation at a place that must be free (NOREPLACE); nothing is accessible in it.
        let place = unsafe {
            libc::mmap(
                BASE as *mut libc::c_void,
                WINDOW,
                libc::PROT_NONE,
                libc::MAP_PRIVATE
                    | libc::MAP_ANONYMOUS
                    | libc::MAP_NORESERVE
                    | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { mapped: Vec::new() })
    }

    /// The place here of an address in QEMU.
    #[must_use]
    pub fn translate(address: u64) -> u64 {
        BASE as u64 + (address & (WINDOW as u64 - 1))
    }

    /// Makes `pages` pages from page number `first_page` accessible; they are empty.
    ///
    /// # Errors
    /// The range wraps around the window or is in use.
    pub fn map(&mut self, first_page: u64, pages: u64) -> io::Result<*mut u8> {
        let bad = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let start = Self::translate(first_page.wrapping_mul(PAGE_SIZE as u64)) as usize;
        let len = usize::try_from(pages)
            .ok()
            .and_then(|pages| pages.checked_mul(PAGE_SIZE))
            .filter(|len| *len > 0 && *len <= WINDOW)
            .ok_or_else(|| bad("segment size"))?;
        let end = start + len;
        if end > BASE + WINDOW {
            return Err(bad("segment crosses the window's end"));
        }
        if self
            .mapped
            .iter()
            .any(|range| range.start < end && start < range.end)
        {
            return Err(bad("segment overlaps another one"));
        }
        // SAFETY: inside our own reservation, in a part that is not in use yet (checked).
        let place = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.mapped.push(start..end);
        Ok(place.cast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_qemu_are_neighbours_here_and_overlaps_are_refused() {
        let mut window = Window::reserve().unwrap();
        let qemu = 0x7f12_3456_7000u64 / 4096;
        let first = window.map(qemu, 4).unwrap() as usize;
        let second = window.map(qemu + 4, 2).unwrap() as usize;
        assert_eq!(second - first, 4 * 4096);
        assert_eq!(Window::translate(0x7f12_3456_7000) as usize, first);
        assert!(window.map(qemu + 5, 1).is_err());
        assert!(window.map(0, u64::MAX).is_err());
        assert!(window.map((1 << 30) - 1, 2).is_err());
    }
}
