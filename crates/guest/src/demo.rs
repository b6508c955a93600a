//! What the demonstration wants to see from inside: CPUs and NUMA nodes, work on every CPU,
//! interrupts between nodes, memory of every node.

use crate::error::Result;
use crate::interrupts::{Counts, ROWS};
use crate::placement::Placement;
use crate::report::Report;
use crate::sys::{self, Mapping, PAGE};
use crate::team::{self, Member};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

/// Bound of the sieve, and the number of primes below it.
const SIEVE: usize = 200_000;
const PRIMES: u64 = 17_984;
/// How often forcing interrupts is repeated for CPUs that were busy with something else.
const ATTEMPTS: u64 = 50;
/// Memory touched on each node.
const NODE_PAGES: usize = 1024;

fn as_numbers(cpus: &[usize]) -> Vec<u64> {
    cpus.iter().map(|&c| c as u64).collect()
}

/// CPUs and nodes, against what the caller expects to find (0: anything).
pub fn topology(placement: &Placement, cpus: usize, nodes: usize) -> Report {
    let found = placement
        .nodes
        .iter()
        .filter(|n| !n.cpus.is_empty())
        .count();
    let online = placement.online.len();
    let mut failures = Vec::new();
    if cpus != 0 && online != cpus {
        failures.push(format!("{online} CPUs are online instead of {cpus}"));
    }
    if nodes != 0 && found != nodes {
        failures.push(format!("{found} NUMA nodes have CPUs instead of {nodes}"));
    }
    let per_node = |f: &dyn Fn(&crate::placement::Node) -> u64| -> Vec<(String, u64)> {
        placement
            .nodes
            .iter()
            .map(|n| (format!("node{}", n.id), f(n)))
            .collect()
    };
    Report::new("topology")
        .with("cpus_online", online)
        .with("numa_nodes", found)
        .with("cpus_of", per_node(&|n| n.cpus.len() as u64))
        .with("mib_of", per_node(&|n| n.memory_kib / 1024))
        .failing(failures)
}

/// Number of primes below the size of `composite` (which is overwritten).
fn sieve(composite: &mut [bool]) -> u64 {
    composite.fill(false);
    let mut primes = 0;
    for n in 2..composite.len() {
        if composite[n] {
            continue;
        }
        primes += 1;
        for multiple in (n * n..composite.len()).step_by(n) {
            composite[multiple] = true;
        }
    }
    primes
}

/// Sieves that went wrong, and shared counters that do not add up.
pub fn work_verdict(primes: &[u64], rounds: u64, shared: u64, per_cpu: u64) -> Vec<String> {
    let mut failures = Vec::new();
    for (i, &found) in primes.iter().enumerate() {
        if found != rounds * PRIMES {
            let expected = rounds * PRIMES;
            failures.push(format!(
                "thread {i} found {found} primes instead of {expected}"
            ));
        }
    }
    let expected = per_cpu * primes.len() as u64;
    if shared != expected {
        failures.push(format!(
            "the shared counter is {shared} instead of {expected}"
        ));
    }
    failures
}

/// Every CPU sieves in its own memory and counts in shared memory at the same time.
pub fn work(cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("demo work", cpus.len());
    let page = Mapping::new(1)?;
    let shared = page.u64(0);
    // One increment for every 16 primes: real work with real sharing.
    let increments = PRIMES / 16;
    let begin = Instant::now();
    let primes = team::run(cpus, |member| {
        let mut own = vec![false; SIEVE];
        let mut primes = 0;
        for round in 0..rounds {
            primes += sieve(&mut own);
            for _ in 0..increments {
                shared.fetch_add(1, SeqCst);
            }
            member.progress(round + 1);
        }
        primes
    });
    let total = shared.load(SeqCst);
    Ok(Report::new("work")
        .with("cpus", as_numbers(cpus))
        .with("primes", primes.iter().sum::<u64>())
        .with("shared_counter", total)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(work_verdict(&primes, rounds, total, rounds * increments)))
}

/// Function-call interrupts that one CPU forced on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// CPU that called membarrier(2).
    pub from: usize,
    /// CPU that the guest kernel interrupted.
    pub to: usize,
    /// Interrupts that it counted there meanwhile.
    pub received: u64,
    /// Whether the two CPUs are on different NUMA nodes.
    pub crosses: bool,
}

/// Pairs of CPUs between which too few interrupts arrived.
pub fn interrupts_verdict(pairs: &[Pair], least: u64) -> Vec<String> {
    let missing = pairs.iter().filter(|p| p.received < least);
    let mut failures: Vec<String> = missing
        .map(|p| {
            let Pair {
                from, to, received, ..
            } = p;
            format!(
                "CPU {to} counted {received} of {least} function-call interrupts from CPU {from}"
            )
        })
        .collect();
    if pairs.is_empty() {
        failures.push("no pair of CPUs was tried".to_string());
    }
    failures
}

/// The CPU at `sender` forces interrupts on all others, which spin in user space, until each
/// has received `rounds`. Only CPUs that run a thread of this process at that moment are
/// interrupted: each interrupt waits for a sign of life of all receivers, and it goes on for a
/// while when some thread was still preempted just then.
fn force(cpus: &[usize], sender: usize, rounds: u64, placement: &Placement) -> Result<Vec<Pair>> {
    let start = Counts::now()?;
    let done = AtomicBool::new(false);
    let signs = Mapping::new(1)?;
    let alive = |tid: usize| signs.u64(tid * 64 % PAGE);
    let from = cpus[sender];
    let pairs = || -> Result<Vec<Pair>> {
        let now = Counts::now()?;
        let others = cpus.iter().filter(|&&to| to != from);
        let pair = |&to| Pair {
            from,
            to,
            received: now.since(&start, "CAL", to),
            crosses: placement.node_of(from) != placement.node_of(to),
        };
        Ok(others.map(pair).collect())
    };
    let attempt = |member: &Member| -> Result<()> {
        for attempt in 0..ATTEMPTS {
            for round in 0..rounds {
                for tid in (0..cpus.len()).filter(|&tid| tid != sender) {
                    let before = alive(tid).load(Relaxed);
                    member.spin_until(|| alive(tid).load(Relaxed) != before);
                }
                sys::membarrier()?;
                member.progress(attempt * rounds + round + 1);
            }
            if pairs()?.iter().all(|p| p.received >= rounds) {
                break;
            }
        }
        Ok(())
    };
    team::run(cpus, |member| {
        member.meet();
        if member.tid != sender {
            return member.spin_until(|| {
                alive(member.tid).fetch_add(1, Relaxed);
                done.load(Acquire)
            });
        }
        attempt(member).unwrap_or_else(|e| team::give_up(&e));
        done.store(true, Release);
    });
    pairs()
}

/// Each CPU in turn forces function-call interrupts on all others; then page-table changes
/// force TLB shootdowns, and blocked threads are woken on other CPUs.
pub fn interrupts(placement: &Placement, cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("demo interrupts", cpus.len());
    sys::membarrier_register()?;
    let begin = Instant::now();
    let before = Counts::now()?;
    let mut pairs = Vec::new();
    for sender in 0..cpus.len() {
        pairs.extend(force(cpus, sender, rounds, placement)?);
    }
    shoot_down(cpus, rounds)?;
    wake_up(cpus, rounds);
    let after = Counts::now()?;
    let mut report = Report::new("interrupts")
        .with("cpus", as_numbers(cpus))
        .with("rounds", rounds);
    for row in ROWS {
        let counts: Vec<u64> = cpus.iter().map(|&c| after.since(&before, row, c)).collect();
        report = report.with(row, counts);
    }
    let named = pairs
        .iter()
        .map(|p| (format!("{}>{}", p.from, p.to), p.received));
    let between = pairs.iter().filter(|p| p.crosses).map(|p| p.received);
    Ok(report
        .with("forced", named.collect::<Vec<_>>())
        .with("between_nodes", between.sum::<u64>())
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(interrupts_verdict(&pairs, rounds)))
}

/// The first CPU discards a page that all others keep reading.
fn shoot_down(cpus: &[usize], rounds: u64) -> Result<()> {
    let page = Mapping::new(1)?;
    let done = AtomicBool::new(false);
    team::run(cpus, |member| {
        member.meet();
        if member.tid != 0 {
            return member.spin_until(|| {
                page.u64(member.tid * 64 % PAGE).store(1, Relaxed);
                done.load(Acquire)
            });
        }
        for _ in 0..rounds {
            page.u64(0).store(1, Relaxed);
            // SAFETY: the page belongs to this function; its contents may vanish at any time.
            unsafe { libc::madvise(page.at(0).cast(), PAGE, libc::MADV_DONTNEED) };
        }
        done.store(true, Release);
    });
    Ok(())
}

/// A token goes round by condition variable: each holder sleeps until it is woken.
fn wake_up(cpus: &[usize], rounds: u64) {
    let turn = (std::sync::Mutex::new(0u64), std::sync::Condvar::new());
    let handoffs = rounds * cpus.len() as u64;
    team::run(cpus, |member| {
        for mine in (member.tid as u64..handoffs).step_by(cpus.len()) {
            let Ok(mut now) = turn.0.lock() else { return };
            while *now != mine {
                now = match turn.1.wait(now) {
                    Ok(now) => now,
                    Err(_) => return,
                };
            }
            *now += 1;
            drop(now);
            turn.1.notify_all();
        }
    });
}

/// Pages that lie on another node than asked for, and words that are wrong.
pub fn memory_verdict(node: usize, pages: &[i32], wrong: u64) -> Vec<String> {
    let elsewhere = pages.iter().filter(|n| **n != node as i32).count();
    let mut failures = Vec::new();
    if elsewhere > 0 {
        let (n, first) = (pages.len(), pages.iter().find(|n| **n != node as i32));
        failures.push(format!(
            "{elsewhere} of {n} pages are not on node {node} (first: {first:?})"
        ));
    }
    if wrong > 0 {
        failures.push(format!("{wrong} words of node {node} are wrong"));
    }
    failures
}

/// Memory of every node, written by one CPU and verified by all others.
pub fn memory(placement: &Placement, cpus: &[usize]) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for node in placement.nodes.iter().filter(|n| n.memory_kib > 0) {
        team::enter_stage(&format!("demo memory of node {}", node.id), cpus.len());
        let begin = Instant::now();
        let memory = Mapping::new(NODE_PAGES)?;
        if placement.nodes.len() > 1 {
            sys::bind_to_node(&memory, node.id)?;
        }
        let value = |offset: usize| (offset as u64) << 8 | node.id as u64 | 1 << 63;
        let written = AtomicU64::new(0);
        let wrong = team::run(cpus, |member| {
            if member.tid == 0 {
                for offset in (0..memory.len()).step_by(64) {
                    memory.u64(offset).store(value(offset), Relaxed);
                }
                written.store(1, Release);
            }
            member.spin_until(|| written.load(Acquire) == 1);
            let words = (0..memory.len()).step_by(64);
            words
                .filter(|&o| memory.u64(o).load(Relaxed) != value(o))
                .count() as u64
        });
        let mut report = Report::new("memory")
            .with("node", node.id)
            .with("pages", NODE_PAGES);
        // Without NUMA there is no placement to ask for.
        let nodes = match placement.nodes.len() {
            1 => Vec::new(),
            _ => sys::nodes_of_pages(&memory)?,
        };
        report = report
            .with("cpus", as_numbers(cpus))
            .with("seconds", begin.elapsed().as_secs_f64())
            .failing(memory_verdict(node.id, &nodes, wrong.iter().sum()));
        reports.push(report);
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement() -> Placement {
        Placement::detect(None).expect("placement")
    }

    #[test]
    fn topology_is_compared_with_what_is_expected() {
        let p = placement();
        let online = p.online.len();
        assert!(topology(&p, 0, 0).ok());
        assert!(topology(&p, online, 0).ok());
        assert!(!topology(&p, online + 1, 0).ok());
        assert!(!topology(&p, online, 17).ok());
    }

    #[test]
    fn the_sieve_knows_its_primes() {
        assert_eq!(sieve(&mut vec![false; SIEVE]), PRIMES);
        assert_eq!(sieve(&mut [false; 10]), 4);
    }

    #[test]
    fn wrong_work_fails() {
        assert!(work_verdict(&[2 * PRIMES; 3], 2, 30, 10).is_empty());
        assert_eq!(work_verdict(&[2 * PRIMES, PRIMES], 2, 20, 10).len(), 1);
        assert_eq!(work_verdict(&[2 * PRIMES; 3], 2, 29, 10).len(), 1);
    }

    #[test]
    fn missing_interrupts_fail() {
        let pair = |received| Pair {
            from: 0,
            to: 1,
            received,
            crosses: true,
        };
        assert!(interrupts_verdict(&[pair(50), pair(51)], 50).is_empty());
        assert_eq!(interrupts_verdict(&[pair(50), pair(49)], 50).len(), 1);
        assert_eq!(interrupts_verdict(&[], 50).len(), 1);
    }

    #[test]
    fn misplaced_and_wrong_memory_fails() {
        assert!(memory_verdict(1, &[1, 1], 0).is_empty());
        assert_eq!(memory_verdict(1, &[1, 0], 0).len(), 1);
        assert_eq!(memory_verdict(1, &[1, -14], 0).len(), 1);
        assert_eq!(memory_verdict(1, &[], 3).len(), 1);
    }

    #[test]
    fn this_machine_passes() {
        let p = placement();
        let Ok(cpus) = p.alternating() else { return };
        let mut reports = vec![work(&cpus, 2).expect("work")];
        reports.push(interrupts(&p, &cpus, 100).expect("interrupts"));
        reports.extend(memory(&p, &cpus).expect("memory"));
        for report in reports {
            assert!(report.ok(), "{}", report.text());
        }
    }
}
