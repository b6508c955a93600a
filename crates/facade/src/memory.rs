//! Memory slots, and the coherent segments behind them.
//!
//! A page is known on all nodes by its address in QEMU: several slots may show it (aliases, PAM windows). The first slot that
//! shows a range makes it a segment and gives it homes by guest physical address.

use crate::entry::kernel;
use crate::fail;
use crate::set_up::anonymous_file;
use crate::vm::{Shared, Vm};
use lev_dsm::{Backing, SegmentSpec};
use lev_kvmabi::bindings as k;
use lev_kvmabi::{ioctl, os};
use lev_mesh::control::ask_all;
use lev_mesh::message::{control, Segment};
use lev_mesh::vm_frame::{self, ClearDirtyLog};
use lev_wire::cluster::HomeRange;
use lev_wire::{NodeId, PAGE_SIZE};
use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

const PAGE: u64 = PAGE_SIZE as u64;

/// Bytes of each slot, by slot number; the lock also keeps slot changes in one order on all nodes.
#[derive(Default)]
pub struct Memory {
    slots: Mutex<HashMap<u32, u64>>,
}

impl Memory {
    /// `KVM_SET_USER_MEMORY_REGION`: applied on every node before it returns.
    pub fn set_slot(
        &self,
        vm: &Vm,
        mut region: k::kvm_userspace_memory_region,
    ) -> Result<i32, i32> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = &vm.shared {
            if region.memory_size > 0 {
                cover(vm, shared, &region);
            }
            vm.tell_all(
                "memory slot",
                control::SLOT,
                &[&vm_frame::encode_slot(&region)],
            );
        }
        // SAFETY: the region is QEMU's own.
        let result = unsafe { os::ioctl_with(vm.fd, ioctl::SET_USER_MEMORY_REGION, &mut region) }
            .map_err(|error| crate::entry::errno(&error))?;
        slots.insert(region.slot, region.memory_size);
        Ok(result)
    }

    /// `KVM_GET_DIRTY_LOG`: the union of all nodes' bitmaps.
    ///
    /// # Safety
    /// `argument` points to a `kvm_dirty_log` whose bitmap has room for the slot.
    pub unsafe fn dirty_log(&self, vm: &Vm, argument: usize) -> Result<i32, i32> {
        // SAFETY: the caller's contract.
        let (result, log) = unsafe {
            (
                kernel(vm.fd, ioctl::GET_DIRTY_LOG, argument)?,
                &*(argument as *const k::kvm_dirty_log),
            )
        };
        let size = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.get(&log.slot).copied().unwrap_or(0)
        };
        let len = (size / PAGE).div_ceil(64) as usize * 8;
        // SAFETY: the kernel has just written `len` bytes there.
        let bitmap = unsafe {
            std::slice::from_raw_parts_mut(log.__bindgen_anon_1.dirty_bitmap.cast::<u8>(), len)
        };
        let answers = ask_all(
            vm.workers(),
            control::DIRTY_LOG,
            0,
            &[&log.slot.to_le_bytes()],
        )
        .unwrap_or_else(|error| vm.fail("dirty log", &error));
        for answer in answers {
            for (own, other) in bitmap.iter_mut().zip(&answer.payload) {
                *own |= other;
            }
        }
        Ok(result)
    }

    /// `KVM_CLEAR_DIRTY_LOG` on every node.
    ///
    /// # Safety
    /// `argument` points to a `kvm_clear_dirty_log` with its bitmap.
    pub unsafe fn clear_dirty_log(&self, vm: &Vm, argument: usize) -> Result<i32, i32> {
        // SAFETY: the caller's contract.
        let (result, log) = unsafe {
            (
                kernel(vm.fd, ioctl::CLEAR_DIRTY_LOG, argument)?,
                &*(argument as *const k::kvm_clear_dirty_log),
            )
        };
        let mut bitmap = vec![0u64; (log.num_pages as usize).div_ceil(64)];
        // SAFETY: the kernel has just read so many whole words there, wherever they are aligned.
        unsafe {
            std::ptr::copy_nonoverlapping(
                log.__bindgen_anon_1.dirty_bitmap.cast::<u8>(),
                bitmap.as_mut_ptr().cast::<u8>(),
                bitmap.len() * 8,
            );
        }
        let clear = ClearDirtyLog {
            slot: log.slot,
            pages: log.num_pages,
            first_page: log.first_page,
            bitmap,
        };
        vm.tell_all("dirty log", control::CLEAR_DIRTY_LOG, &[&clear.encode()]);
        Ok(result)
    }
}

/// Makes every page of the slot part of a segment.
fn cover(vm: &Vm, shared: &Shared, region: &k::kvm_userspace_memory_region) {
    let first = region.userspace_addr / PAGE;
    let pages = region.memory_size / PAGE;
    let known = shared.engine.contains(first, pages);
    for range in gaps(first..first + pages, &known) {
        let gpa = region.guest_phys_addr + (range.start - first) * PAGE;
        add_segment(vm, shared, range, gpa);
    }
}

fn add_segment(vm: &Vm, shared: &Shared, range: Range<u64>, gpa: u64) {
    let (address, len) = (range.start * PAGE, (range.end - range.start) * PAGE);
    let taken = vm.kept.take(&vm.cluster.kept, range.clone());
    let backing = taken.and_then(|()| backing_of(address, len)).unwrap_or_else(|what| {
        fail::die(
            fail::NOT_STARTED,
            &format!("guest memory at {gpa:#x} cannot be kept coherent over nodes: {what}"),
            Some("use plain RAM (memory-backend-ram or -m) and no device that maps its own memory into the guest"),
        )
    });
    let homes = homes_of(&vm.cluster.memory, gpa, range.end - range.start);
    let spec = SegmentSpec {
        first_page: range.start,
        pages: range.end - range.start,
        local: (range.start * PAGE) as *mut u8,
        homes: homes.clone(),
        backing,
    };
    let refused = |error: lev_dsm::DsmError| -> ! {
        fail::die(
            fail::NOT_STARTED,
            &format!("guest memory at {gpa:#x}: {error}"),
            None,
        )
    };
    let populated = shared
        .engine
        .prepare(spec)
        .unwrap_or_else(|error| refused(error));
    let segment = Segment {
        first_page: range.start,
        homes,
        populated,
    };
    match serde_json::to_vec(&segment) {
        Ok(bytes) => vm.tell_all("guest memory", control::SEGMENT, &[&bytes]),
        Err(error) => fail::die(fail::NOT_STARTED, &format!("guest memory: {error}"), None),
    }
    if let Err(error) = shared.engine.activate(range.start, &segment.populated) {
        refused(error);
    }
}

/// The parts of `whole` that are in none of `known` (sorted, disjoint).
pub fn gaps(whole: Range<u64>, known: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let mut at = whole.start;
    for range in known {
        if range.start > at {
            out.push(at..range.start.min(whole.end));
        }
        at = at.max(range.end);
    }
    if at < whole.end {
        out.push(at..whole.end);
    }
    out
}

/// Homes of `pages` pages from guest physical address `gpa`; the head's where the description is silent.
fn homes_of(description: &[HomeRange], gpa: u64, pages: u64) -> Vec<(u64, NodeId)> {
    let mut out: Vec<(u64, NodeId)> = Vec::new();
    let (mut at, end) = (gpa, gpa + pages * PAGE);
    while at < end {
        let inside = description
            .iter()
            .find(|range| range.gpa <= at && at < range.gpa + range.len);
        let (node, until) = match inside {
            Some(range) => (range.node, range.gpa + range.len),
            None => {
                let next = description
                    .iter()
                    .map(|range| range.gpa)
                    .filter(|start| *start > at)
                    .min();
                (NodeId::HEAD, next.unwrap_or(u64::MAX))
            }
        };
        let count = (until.min(end) - at) / PAGE;
        match out.last_mut() {
            Some((pages, last)) if *last == node => *pages += count,
            _ => out.push((count, node)),
        }
        at += count * PAGE;
    }
    out
}

/// What is mapped at a range of this process.
fn backing_of(address: u64, len: u64) -> Result<Backing, String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
    let ordinary = ordinary_device().map_err(|error| error.to_string())?;
    let mut kind = None;
    let mut at = address;
    for line in maps.lines() {
        let Some(mapping) = Mapping::parse(line) else {
            continue;
        };
        if mapping.end <= at || mapping.start >= address + len {
            continue;
        }
        if mapping.start > at {
            break;
        }
        let this = mapping.backing(&ordinary)?;
        if *kind.get_or_insert(this) != this {
            return Err("a mixture of private and shared memory".to_owned());
        }
        at = mapping.end;
        if at >= address + len {
            return kind.ok_or_else(|| "not mapped".to_owned());
        }
    }
    Err(format!("nothing is mapped at {at:#x}"))
}

/// The device of files in ordinary pages, as /proc/PID/maps writes it; files in huge pages have another one.
fn ordinary_device() -> std::io::Result<String> {
    let file = std::fs::File::from(anonymous_file(PAGE)?);
    let device = file.metadata()?.dev();
    Ok(format!(
        "{:02x}:{:02x}",
        libc::major(device),
        libc::minor(device)
    ))
}

struct Mapping<'a> {
    start: u64,
    end: u64,
    shared: bool,
    device: &'a str,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    /// A line of /proc/PID/maps.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let device = fields.nth(1)?;
        let path = fields.nth(1).unwrap_or("").trim();
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            shared: permissions.ends_with('s'),
            device,
            path,
        })
    }

    /// `ordinary`: see [`ordinary_device`].
    fn backing(&self, ordinary: &str) -> Result<Backing, String> {
        if self.path.starts_with("/memfd:") && self.device != ordinary {
            return Err(format!("it is in huge pages, of {}", self.path));
        }
        let nameless = self.path.is_empty() || self.path.starts_with('[');
        let tmpfs = ["/memfd:", "/dev/shm/", "/dev/zero"]
            .iter()
            .any(|start| self.path.starts_with(start));
        match (self.shared, nameless, tmpfs) {
            (false, true, _) => Ok(Backing::Anonymous),
            (true, _, true) => Ok(Backing::Shmem),
            _ => Err(format!("it maps the file {}", self.path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn gaps_between_known_ranges() {
        assert_eq!(gaps(0..10, &[]).first(), Some(&(0..10)));
        assert_eq!(gaps(0..10, &[2..4, 6..7]), [0..2, 4..6, 7..10]);
        assert_eq!(gaps(0..10, &[0..4, 4..10]), []);
    }

    #[test]
    fn homes_follow_the_guests_addresses() {
        let description = [
            HomeRange {
                gpa: 0,
                len: 8 * PAGE,
                node: NodeId(0),
            },
            HomeRange {
                gpa: 8 * PAGE,
                len: 8 * PAGE,
                node: NodeId(1),
            },
            HomeRange {
                gpa: 100 * PAGE,
                len: 4 * PAGE,
                node: NodeId(2),
            },
        ];
        assert_eq!(
            homes_of(&description, 6 * PAGE, 6),
            [(2, NodeId(0)), (4, NodeId(1))]
        );
        assert_eq!(
            homes_of(&description, 15 * PAGE, 90),
            [
                (1, NodeId(1)),
                (84, NodeId(0)),
                (4, NodeId(2)),
                (1, NodeId(0))
            ]
        );
        assert_eq!(homes_of(&[], 0, 3), [(3, NodeId(0))]);
    }

    #[test]
    fn device_memory_is_told_apart() {
        let line = "7f0000000000-7f0000001000 rw-s 00000000 00:05 12 /dev/dri/card0";
        let backing = |line: &str| Mapping::parse(line).unwrap().backing("00:01");
        assert!(backing(line).unwrap_err().ends_with("/dev/dri/card0"));
        let line = "7f0000000000-7f0000001000 rw-s 00000000 00:01 12 /memfd:memory-backend-memfd (deleted)";
        assert_eq!(backing(line), Ok(Backing::Shmem));
        let private = line.replace("rw-s", "rw-p");
        assert!(backing(&private).unwrap_err().contains("/memfd:memory"));
        let huge = line.replace("00:01", "00:10");
        assert!(backing(&huge)
            .unwrap_err()
            .contains("huge pages, of /memfd:memory"));
        let memory = vec![0u8; 3 << 20];
        let page = (memory.as_ptr() as u64).div_ceil(PAGE) * PAGE;
        assert_eq!(backing_of(page, 1 << 20), Ok(Backing::Anonymous));
    }

    #[test]
    fn a_real_memfd_is_recognized() {
        let file = anonymous_file(PAGE).unwrap();
        // SAFETY: a fresh shared mapping of a file of one page, unmapped below.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_SIZE,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        assert_eq!(backing_of(memory as u64, PAGE), Ok(Backing::Shmem));
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(memory, PAGE_SIZE) };
    }
}
