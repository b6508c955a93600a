//! Guest memory that outlives the VM: files that QEMU maps into the guest, such as those of persistent CXL memory.
//!
//! A shared mapping of a file cannot be watched by userfaultfd, and its pages would be elsewhere most of the time. So what
//! the guest gets of such a file is copied into private memory at the same addresses, which is kept coherent like all
//! other; at the end, with all nodes still there, what has changed is written back. A VM that does not come to an
//! orderly end leaves the file as it was.

use crate::fail;
use lev_dsm::Engine;
use lev_wire::PAGE_SIZE;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

const PAGE: u64 = PAGE_SIZE as u64;
/// Bytes compared and written at once.
const STEP: usize = 1 << 20;

/// The parts of files that are in memory now.
#[derive(Default)]
pub struct Kept {
    parts: Mutex<Vec<Part>>,
}

/// Memory at `addresses` that stands for the bytes of a file from `offset` on.
struct Part {
    addresses: Range<u64>,
    file: File,
    path: String,
    offset: u64,
}

impl Kept {
    /// Puts private memory in the place of a range of pages if one of the files `kept` is mapped there.
    ///
    /// Nobody may use the range meanwhile: QEMU adds a slot before it shows the memory to the guest.
    ///
    /// # Errors
    /// What went wrong, in words; the mapping is then as it was.
    pub fn take(&self, kept: &[String], pages: Range<u64>) -> Result<(), String> {
        if kept.is_empty() {
            return Ok(());
        }
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
        let addresses = pages.start * PAGE..pages.end * PAGE;
        let found = maps.lines().find_map(|line| mapped(line, &addresses));
        let Some((path, offset)) = found.filter(|(path, _)| is_kept(kept, path)) else {
            return Ok(());
        };
        let part = Part::load(path, offset, addresses)
            .map_err(|error| format!("{path} cannot be read into memory: {error}"))?;
        self.lock().push(part);
        Ok(())
    }

    /// Writes back what lies in `addresses`. What cannot be written is said; the VM is at its end anyway.
    pub fn save(&self, engine: &Engine, addresses: Range<u64>) {
        for part in self.lock().iter().filter(|part| part.meets(&addresses)) {
            if let Err(error) = part.save(engine) {
                fail::say(&format!(
                    "guest memory cannot be written back to {}: {error}",
                    part.path
                ));
            }
        }
    }

    /// QEMU unmaps a range: what of it is kept is written back and forgotten.
    pub fn give_up(&self, engine: &Engine, address: usize, len: usize) {
        let addresses = address as u64..(address as u64).saturating_add(len as u64);
        // Most of what is unmapped is none of it.
        if self.lock().iter().any(|part| part.meets(&addresses)) {
            self.save(engine, addresses.clone());
            self.lock().retain(|part| !part.meets(&addresses));
        }
    }

    /// Waits until the files are on their disks, those too that QEMU alone has used.
    pub fn sync(&self, kept: &[String]) {
        for path in kept {
            let synced = File::options()
                .write(true)
                .open(path)
                .and_then(|file| file.sync_all());
            if let Err(error) = synced {
                fail::say(&format!("{path} cannot be written to its disk: {error}"));
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Path and offset of the file that a line of /proc/PID/maps shows, shared, at all of `addresses`.
fn mapped<'a>(line: &'a str, addresses: &Range<u64>) -> Option<(&'a str, u64)> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let shared = fields.next()?.ends_with('s');
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end, first) = (hex(start)?, hex(end)?, hex(fields.next()?)?);
    let path = fields.nth(2)?.trim();
    let inside = start <= addresses.start && addresses.end <= end;
    (shared && inside && path.starts_with('/')).then(|| (path, first + (addresses.start - start)))
}

fn is_kept(kept: &[String], path: &str) -> bool {
    kept.iter().any(|name| {
        name == path || std::fs::canonicalize(name).is_ok_and(|real| real.as_os_str() == path)
    })
}

impl Part {
    /// Copies the file's bytes into new memory and moves that to `addresses`.
    fn load(path: &str, offset: u64, addresses: Range<u64>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let len = (addresses.end - addresses.start) as usize;
        let memory = Memory::new(len)?;
        let mut buffer = vec![0u8; STEP];
        for at in (0..len).step_by(STEP) {
            let bytes = &mut buffer[..STEP.min(len - at)];
            read_or_zero(&file, bytes, offset + at as u64)?;
            for (page, contents) in bytes.chunks(PAGE_SIZE).enumerate() {
                // Empty pages stay untouched, so that they are zero at home, without traffic.
                if contents.iter().any(|byte| *byte != 0) {
                    let to = memory.address + at + page * PAGE_SIZE;
                    // SAFETY: the page lies inside of the mapping just made, which nobody else knows.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            contents.as_ptr(),
                            to as *mut u8,
                            contents.len(),
                        );
                    }
                }
            }
        }
        memory.move_to(addresses.start as usize)?;
        Ok(Self {
            addresses,
            file,
            path: path.to_owned(),
            offset,
        })
    }

    fn meets(&self, addresses: &Range<u64>) -> bool {
        self.addresses.start < addresses.end && addresses.start < self.addresses.end
    }

    /// Writes the pages that differ from the file.
    fn save(&self, engine: &Engine) -> io::Result<()> {
        let mut before = vec![0u8; STEP];
        let mut now = vec![0u8; STEP];
        let len = self.addresses.end - self.addresses.start;
        for at in (0..len).step_by(STEP) {
            let size = (len - at).min(STEP as u64) as usize;
            read_or_zero(&self.file, &mut before[..size], self.offset + at)?;
            for page in (0..size).step_by(PAGE_SIZE) {
                let address = self.addresses.start + at + page as u64;
                let contents = &mut now[page..page + PAGE_SIZE];
                if engine.is_untouched(address / PAGE) {
                    contents.fill(0);
                } else {
                    // SAFETY: a page of guest memory, which stays mapped; if it is elsewhere, the engine's own threads
                    // fetch it while this one waits. The guest's CPUs have stopped, and a torn page would be one that they
                    // were writing at power-off.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            address as *const u8,
                            contents.as_mut_ptr(),
                            PAGE_SIZE,
                        );
                    }
                }
                if before[page..page + PAGE_SIZE] != *contents {
                    self.file
                        .write_all_at(contents, self.offset + at + page as u64)?;
                }
            }
        }
        self.file.sync_all()
    }
}

/// Reads a file that may end early: the rest is zero.
fn read_or_zero(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, offset) {
            Ok(0) => {
                bytes.fill(0);
                return Ok(());
            }
            Ok(count) => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// New private memory. System calls by number: `munmap` is interposed in this process.
struct Memory {
    address: usize,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice replaces nothing.
        let address = unsafe { libc::syscall(libc::SYS_mmap, 0, len, protection, flags, -1, 0) };
        if address < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            address: address as usize,
            len,
        })
    }

    /// Puts it in the place of what is mapped at `address`, at once.
    fn move_to(self, address: usize) -> io::Result<()> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the source is this mapping, whole, which ends as such here; the target is the guest memory that it
        // replaces, with the same contents, while nobody uses it (see `Kept::take`).
        let moved = unsafe {
            libc::syscall(
                libc::SYS_mremap,
                self.address,
                self.len,
                self.len,
                flags,
                address,
            )
        };
        if moved < 0 {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nobody else knows.
        unsafe { libc::syscall(libc::SYS_munmap, self.address, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_is_found_by_its_mapping() {
        let line = "7f0000000000-7f0000100000 rw-s 00080000 fe:10 12       /dev/vda";
        let inside = 0x7f00_0000_1000..0x7f00_0000_3000;
        assert_eq!(mapped(line, &inside), Some(("/dev/vda", 0x8_1000)));
        let beyond = 0x7f00_000f_f000..0x7f00_0010_1000;
        assert_eq!(mapped(line, &beyond), None);
        assert_eq!(mapped(&line.replace("rw-s", "rw-p"), &inside), None);
        assert_eq!(mapped(&line.replace("/dev/vda", "[heap]"), &inside), None);
    }

    #[test]
    fn a_mapped_file_becomes_private_memory_with_its_contents() {
        let path = std::env::temp_dir().join(format!("lev-kept-{}", std::process::id()));
        let path = path.to_str().unwrap().to_owned();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.set_len(4 * PAGE).unwrap();
        file.write_all_at(b"kept", PAGE).unwrap();
        // SAFETY: a fresh shared mapping of the file, unmapped below.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4 * PAGE_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        let first = memory as u64 / PAGE;
        let kept = Kept::default();
        kept.take(&["/nowhere".to_owned()], first..first + 4)
            .unwrap();
        assert!(kept.lock().is_empty());
        kept.take(std::slice::from_ref(&path), first..first + 4)
            .unwrap();
        let (mut word, mut in_file) = ([0u8; 4], [0u8; 4]);
        // SAFETY: inside of the mapping made above.
        unsafe {
            let place = memory.cast::<u8>().add(PAGE_SIZE);
            std::ptr::copy_nonoverlapping(place, word.as_mut_ptr(), 4);
            place.write_bytes(b'x', 4);
        }
        assert_eq!(&word, b"kept");
        file.read_exact_at(&mut in_file, PAGE).unwrap();
        assert_eq!(&in_file, b"kept", "the file does not change before the end");
        assert_eq!(kept.lock()[0].offset, 0);
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(memory, 4 * PAGE_SIZE) };
        std::fs::remove_file(&path).unwrap();
    }
}
