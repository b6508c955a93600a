//! Which CPUs and NUMA nodes there are, and where the threads of a check go.

use crate::error::{Error, Result};
use crate::sys;

/// A NUMA node of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number in /sys/devices/system/node.
    pub id: usize,
    /// Online CPUs that this process may use, ascending.
    pub cpus: Vec<usize>,
    /// Memory in KiB.
    pub memory_kib: u64,
}

/// CPUs by node, and the user's choice among them.
#[derive(Debug, Clone)]
pub struct Placement {
    /// NUMA nodes in order of their number; one node with everything where sysfs shows none.
    pub nodes: Vec<Node>,
    /// CPUs online and allowed, ascending.
    pub online: Vec<usize>,
    chosen: Option<Vec<usize>>,
}

/// Reads a list as the kernel writes them: `0-2,5`.
pub fn parse_cpu_list(text: &str) -> Result<Vec<usize>> {
    let bad = || Error::Parse {
        what: "CPU list",
        text: text.to_string(),
    };
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if first > last || last > 65_535 {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::Read {
        path: path.to_string(),
        reason: e.to_string(),
    })
}

/// Bytes that a process may fill: seven eighths of what the kernel could give away.
pub fn fillable_bytes() -> Result<usize> {
    let available = kib(&read("/proc/meminfo")?, "MemAvailable:") as usize;
    Ok(available * 1024 / 8 * 7)
}

fn memory_kib(meminfo: &str) -> u64 {
    kib(meminfo, "MemTotal:")
}

fn kib(meminfo: &str, field: &str) -> u64 {
    let line = meminfo.lines().find(|l| l.contains(field));
    let words = line.map(|l| l.split_whitespace().rev().nth(1));
    words.flatten().and_then(|w| w.parse().ok()).unwrap_or(0)
}

impl Placement {
    /// Looks at this machine; `chosen` are the CPUs of `--cpus`.
    pub fn detect(chosen: Option<Vec<usize>>) -> Result<Placement> {
        let online = sys::allowed_cpus()?;
        let mut nodes = Vec::new();
        let folder = "/sys/devices/system/node";
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_prefix("node").and_then(|n| n.parse().ok()) else {
                continue;
            };
            let mut cpus = parse_cpu_list(&read(&format!("{folder}/{name}/cpulist"))?)?;
            cpus.retain(|c| online.contains(c));
            let memory_kib = memory_kib(&read(&format!("{folder}/{name}/meminfo"))?);
            nodes.push(Node {
                id,
                cpus,
                memory_kib,
            });
        }
        if nodes.is_empty() {
            nodes.push(Node {
                id: 0,
                cpus: online.clone(),
                memory_kib: memory_kib(&read("/proc/meminfo")?),
            });
        }
        nodes.sort_by_key(|n| n.id);
        Placement::from_parts(nodes, online, chosen)
    }

    fn from_parts(
        nodes: Vec<Node>,
        online: Vec<usize>,
        chosen: Option<Vec<usize>>,
    ) -> Result<Placement> {
        if let Some(&cpu) = chosen.iter().flatten().find(|c| !online.contains(c)) {
            let allowed = online;
            return Err(Error::NoSuchCpu { cpu, allowed });
        }
        Ok(Placement {
            nodes,
            online,
            chosen,
        })
    }

    /// One CPU on each NUMA node, or the CPUs of `--cpus`. Where the kernel shows a single node:
    /// the first and the last CPU. At least two distinct CPUs, else an error.
    pub fn one_per_node(&self) -> Result<Vec<usize>> {
        let mut cpus: Vec<usize> = match &self.chosen {
            Some(chosen) => chosen.clone(),
            None => self
                .nodes
                .iter()
                .filter_map(|n| n.cpus.first().copied())
                .collect(),
        };
        if self.chosen.is_none() && cpus.len() < 2 {
            cpus = self
                .online
                .first()
                .into_iter()
                .chain(self.online.last())
                .copied()
                .collect();
        }
        at_least_two(cpus)
    }

    /// All CPUs (or those of `--cpus`), alternating between the nodes.
    pub fn alternating(&self) -> Result<Vec<usize>> {
        if let Some(chosen) = &self.chosen {
            return at_least_two(chosen.clone());
        }
        let longest = self.nodes.iter().map(|n| n.cpus.len()).max().unwrap_or(0);
        let rounds = 0..longest;
        at_least_two(
            rounds
                .flat_map(|i| {
                    self.nodes
                        .iter()
                        .filter_map(move |n| n.cpus.get(i).copied())
                })
                .collect(),
        )
    }

    /// Number of the NUMA node of `cpu`.
    pub fn node_of(&self, cpu: usize) -> Option<usize> {
        let node = self.nodes.iter().find(|n| n.cpus.contains(&cpu));
        node.map(|n| n.id)
    }
}

fn at_least_two(cpus: Vec<usize>) -> Result<Vec<usize>> {
    let mut distinct = cpus.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < 2 {
        return Err(Error::TooFewCpus {
            needed: 2,
            found: distinct.len(),
        });
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(nodes: &[&[usize]], chosen: Option<Vec<usize>>) -> Result<Placement> {
        let online = nodes.iter().flat_map(|n| n.iter().copied()).collect();
        let nodes = nodes.iter().enumerate().map(|(id, cpus)| Node {
            id,
            cpus: cpus.to_vec(),
            memory_kib: 0,
        });
        Placement::from_parts(nodes.collect(), online, chosen)
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5\n").expect("list"), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("\n").expect("list"), [0usize; 0]);
        for bad in ["x", "3-1", "1-", "0-99999999999"] {
            assert!(parse_cpu_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn threads_alternate_between_nodes() {
        let p = placement(&[&[0, 1], &[2, 3, 4]], None).expect("placement");
        assert_eq!(p.one_per_node().expect("two"), [0, 2]);
        assert_eq!(p.alternating().expect("all"), [0, 2, 1, 3, 4]);
        assert_eq!(p.node_of(3), Some(1));
    }

    #[test]
    fn a_single_node_gives_its_first_and_last_cpu() {
        let p = placement(&[&[0, 1, 2]], None).expect("placement");
        assert_eq!(p.one_per_node().expect("two"), [0, 2]);
    }

    #[test]
    fn one_cpu_is_refused_and_so_is_an_unknown_one() {
        let p = placement(&[&[0]], None).expect("placement");
        assert!(matches!(
            p.one_per_node(),
            Err(Error::TooFewCpus { found: 1, .. })
        ));
        assert!(p.alternating().is_err());
        let same = placement(&[&[0, 1]], Some(vec![1, 1])).expect("placement");
        assert!(same.one_per_node().is_err());
        let unknown = placement(&[&[0, 1]], Some(vec![0, 7]));
        assert!(matches!(unknown, Err(Error::NoSuchCpu { cpu: 7, .. })));
    }

    #[test]
    fn memory_lines_of_both_files() {
        assert_eq!(memory_kib("Node 1 MemTotal:     2048 kB\n"), 2048);
        assert_eq!(memory_kib("MemTotal:  77 kB\nMemFree: 5 kB\n"), 77);
        let all = "MemTotal:  77 kB\nMemFree: 5 kB\nMemAvailable:   8 kB\n";
        assert_eq!(kib(all, "MemAvailable:"), 8);
        assert!(fillable_bytes().expect("meminfo") > 1 << 20);
    }
}
