//! Runs the litmus shapes and counts every outcome.
//!
//! Rounds come in batches, as litmus7 does it: each round has its own pair of words; a batch is
//! cleared, the threads meet, run through all rounds of the batch without meeting again, meet,
//! and the outcomes are counted. Batches differ in everything that may matter:
//! - which thread takes which role (all permutations), so that roles sit on either node,
//! - whether many rounds share a page (it bounces) or each has its own (it is fetched once),
//! - who owns the pages at the start: the first thread, the last one, or all of them as readers,
//! - whether threads run freely or start each round at a common time-stamp.
//!
//! While too few batches were mixed, all are run again, those of common time-stamps more slowly: where a page takes
//! milliseconds to the other node, a thread that has it would be done with all of its rounds before the other one begins.

use crate::batches::{offsets, permutations, plan, Batch, Start, ARENA_PAGES};
use crate::error::{Error, Result};
use crate::placement::Placement;
use crate::report::Report;
use crate::shapes::{outcome_name, Layout, Location, Op, Shape, SHAPES};
use crate::sys::{Mapping, PAGE};
use crate::tally::{verdict, Tally};
use crate::team::{self, Member};
use crate::{apart, asm};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Cycles between the common starts of two rounds, in each pass through the plan; passes end when enough batches were
/// mixed. 1024 rounds take between a fraction of a millisecond and a fraction of a second.
const ROUND_CYCLES: [u64; 8] = [
    600, 2_400, 9_600, 38_400, 153_600, 153_600, 153_600, 153_600,
];

/// A litmus thread as code and operands.
struct Kernel {
    body: asm::Body,
    locations: [Location; 2],
    values: [u32; 2],
    loads: [bool; 2],
}

/// The code for a thread of a shape.
fn kernel(ops: &[Op]) -> Option<Kernel> {
    use Op::{Fence, Load, Store};
    let (body, locations, values, loads): (asm::Body, _, _, _) = match *ops {
        [Store(a, v)] => (asm::store, [a, a], [v, 0], [false, false]),
        [Store(a, v), Store(b, w)] => (asm::store_store, [a, b], [v, w], [false, false]),
        [Store(a, v), Load(b)] => (asm::store_load, [a, b], [v, 0], [true, false]),
        [Store(a, v), Fence, Load(b)] => (asm::store_fence_load, [a, b], [v, 0], [true, false]),
        [Load(a), Load(b)] => (asm::load_load, [a, b], [0, 0], [true, true]),
        [Load(a), Store(b, w)] => (asm::load_store, [a, b], [0, w], [true, false]),
        _ => return None,
    };
    let values = values.map(u32::from);
    Some(Kernel {
        body,
        locations,
        values,
        loads,
    })
}

/// Everything that the threads of one run share.
struct Run<'a> {
    layout: Layout,
    batches: Vec<Batch>,
    kernels: Vec<Kernel>,
    roles: Vec<Vec<usize>>,
    finals: bool,
    arena: &'a Mapping,
    records: Mapping,
    /// Byte 0 is 1 when enough batches were mixed; away from what changes.
    enough: Mapping,
}

impl Run<'_> {
    /// Clears the words of a batch or reads them, to bring its pages to this thread's node.
    fn touch(&self, batch: &Batch, clear: bool) {
        for i in 0..batch.rounds {
            for offset in offsets(self.layout, batch, i) {
                if clear {
                    self.arena.u32(offset).store(0, Relaxed);
                } else {
                    self.arena.u32(offset).load(Relaxed);
                }
            }
        }
    }

    /// Clears a batch and brings its pages to where it starts.
    fn prepare(&self, member: &Member, batch: &Batch) {
        let last = self.kernels.len() - 1;
        let owner = if batch.start == Start::LastOwns {
            last
        } else {
            0
        };
        if member.tid == owner {
            self.touch(batch, true);
        }
        if batch.start == Start::AllRead {
            member.meet();
            self.touch(batch, false);
        }
    }

    /// Runs this thread's part of a batch and leaves its registers in the records.
    fn execute(&self, member: &Member, batch: &Batch, round_cycles: u64) {
        let kernel = &self.kernels[self.role(batch, member.tid)];
        let start = member.start_together();
        let record = member.tid * PAGE;
        for i in 0..batch.rounds {
            let at = offsets(self.layout, batch, i);
            let [a, b] = kernel.locations.map(|l| self.arena.at(at[l]).cast::<u32>());
            if batch.timed {
                // A little early or late, so that all alignments of the threads occur.
                let jitter = (i * (member.tid + 1) * 37 % 128) as u64;
                team::wait_until(start + i as u64 * round_cycles + jitter);
            }
            // SAFETY: both words lie in the arena (checked by `at`), 4-byte aligned by
            // `offsets`; other threads touch them only through atomics and these bodies.
            let (r0, r1) = unsafe { (kernel.body)(a, b, kernel.values[0], kernel.values[1]) };
            let byte = r0.min(15) | r1.min(15) << 4;
            self.records.u8(record + i).store(byte as u8, Relaxed);
        }
    }

    fn role(&self, batch: &Batch, tid: usize) -> usize {
        self.roles[batch.number % self.roles.len()][tid]
    }

    /// Adds the outcomes of a finished batch to the tally.
    fn count(&self, batch: &Batch, tally: &mut Tally) {
        let mut first = None;
        let mut mixed = false;
        let mut by_role = vec![0; self.kernels.len()];
        for tid in 0..self.kernels.len() {
            by_role[self.role(batch, tid)] = tid;
        }
        for i in 0..batch.rounds {
            let mut outcome = Vec::with_capacity(6);
            for (role, kernel) in self.kernels.iter().enumerate() {
                let byte = self.records.u8(by_role[role] * PAGE + i).load(Relaxed);
                let values = [byte & 15, byte >> 4];
                let loaded = values.into_iter().zip(kernel.loads);
                outcome.extend(loaded.filter(|(_, used)| *used).map(|(v, _)| v));
            }
            if self.finals {
                let finals = offsets(self.layout, batch, i);
                outcome.extend(finals.map(|o| self.arena.u32(o).load(Relaxed).min(15) as u8));
            }
            mixed |= first.get_or_insert_with(|| outcome.clone()) != &outcome;
            *tally.counts.entry(outcome).or_default() += 1;
        }
        tally.rounds += batch.rounds as u64;
        tally.batches += 1;
        tally.mixed += u64::from(mixed);
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_shape(
    shape: &Shape,
    layout: Layout,
    cpus: &[usize],
    rounds: u64,
    arena: &Mapping,
) -> Result<Report> {
    let usage = || Error::Usage(format!("no code for shape {}", shape.name));
    let kernels: Option<Vec<Kernel>> = shape.threads.iter().map(|ops| kernel(ops)).collect();
    let threads = shape.threads.len();
    let run = Run {
        layout,
        batches: plan(rounds),
        kernels: kernels.ok_or_else(usage)?,
        roles: permutations(threads),
        finals: shape.finals,
        arena,
        records: Mapping::shared(threads)?,
        enough: Mapping::shared(1)?,
    };
    let placed: Vec<usize> = cpus.iter().copied().cycle().take(threads).collect();
    let begin = std::time::Instant::now();
    // Member 0 counts.
    let counted = Mutex::new(Tally {
        planned: run.batches.len() as u64,
        ..Tally::default()
    });
    apart::run(&placed, |member| {
        for (pass, round_cycles) in (0..).zip(ROUND_CYCLES) {
            for batch in &run.batches {
                run.prepare(member, batch);
                run.execute(member, batch, round_cycles);
                member.meet();
                if member.tid == 0 {
                    run.count(batch, &mut lock(&counted));
                }
                member.progress(pass * rounds + batch.rounds as u64 * (batch.number as u64 + 1));
                member.meet();
            }
            if member.tid == 0 {
                let tally = lock(&counted);
                let enough = tally.mixed >= tally.least_mixed();
                run.enough.u8(0).store(enough.into(), Relaxed);
            }
            member.meet();
            if run.enough.u8(0).load(Relaxed) != 0 {
                break;
            }
        }
    })?;
    let tally = lock(&counted);
    let (allowed, sequential) = (shape.allowed(), shape.sequential());
    let named = tally.counts.iter().map(|(o, n)| (outcome_name(o), *n));
    Ok(Report::new("litmus")
        .with("shape", shape.name)
        .with("layout", layout.name())
        .with("rounds", tally.rounds)
        .with(
            "cpus",
            placed.iter().map(|&c| c as u64).collect::<Vec<u64>>(),
        )
        .with("observes", shape.legend())
        .with("outcomes", named.collect::<Vec<_>>())
        .with(
            "relaxed",
            tally.sum(|o| allowed.contains(o) && !sequential.contains(o)),
        )
        .with("forbidden", tally.sum(|o| !allowed.contains(o)))
        .with("batches", tally.batches)
        .with("mixed_batches", tally.mixed)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(verdict(shape, &tally, team::have_cpu_each(&placed))))
}

/// Runs all shapes (or those named), `rounds` for each layout; `each` receives the reports.
pub fn run(
    placement: &Placement,
    rounds: u64,
    only: Option<&[String]>,
    mut each: impl FnMut(Report),
) -> Result<()> {
    let known = |name: &String| SHAPES.iter().any(|s| s.name.eq_ignore_ascii_case(name));
    if let Some(name) = only.and_then(|names| names.iter().find(|n| !known(n))) {
        let all: Vec<&str> = SHAPES.iter().map(|s| s.name).collect();
        let all = all.join(", ");
        return Err(Error::Usage(format!("no shape is called {name:?} ({all})")));
    }
    let cpus = placement.alternating()?;
    let arena = Mapping::shared(ARENA_PAGES)?;
    let wanted = |s: &&Shape| only.is_none_or(|o| o.iter().any(|n| s.name.eq_ignore_ascii_case(n)));
    for shape in SHAPES.iter().filter(wanted) {
        for &layout in shape.layouts {
            team::enter_stage(
                &format!("litmus {} {}", shape.name, layout.name()),
                shape.threads.len(),
            );
            each(run_shape(shape, layout, &cpus, rounds, &arena)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_code_that_does_its_operations_in_order() {
        for shape in SHAPES {
            let mut expected = [0u32; 2];
            let mut memory = [0u32; 2];
            for ops in shape.threads {
                let kernel = kernel(ops).expect("code");
                let mut loaded = Vec::new();
                for op in *ops {
                    match *op {
                        Op::Store(l, v) => expected[l] = u32::from(v),
                        Op::Load(l) => loaded.push(expected[l]),
                        Op::Fence => {}
                    }
                }
                let base = memory.as_mut_ptr();
                // SAFETY: both locations are words of the local array.
                let (r0, r1) = unsafe {
                    let [a, b] = kernel.locations.map(|l| base.add(l));
                    (kernel.body)(a, b, kernel.values[0], kernel.values[1])
                };
                let got = [r0, r1]
                    .into_iter()
                    .zip(kernel.loads)
                    .filter(|(_, used)| *used);
                assert_eq!(
                    got.map(|(r, _)| r).collect::<Vec<_>>(),
                    loaded,
                    "{}",
                    shape.name
                );
                assert_eq!(memory, expected, "{}", shape.name);
            }
        }
    }

    #[test]
    fn this_machine_is_x86() {
        let placement = Placement::detect(None).expect("placement");
        if placement.online.len() < 2 {
            return;
        }
        let mut reports = 0;
        let only = ["SB".to_string(), "IRIW".to_string()];
        run(&placement, 3000, Some(&only), |report| {
            assert!(report.ok(), "{}", report.text());
            reports += 1;
        })
        .expect("run");
        assert_eq!(reports, 4);
        assert!(run(&placement, 1, Some(&["nope".to_string()]), |_| {}).is_err());
    }
}
