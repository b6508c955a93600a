//! What this machine is, read from `/proc` and `/sys`.

use std::fs::{self, OpenOptions};
use std::path::Path;

use lev_agent::message::Info;

/// Vendor and device of QEMU's ivshmem, as sysfs writes them.
const IVSHMEM: (&str, &str) = ("0x1af4", "0x1110");

/// Reads it all.
pub fn collect() -> Info {
    Info {
        version: env!("CARGO_PKG_VERSION"),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_free: memory_available(&read("/proc/meminfo")),
        cpu_vendor: cpu_vendor(&read("/proc/cpuinfo")),
        kernel: read("/proc/sys/kernel/osrelease"),
        kvm: why_not("/dev/kvm"),
        userfaultfd: why_not("/dev/userfaultfd"),
        shared_pool: shared_pool(Path::new("/sys/bus/pci/devices")),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).map_or(String::new(), |text| text.trim_end().to_owned())
}

/// Why a device does not open, `None` if it does.
fn why_not(path: &str) -> Option<String> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => None,
        Err(error) => Some(format!("{path}: {error}")),
    }
}

fn memory_available(meminfo: &str) -> u64 {
    field(meminfo, "MemAvailable")
        .and_then(|value| value.trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

fn cpu_vendor(cpuinfo: &str) -> String {
    field(cpuinfo, "vendor_id").unwrap_or_default().to_owned()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

/// BAR 2 of the first ivshmem device.
fn shared_pool(devices: &Path) -> Option<String> {
    let mut folders: Vec<_> = fs::read_dir(devices).ok()?.flatten().collect();
    folders.sort_by_key(|entry| entry.file_name());
    let device = folders.into_iter().map(|entry| entry.path()).find(|path| {
        (
            read(path.join("vendor")).as_str(),
            read(path.join("device")).as_str(),
        ) == IVSHMEM
    })?;
    Some(device.join("resource2").to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_tables() {
        assert_eq!(
            memory_available("MemTotal:  10 kB\nMemAvailable:    2048 kB\n"),
            2 << 20
        );
        assert_eq!(memory_available("MemTotal: 1 kB"), 0);
        assert_eq!(
            cpu_vendor("processor\t: 0\nvendor_id\t: AuthenticAMD\n"),
            "AuthenticAMD"
        );
    }

    #[test]
    fn finds_the_shared_memory_device() {
        let root = std::env::temp_dir().join(format!("lev-agent-info-{}", std::process::id()));
        for (name, device) in [("0000:00:01.0", "0x1041"), ("0000:00:02.0", "0x1110")] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("vendor"), "0x1af4\n").unwrap();
            fs::write(root.join(name).join("device"), format!("{device}\n")).unwrap();
        }
        let found = shared_pool(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert!(found.ends_with("/0000:00:02.0/resource2"), "{found}");
        assert_eq!(shared_pool(&root), None);
    }
}
