//! The litmus shapes, as data, and what x86-TSO allows of each.
//!
//! Names follow the literature (Alglave, Maranget, Tautschnig, "Herding cats", 2014). Nothing
//! is hand-marked as forbidden: an operational x86-TSO machine (Owens, Sarkar, Sewell, "A better
//! x86 memory model: x86-TSO", 2009: FIFO store buffers over one memory) enumerates the allowed
//! outcomes, and any other outcome that is seen fails.

use std::collections::{BTreeSet, HashSet, VecDeque};

/// A shared location.
pub type Location = usize;
/// First location.
pub const X: Location = 0;
/// Second location.
pub const Y: Location = 1;

/// One instruction of a litmus thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Plain store of a value.
    Store(Location, u8),
    /// Plain load into the thread's next register.
    Load(Location),
    /// MFENCE.
    Fence,
}
use Op::{Fence, Load, Store};

/// Where the two locations of a round lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In different pages.
    Pages,
    /// In different cache lines of one page.
    Page,
    /// In one cache line.
    Line,
}

impl Layout {
    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Pages => "pages",
            Layout::Page => "page",
            Layout::Line => "line",
        }
    }
}

/// A litmus test: what each thread does, and what is looked at afterwards.
pub struct Shape {
    /// Name in the literature; `+mfence` where a fence stands in the store-load threads.
    pub name: &'static str,
    /// Instructions of each thread.
    pub threads: &'static [&'static [Op]],
    /// Whether the final values of X and Y belong to the outcome.
    pub finals: bool,
    /// Layouts worth running.
    pub layouts: &'static [Layout],
}

const APART: &[Layout] = &[Layout::Pages];
const ALL: &[Layout] = &[Layout::Pages, Layout::Page, Layout::Line];

/// Every shape that `litmus` runs.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "SB",
        threads: &[&[Store(X, 1), Load(Y)], &[Store(Y, 1), Load(X)]],
        finals: false,
        layouts: ALL,
    },
    Shape {
        name: "SB+mfence",
        threads: &[
            &[Store(X, 1), Fence, Load(Y)],
            &[Store(Y, 1), Fence, Load(X)],
        ],
        finals: false,
        layouts: ALL,
    },
    Shape {
        name: "MP",
        threads: &[&[Store(X, 1), Store(Y, 1)], &[Load(Y), Load(X)]],
        finals: false,
        layouts: ALL,
    },
    Shape {
        name: "LB",
        threads: &[&[Load(X), Store(Y, 1)], &[Load(Y), Store(X, 1)]],
        finals: false,
        layouts: APART,
    },
    Shape {
        name: "IRIW",
        threads: &[
            &[Store(X, 1)],
            &[Store(Y, 1)],
            &[Load(X), Load(Y)],
            &[Load(Y), Load(X)],
        ],
        finals: false,
        layouts: APART,
    },
    Shape {
        name: "2+2W",
        threads: &[&[Store(X, 1), Store(Y, 2)], &[Store(Y, 1), Store(X, 2)]],
        finals: true,
        layouts: ALL,
    },
    Shape {
        name: "R",
        threads: &[&[Store(X, 1), Store(Y, 1)], &[Store(Y, 2), Load(X)]],
        finals: true,
        layouts: APART,
    },
    Shape {
        name: "R+mfence",
        threads: &[&[Store(X, 1), Store(Y, 1)], &[Store(Y, 2), Fence, Load(X)]],
        finals: true,
        layouts: APART,
    },
    Shape {
        name: "S",
        threads: &[&[Store(X, 2), Store(Y, 1)], &[Load(Y), Store(X, 1)]],
        finals: true,
        layouts: APART,
    },
    Shape {
        name: "WRC",
        threads: &[&[Store(X, 1)], &[Load(X), Store(Y, 1)], &[Load(Y), Load(X)]],
        finals: false,
        layouts: APART,
    },
    Shape {
        name: "CoRR",
        threads: &[&[Store(X, 1)], &[Load(X), Load(X)]],
        finals: false,
        layouts: APART,
    },
];

/// What was observed: register values in thread order, then final X and Y if they count. One
/// decimal digit each, so that `10` reads "first 1, second 0".
pub type Outcome = Vec<u8>;

/// Digits of an outcome; a value that no thread stores shows as `?`.
pub fn outcome_name(outcome: &[u8]) -> String {
    let digit = |&v: &u8| char::from_digit(u32::from(v), 10).unwrap_or('?');
    outcome.iter().map(digit).collect()
}

impl Shape {
    /// What the digits of an outcome mean, for example `P0:y P1:x`.
    pub fn legend(&self) -> String {
        let mut parts = Vec::new();
        for (thread, ops) in self.threads.iter().enumerate() {
            for op in *ops {
                if let Load(l) = op {
                    parts.push(format!("P{thread}:{}", ["x", "y"][*l]));
                }
            }
        }
        if self.finals {
            parts.extend(["x".to_string(), "y".to_string()]);
        }
        parts.join(" ")
    }

    /// Outcomes that x86-TSO allows.
    pub fn allowed(&self) -> BTreeSet<Outcome> {
        self.explore(true)
    }

    /// Outcomes that remain when stores reach memory at once (sequential consistency).
    pub fn sequential(&self) -> BTreeSet<Outcome> {
        self.explore(false)
    }

    fn explore(&self, buffered: bool) -> BTreeSet<Outcome> {
        let mut outcomes = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut todo = vec![State::new(self.threads.len())];
        while let Some(state) = todo.pop() {
            if !seen.insert(state.clone()) {
                continue;
            }
            let mut next = Vec::new();
            for thread in 0..self.threads.len() {
                next.extend(state.execute(thread, self.threads[thread], buffered));
                next.extend(state.drain(thread));
            }
            if next.is_empty() {
                outcomes.insert(state.outcome(self.finals));
            }
            todo.append(&mut next);
        }
        outcomes
    }
}

/// A state of the x86-TSO machine.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    memory: [u8; 2],
    counters: Vec<usize>,
    buffers: Vec<VecDeque<(Location, u8)>>,
    registers: Vec<Vec<u8>>,
}

impl State {
    fn new(threads: usize) -> State {
        State {
            memory: [0; 2],
            counters: vec![0; threads],
            buffers: vec![VecDeque::new(); threads],
            registers: vec![Vec::new(); threads],
        }
    }

    /// The state after the next instruction of `thread`, if it can execute now.
    fn execute(&self, thread: usize, ops: &[Op], buffered: bool) -> Option<State> {
        let op = *ops.get(self.counters[thread])?;
        let mut next = self.clone();
        next.counters[thread] += 1;
        match op {
            Store(l, v) if buffered => next.buffers[thread].push_back((l, v)),
            Store(l, v) => next.memory[l] = v,
            Load(l) => {
                let own = self.buffers[thread].iter().rev().find(|s| s.0 == l);
                next.registers[thread].push(own.map_or(self.memory[l], |s| s.1));
            }
            Fence if !self.buffers[thread].is_empty() => return None,
            Fence => {}
        }
        Some(next)
    }

    /// The state after the oldest buffered store of `thread` has reached memory.
    fn drain(&self, thread: usize) -> Option<State> {
        let mut next = self.clone();
        let (location, value) = next.buffers[thread].pop_front()?;
        next.memory[location] = value;
        Some(next)
    }

    fn outcome(&self, finals: bool) -> Outcome {
        let mut outcome = self.registers.concat();
        if finals {
            outcome.extend(self.memory);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(name: &str) -> &'static Shape {
        SHAPES.iter().find(|s| s.name == name).expect("shape")
    }

    fn allows(name: &str, outcome: &[u8]) -> bool {
        shape(name).allowed().contains(outcome)
    }

    /// The results known from the literature, one for each shape.
    #[test]
    fn the_machine_knows_what_x86_forbids() {
        assert!(!allows("SB+mfence", &[0, 0]));
        assert!(!allows("MP", &[1, 0]));
        assert!(!allows("LB", &[1, 1]));
        assert!(!allows("IRIW", &[1, 0, 1, 0]));
        assert!(!allows("2+2W", &[1, 1]));
        assert!(!allows("R+mfence", &[0, 1, 2]));
        assert!(!allows("S", &[1, 2, 1]));
        assert!(!allows("WRC", &[1, 1, 0]));
        assert!(!allows("CoRR", &[1, 0]));
    }

    #[test]
    fn each_shape_forbids_one_outcome_of_interest_and_allows_the_rest() {
        let sizes: Vec<(&str, usize)> =
            SHAPES.iter().map(|s| (s.name, s.allowed().len())).collect();
        let expected = [
            ("SB", 4),
            ("SB+mfence", 3),
            ("MP", 3),
            ("LB", 3),
            ("IRIW", 15),
            ("2+2W", 3),
            ("R", 4),
            ("R+mfence", 3),
            ("S", 3),
            ("WRC", 7),
            ("CoRR", 3),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn only_the_store_buffer_shapes_are_relaxed() {
        for s in SHAPES {
            let relaxed: Vec<Outcome> = s.allowed().difference(&s.sequential()).cloned().collect();
            match s.name {
                "SB" => assert_eq!(relaxed, [vec![0, 0]]),
                "R" => assert_eq!(relaxed, [vec![0, 1, 2]]),
                _ => assert!(relaxed.is_empty(), "{}: {relaxed:?}", s.name),
            }
        }
    }

    #[test]
    fn legends_and_names() {
        assert_eq!(shape("SB").legend(), "P0:y P1:x");
        assert_eq!(shape("S").legend(), "P1:y x y");
        assert_eq!(outcome_name(&[1, 0, 15]), "10?");
    }
}
