//! The command line.

use crate::error::{Error, Result};
use crate::placement::parse_cpu_list;

/// What `lev-guest --help` prints.
pub const HELP: &str = "\
usage: lev-guest CHECK [OPTIONS]
Checks from inside that a machine made of several nodes behaves like one x86 machine.

checks:
  demo        CPUs, NUMA nodes, work on every CPU, interrupts between nodes, memory of each node
  counters    locked instructions on shared counters give exact totals
  ticketlock  a ticket lock protects data in another page
  litmus      no outcome that x86-TSO forbids
  pagecross   accesses that cross cache lines and pages
  smc         code written by one CPU and executed by another
  clock       time never runs backwards between CPUs
  tlb         page-table changes, copy-on-write, fork, exec and exit are seen by other CPUs
  mem         memory holds what was written (--bytes, --passes)
  fill        the same with nearly all memory that is free (--bytes, --passes)
  spin        busy loop on one CPU (--cpu, --seconds)
  all         every check except fill and spin, with moderate numbers of rounds

options:
  --cpus LIST        CPUs of the threads, in order, e.g. 0,3 (default: one on each NUMA node;
                     all CPUs, alternating between nodes, for demo and litmus)
  --rounds N         rounds (default 100000; demo 200; clock 1000000; tlb 20000; all 20000)
  --timeout SECONDS  fail, saying where it stood, when not done by then (default 900)
  --processes        members of a team are processes, which have page tables of their own (counters,
                     ticketlock, litmus, pagecross, smc, clock)
  --json             one JSON object on each line
  --shapes LIST      litmus: only these, e.g. SB,MP
  --expect-cpus N    demo: fail unless N CPUs are online
  --expect-nodes N   demo: fail unless N NUMA nodes have CPUs
  --bytes N[K|M|G]   mem: how much (default 64M); fill: how much (default 7/8 of what is free)
  --passes N         mem, fill: how often (default 2; fill 1)
  --cpu N            spin: where
  --seconds N        spin: how long (default 5)

exit code: 0 everything passed, 1 a check failed, 2 wrong command line, 3 timeout,
4 a check could not be carried out
";

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// First word.
    pub check: String,
    /// `--cpus`
    pub cpus: Option<Vec<usize>>,
    /// `--rounds`
    pub rounds: Option<u64>,
    /// `--timeout` in seconds
    pub timeout: u64,
    /// `--processes`
    pub processes: bool,
    /// `--json`
    pub json: bool,
    /// `--shapes`
    pub shapes: Option<Vec<String>>,
    /// `--expect-cpus`; 0 accepts any number
    pub expect_cpus: usize,
    /// `--expect-nodes`; 0 accepts any number
    pub expect_nodes: usize,
    /// `--bytes`
    pub bytes: Option<usize>,
    /// `--passes`
    pub passes: Option<u64>,
    /// `--cpu`
    pub cpu: Option<usize>,
    /// `--seconds`
    pub seconds: u64,
}

fn number(option: &str, text: &str) -> Result<u64> {
    let wrong = || Error::Usage(format!("{option} takes a number above 0, not {text:?}"));
    text.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)
}

fn size(option: &str, text: &str) -> Result<usize> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let bytes = number(option, digits)?.checked_mul(1 << shift);
    let fits = bytes.filter(|b| *b < 1 << 46).map(|b| b as usize);
    fits.ok_or_else(|| Error::Usage(format!("{option} {text} is too much")))
}

impl Options {
    /// Reads the words after the program's name; options take their value as the next word or
    /// after `=`.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            check: String::new(),
            cpus: None,
            rounds: None,
            timeout: 900,
            processes: false,
            json: false,
            shapes: None,
            expect_cpus: 0,
            expect_nodes: 0,
            bytes: None,
            passes: None,
            cpu: None,
            seconds: 5,
        };
        let mut words = words;
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                if !options.check.is_empty() {
                    return Err(Error::Usage(format!("what is {word:?} for?")));
                }
                options.check = word;
            } else if word == "--json" {
                options.json = true;
            } else if word == "--processes" {
                options.processes = true;
            } else {
                let (name, value) = match word.split_once('=') {
                    Some((name, value)) => (name.to_string(), Some(value.to_string())),
                    None => (word, words.next()),
                };
                let missing = || Error::Usage(format!("{name} needs a value"));
                options.set(&name, &value.ok_or_else(missing)?)?;
            }
        }
        if options.check.is_empty() {
            return Err(Error::Usage("which check? (see --help)".to_string()));
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "--cpus" => self.cpus = Some(parse_cpu_list(value)?),
            "--rounds" => self.rounds = Some(number(name, value)?),
            "--timeout" => self.timeout = number(name, value)?,
            "--shapes" => self.shapes = Some(value.split(',').map(str::to_string).collect()),
            "--expect-cpus" => self.expect_cpus = number(name, value)? as usize,
            "--expect-nodes" => self.expect_nodes = number(name, value)? as usize,
            "--bytes" => self.bytes = Some(size(name, value)?),
            "--passes" => self.passes = Some(number(name, value)?),
            "--seconds" => self.seconds = number(name, value)?,
            "--cpu" => {
                let wrong = |_| Error::Usage(format!("--cpu takes a number, not {value:?}"));
                self.cpu = Some(value.parse().map_err(wrong)?);
            }
            _ => return Err(Error::Usage(format!("there is no option {name}"))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_string))
    }

    #[test]
    fn options_with_either_form_of_value() {
        let o = parse("litmus --cpus 0,3 --rounds=7 --processes --json --shapes SB,MP")
            .expect("options");
        assert_eq!(o.cpus, Some(vec![0, 3]));
        assert_eq!((o.rounds, o.json, o.processes), (Some(7), true, true));
        assert_eq!(o.shapes, Some(vec!["SB".to_string(), "MP".to_string()]));
        assert_eq!(
            parse("mem --bytes 3M").expect("options").bytes,
            Some(3 << 20)
        );
        assert_eq!(parse("spin --cpu 0").expect("options").cpu, Some(0));
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "",
            "--json",
            "mem x",
            "mem --bytes",
            "mem --bytes 0",
            "mem --bytes 99999999999G",
            "litmus --rounds 0",
            "litmus --rounds -1",
            "litmus --nope 1",
            "litmus --cpus 3-1",
            "mem --bytes é",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
