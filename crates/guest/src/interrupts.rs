//! Interrupts between CPUs, as the guest kernel counts them in /proc/interrupts.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Counts per CPU of the rows RES (reschedule), CAL (function call) and TLB (shootdown).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    rows: BTreeMap<String, BTreeMap<usize, u64>>,
}

/// The rows that count interrupts from other CPUs.
pub const ROWS: [&str; 3] = ["RES", "CAL", "TLB"];

impl Counts {
    /// The counts now.
    pub fn now() -> Result<Counts> {
        let path = "/proc/interrupts";
        let text = std::fs::read_to_string(path).map_err(|e| Error::Read {
            path: path.to_string(),
            reason: e.to_string(),
        })?;
        Counts::parse(&text)
    }

    /// Reads the text of /proc/interrupts.
    pub fn parse(text: &str) -> Result<Counts> {
        let bad = |text: &str| Error::Parse {
            what: "/proc/interrupts",
            text: text.to_string(),
        };
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let cpus: Option<Vec<usize>> = header
            .split_whitespace()
            .map(|name| name.strip_prefix("CPU").and_then(|n| n.parse().ok()))
            .collect();
        let cpus = cpus.filter(|c| !c.is_empty()).ok_or_else(|| bad(header))?;
        let mut rows = BTreeMap::new();
        for line in lines {
            let Some((name, rest)) = line.trim_start().split_once(':') else {
                continue;
            };
            if !ROWS.contains(&name) {
                continue;
            }
            let mut row = BTreeMap::new();
            for (&cpu, count) in cpus.iter().zip(rest.split_whitespace()) {
                row.insert(cpu, count.parse().map_err(|_| bad(line))?);
            }
            rows.insert(name.to_string(), row);
        }
        Ok(Counts { rows })
    }

    /// Interrupts of a row received by `cpu` since `before`; 0 where the kernel has no such row.
    pub fn since(&self, before: &Counts, row: &str, cpu: usize) -> u64 {
        let count = |c: &Counts| c.rows.get(row).and_then(|r| r.get(&cpu)).copied();
        let (now, then) = (count(self).unwrap_or(0), count(before).unwrap_or(0));
        now.saturating_sub(then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU2
  0:         10          0   IO-APIC   2-edge      timer
NMI:          0          0   Non-maskable interrupts
RES:          5          7   Rescheduling interrupts
CAL:        100        200   Function call interrupts
TLB:          1          2   TLB shootdowns
ERR:          0
";

    #[test]
    fn rows_are_read_by_cpu_number() {
        let before = Counts::parse(TEXT).expect("parse");
        let after = TEXT
            .replace("200", "260")
            .replace("          5          7", "  6 9");
        let after = Counts::parse(&after).expect("parse");
        assert_eq!(after.since(&before, "CAL", 2), 60);
        assert_eq!(after.since(&before, "CAL", 0), 0);
        assert_eq!(after.since(&before, "RES", 0), 1);
        assert_eq!(after.since(&before, "RES", 1), 0);
        assert_eq!(after.since(&before, "XYZ", 0), 0);
    }

    #[test]
    fn other_text_is_refused() {
        assert!(Counts::parse("").is_err());
        assert!(Counts::parse("hello\n").is_err());
        assert!(Counts::parse("CPU0\nRES: x\n").is_err());
    }
}
