//! QEMU gives guest memory back: `madvise`, a hole in the file behind it, `munmap`.
//!
//! For memory that is kept coherent the engine does it, on every node; the rest of the range is the kernel's. One call may
//! touch both.

use crate::memory::gaps;
use crate::vm::Vm;
use lev_wire::PAGE_SIZE;
use std::ffi::c_int;
use std::ops::Range;

const PAGE: u64 = PAGE_SIZE as u64;

/// Pages of a range of addresses; the kernel rounds the length up, and refuses an address inside a page.
fn pages(address: usize, len: usize) -> Option<Range<u64>> {
    let start = address as u64;
    if start % PAGE != 0 {
        return None;
    }
    let end = start.checked_add(len as u64)?.div_ceil(PAGE);
    Some(start / PAGE..end)
}

/// Does `act`, the kernel's part, where the range is not coherent, then empties the memory that is.
pub fn divide(
    vm: &Vm,
    address: usize,
    len: usize,
    act: impl Fn(usize, usize) -> Result<(), i32>,
) -> Result<i32, i32> {
    let whole = pages(address, len).unwrap_or(0..0);
    let coherent = coherent(vm, &whole);
    let (Some(shared), false) = (&vm.shared, coherent.is_empty()) else {
        // Unchanged, for the kernel to judge.
        return act(address, len).map(|()| 0);
    };
    let bytes = |range: &Range<u64>| {
        (
            (range.start * PAGE) as usize,
            ((range.end - range.start) * PAGE) as usize,
        )
    };
    for range in &gaps(whole, &coherent) {
        let (start, len) = bytes(range);
        act(start, len)?;
    }
    for range in &coherent {
        let (start, len) = bytes(range);
        shared.engine.discard(start as *mut u8, len);
    }
    Ok(0)
}

/// Some of the range is coherent.
pub fn holds(vm: &Vm, address: usize, len: usize) -> bool {
    pages(address, len).is_some_and(|whole| !coherent(vm, &whole).is_empty())
}

fn coherent(vm: &Vm, whole: &Range<u64>) -> Vec<Range<u64>> {
    match &vm.shared {
        Some(shared) if !whole.is_empty() => {
            shared.engine.contains(whole.start, whole.end - whole.start)
        }
        _ => Vec::new(),
    }
}

/// A hole has been made in a file: empties what of it is mapped as coherent guest memory, on every node.
pub fn punch(vm: &Vm, fd: c_int, offset: i64, len: i64) {
    let (Ok(offset), Ok(len)) = (u64::try_from(offset), u64::try_from(len)) else {
        return;
    };
    if vm.shared.is_none() {
        return;
    }
    // SAFETY: an all-zero stat is valid; fstat fills it.
    let (result, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &mut stat), stat)
    };
    let maps = std::fs::read_to_string("/proc/self/maps");
    let (0, Ok(maps)) = (result, maps) else {
        return;
    };
    let file = File {
        device: (libc::major(stat.st_dev), libc::minor(stat.st_dev)),
        inode: stat.st_ino,
    };
    for range in maps
        .lines()
        .filter_map(|line| file.shown(line, offset, len))
    {
        let (start, len) = (range.start as usize, (range.end - range.start) as usize);
        // The kernel's part is done.
        let _ = divide(vm, start, len, |_, _| Ok(()));
    }
}

/// A file as /proc/PID/maps names it.
struct File {
    device: (u32, u32),
    inode: u64,
}

impl File {
    /// The addresses at which a line of /proc/PID/maps shows bytes `offset..offset + len` of the file, if it does so shared.
    fn shown(&self, line: &str, offset: u64, len: u64) -> Option<Range<u64>> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let shared = fields.next()?.ends_with('s');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end, first) = (hex(start)?, hex(end)?, hex(fields.next()?)?);
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = (
            u32::from_str_radix(major, 16).ok()?,
            u32::from_str_radix(minor, 16).ok()?,
        );
        let inode: u64 = fields.next()?.parse().ok()?;
        if !shared || device != self.device || inode != self.inode {
            return None;
        }
        let from = offset.max(first);
        let to = offset.saturating_add(len).min(first + (end - start));
        (from < to).then(|| start + (from - first)..start + (to - first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_of_a_range_as_the_kernel_sees_it() {
        assert_eq!(pages(0x3000, 0x8800), Some(3..12));
        assert_eq!(pages(0x3000, 0), Some(3..3));
        assert_eq!(pages(0x3001, 1), None);
        assert_eq!(pages(0x3000, usize::MAX), None);
    }

    #[test]
    fn a_hole_is_found_where_the_file_is_mapped() {
        let file = File {
            device: (0, 1),
            inode: 1029,
        };
        let line = "7f0000000000-7f0000100000 rw-s 00080000 00:01 1029    /memfd:ram (deleted)";
        assert_eq!(
            file.shown(line, 0x7_f000, 0x3000),
            Some(0x7f00_0000_0000..0x7f00_0000_2000)
        );
        assert_eq!(file.shown(line, 0, 0x8_0000), None);
        let private = line.replace("rw-s", "rw-p");
        assert_eq!(file.shown(&private, 0x8_0000, 0x1000), None);
        let other = line.replace("1029", "1030");
        assert_eq!(file.shown(&other, 0x8_0000, 0x1000), None);
    }
}
