//! Code written by one CPU and executed by another, by the protocol of the SDM (volume 3,
//! section 9.1.3, cross-modifying code): write, publish, the other side serialises, executes.

use crate::error::Result;
use crate::report::Report;
use crate::stretches::stretches;
use crate::sys::{Mapping, PAGE};
use crate::team;
use crate::{apart, asm};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Instant;

/// Pages of code, used in turn.
const PAGES: usize = 4;
/// Functions per page, one in each cache line.
const SLOTS: usize = PAGE / 64;
/// Where a function starts in its line: its immediate is then aligned to 4 bytes.
const START: usize = 3;

/// Executions that returned another value than the one written last.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// How many.
    pub count: u64,
    /// (round, value returned, value written) of the first.
    pub first: Option<(u64, u32, u32)>,
}

impl Stale {
    fn compare(&mut self, round: u64, got: u32, written: u32) {
        if got != written {
            self.count += 1;
            self.first.get_or_insert((round, got, written));
        }
    }
}

/// Any stale execution fails, and so does a round that was not executed.
pub fn verdict(stale: &[Stale], executed: u64, rounds: u64) -> Vec<String> {
    let mut failures = Vec::new();
    let count: u64 = stale.iter().map(|s| s.count).sum();
    if let Some((round, got, written)) = stale.iter().find_map(|s| s.first) {
        failures.push(format!(
            "{count} executions of old code; first in round {round}: {got:#x} instead of {written:#x}"
        ));
    }
    if executed != rounds || rounds == 0 {
        failures.push(format!("{executed} of {rounds} rounds executed"));
    }
    failures
}

/// The value of a round; neighbouring rounds differ in every byte.
fn value_of(round: u64) -> u32 {
    (round as u32).wrapping_mul(0x9e37_79b9) ^ 0x0101_0101
}

/// Writes `mov eax, imm32; ret` to a slot whole, as a compiler at run time would.
fn write_function(code: &Mapping, slot: usize, value: u32) {
    let bytes = value.to_le_bytes();
    let function = [0xb8, bytes[0], bytes[1], bytes[2], bytes[3], 0xc3];
    for (i, byte) in function.into_iter().enumerate() {
        code.u8(slot + START + i).store(byte, Relaxed);
    }
}

/// The slot of a round: in another page than that of the round before, and no two of a stretch share one.
fn slot_of(round: u64) -> usize {
    (round as usize * 67) % (PAGES * SLOTS) * 64
}

fn write_round(code: &Mapping, round: u64) {
    let (slot, value) = (slot_of(round), value_of(round));
    if round % 2 == 0 {
        write_function(code, slot, value);
    } else {
        // Only the immediate, as a kernel patches a static key or a call.
        code.u32(slot + START + 1).store(value, Relaxed);
    }
}

fn call(code: &Mapping, slot: usize) -> u32 {
    // The instruction stream must not be older than the flag that announced it.
    asm::cpuid(0, 0);
    let address = code.at(slot + START);
    // SAFETY: the slot holds `mov eax, imm32; ret`, complete since the flag was seen, in an
    // executable mapping; it uses no stack beyond its return address.
    let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(address) };
    function()
}

/// `rounds` functions are written and executed; the thread that writes changes with each stretch, all others execute.
pub fn run(cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("smc", cpus.len());
    let code = Mapping::executable(PAGES)?;
    let control = Mapping::shared(1)?;
    let (published, executed) = (control.u64(0), control.u64(64));
    let threads = cpus.len() as u64;
    for slot in 0..PAGES * SLOTS {
        write_function(&code, slot * 64, 0);
    }
    let begin = Instant::now();
    let stale = apart::run(cpus, |member| {
        let mut stale = Stale::default();
        for (number, stretch) in (0..).zip(stretches(rounds)) {
            if number % threads == member.tid as u64 {
                member.spin_until(|| executed.load(Acquire) == stretch.start * (threads - 1));
                stretch.clone().for_each(|round| write_round(&code, round));
                published.store(stretch.end, Release);
            } else {
                member.spin_until(|| published.load(Acquire) >= stretch.end);
                for round in stretch.clone() {
                    stale.compare(round, call(&code, slot_of(round)), value_of(round));
                }
                executed.fetch_add(stretch.end - stretch.start, Release);
            }
            member.progress(stretch.end);
        }
        stale
    })?;
    let done = executed.load(Acquire) / (threads - 1);
    Ok(Report::new("smc")
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("rounds", rounds)
        .with("stale", stale.iter().map(|s| s.count).sum::<u64>())
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(verdict(&stale, done, rounds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stale_execution_fails() {
        let mut stale = Stale::default();
        stale.compare(3, 7, 7);
        assert!(verdict(&[stale], 4, 4).is_empty());
        stale.compare(5, 7, 8);
        stale.compare(6, 7, 9);
        let failures = verdict(&[Stale::default(), stale], 7, 7);
        assert!(failures[0].starts_with("2 executions"), "{failures:?}");
        assert!(
            failures[0].contains("round 5: 0x7 instead of 0x8"),
            "{failures:?}"
        );
        assert_eq!(verdict(&[], 3, 4).len(), 1);
    }

    #[test]
    fn rounds_of_a_stretch_have_slots_of_their_own() {
        for stretch in stretches(1000) {
            let mut slots: Vec<usize> = stretch.clone().map(slot_of).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len() as u64, stretch.end - stretch.start);
        }
    }

    #[test]
    fn immediates_are_aligned_and_values_differ() {
        assert_eq!((START + 1) % 4, 0);
        assert!((0..1000).all(|r| value_of(r) != value_of(r + 1)));
    }

    #[test]
    fn this_machine_executes_new_code() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        if cpus.len() >= 2 {
            let report = run(&cpus[..2], 2000).expect("run");
            assert!(report.ok(), "{}", report.text());
        }
    }
}
