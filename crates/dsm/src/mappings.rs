//! The mappings of this process: how many there are, and memory that is like other memory.

use crate::memory::{self, PAGE};
use crate::DsmError;
use std::fs::File;
use std::io::{BufRead, BufReader};

/// Mappings that a process may have, if the kernel does not say otherwise (`vm.max_map_count`).
const DEFAULT_LIMIT: u64 = 65530;

/// Mappings that this process may have.
pub(crate) fn limit() -> u64 {
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_LIMIT)
}

/// Mappings that this process has. The kernel writes a line for each: not for a busy loop.
pub(crate) fn count() -> Result<u64, DsmError> {
    const MAPS: &str = "/proc/self/maps";
    let maps = File::open(MAPS).map_err(|error| memory::file_error(MAPS, 0, &error))?;
    let mut reader = BufReader::with_capacity(1 << 16, maps);
    let mut lines = 0;
    loop {
        let part = reader
            .fill_buf()
            .map_err(|error| memory::file_error(MAPS, 0, &error))?;
        if part.is_empty() {
            return Ok(lines);
        }
        lines += part.iter().filter(|byte| **byte == b'\n').count() as u64;
        let read = part.len();
        reader.consume(read);
    }
}

/// What a mapping is like, as `/proc/PID/smaps` tells it (Documentation/filesystems/proc.rst).
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    /// Its end.
    end: u64,
    /// Two letters for each of its flags.
    flags: Vec<String>,
}

impl Kind {
    /// Of the mapping in which `address` lies.
    fn of(address: u64) -> Result<Self, DsmError> {
        const SMAPS: &str = "/proc/self/smaps";
        let failed = |error| memory::file_error(SMAPS, address, &error);
        let smaps = File::open(SMAPS).map_err(failed)?;
        Self::find(BufReader::new(smaps), address)
            .map_err(failed)?
            .ok_or(DsmError::System {
                call: SMAPS,
                at: address,
                errno: libc::ENOENT,
            })
    }

    fn find(smaps: impl BufRead, address: u64) -> std::io::Result<Option<Self>> {
        let mut end = None;
        for line in smaps.lines() {
            let line = line?;
            if let Some(range) = range(&line) {
                end = range.contains(&address).then_some(range.end);
            } else if let (Some(end), Some(flags)) = (end, line.strip_prefix("VmFlags:")) {
                let flags = flags.split_whitespace().map(str::to_owned).collect();
                return Ok(Some(Self { end, flags }));
            }
        }
        Ok(None)
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }
}

/// The addresses at the start of a mapping's first line.
fn range(line: &str) -> Option<std::ops::Range<u64>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

/// Maps `len` bytes of private memory that the kernel can join with the mapping at `like`: with the same flags, as far as
/// owners of guest memory set them. Returns the address.
pub(crate) fn map_alike(like: u64, len: u64) -> Result<u64, DsmError> {
    let kind = Kind::of(like)?;
    let address = memory::map_private(len, kind.has("nr"))?;
    memory::forbid_huge_pages(address, len)?;
    for (flag, advice, call) in [
        ("dc", libc::MADV_DONTFORK, "madvise(MADV_DONTFORK)"),
        ("dd", libc::MADV_DONTDUMP, "madvise(MADV_DONTDUMP)"),
        ("mg", libc::MADV_MERGEABLE, "madvise(MADV_MERGEABLE)"),
    ] {
        if kind.has(flag) {
            memory::madvise(address, len, advice, call)?;
        }
    }
    Ok(address)
}

/// Maps the shared memory of `[like, like + len)`, one mapping, a second time; returns the address.
pub(crate) fn map_again(like: u64, len: u64) -> Result<u64, DsmError> {
    let whole = Kind::of(like)?.end >= like + len;
    if !whole {
        return Err(DsmError::Segment {
            first_page: like / PAGE,
            why: "its shared memory is mapped in parts, and pages of it could not leave the pool (engine.demote_after_ms = 0 \
                  keeps them there)",
        });
    }
    memory::remap(like, 0, len, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0001000 r--p 00000000 08:01 77  /usr/bin/x-y
Size:                  4 kB
VmFlags: rd mr mw me sd
7f0000000000-7f0000002000 rw-p 00000000 00:00 0
Size:                  8 kB
VmFlags: rd wr mr mw me dc nr um uw nh
";

    #[test]
    fn a_mapping_is_found_by_an_address_in_it() {
        let find = |address| Kind::find(SMAPS.as_bytes(), address).unwrap();
        let kind = find(0x7f00_0000_1fff).unwrap();
        assert_eq!(kind.end, 0x7f00_0000_2000);
        assert!(kind.has("nr") && kind.has("dc") && !kind.has("dd"));
        assert!(!find(0x55d0_c000_0000).unwrap().has("nr"));
        assert_eq!(find(0x7f00_0000_2000), None);
        assert_eq!(Kind::find("nonsense\n".as_bytes(), 0).unwrap(), None);
    }

    #[test]
    fn what_is_mapped_alike_is_like_it() {
        for no_reserve in [false, true] {
            let address = memory::map_private(2 * PAGE, no_reserve).unwrap();
            memory::forbid_huge_pages(address, 2 * PAGE).unwrap();
            memory::madvise(address, 2 * PAGE, libc::MADV_DONTFORK, "advice").unwrap();
            let like = map_alike(address, PAGE).unwrap();
            assert_eq!(
                Kind::of(address).unwrap().flags,
                Kind::of(like).unwrap().flags
            );
        }
    }

    #[test]
    fn mappings_are_counted() {
        let before = count().unwrap();
        let address = memory::map_private(3 * PAGE, true).unwrap();
        memory::madvise(address + PAGE, PAGE, libc::MADV_DONTFORK, "advice").unwrap();
        // Other tests map and unmap at the same time.
        assert!(before > 5 && count().unwrap() > before.saturating_sub(50));
        assert!(limit() > 1000);
    }
}
