//! The wrapper against a model of what it promises: random calls on real memory, and after each the state and the contents of
//! every page compared. Needs the right to use userfaultfd; skips with a reason without it.

mod memory;

use lev_uffd::{Fill, Memory};
use memory::{Mapping, PAGE};
use proptest::prelude::*;

const PAGES: usize = 12;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    /// Present, and a write faults.
    ReadOnly(u8),
    Writable(u8),
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Zero(usize, usize),
    Copy(usize, usize, u8, bool),
    Protect(usize, usize),
    Unprotect(usize, usize),
    Drop(usize, usize),
    Wake(usize, usize),
    /// A write where nobody must be asked.
    Write(usize, u8),
}

/// Memory as it should be.
struct Model([State; PAGES]);

impl Model {
    /// Fills from `first`, as far as pages are missing.
    fn fill(&mut self, first: usize, count: usize, state: State) -> Option<usize> {
        for page in first..first + count {
            if self.0[page] != State::Missing {
                return Some(page);
            }
            self.0[page] = state;
        }
        None
    }

    fn each(&mut self, first: usize, count: usize, change: impl Fn(State) -> State) {
        for state in &mut self.0[first..first + count] {
            *state = change(*state);
        }
    }
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let range = || (0..PAGES).prop_flat_map(|first| (Just(first), 1..=PAGES - first));
    let call = prop_oneof![
        3 => range().prop_map(|(first, count)| Call::Zero(first, count)),
        4 => (range(), 1u8.., any::<bool>())
            .prop_map(|((first, count), byte, protect)| Call::Copy(first, count, byte, protect)),
        2 => range().prop_map(|(first, count)| Call::Protect(first, count)),
        2 => range().prop_map(|(first, count)| Call::Unprotect(first, count)),
        3 => range().prop_map(|(first, count)| Call::Drop(first, count)),
        1 => range().prop_map(|(first, count)| Call::Wake(first, count)),
        3 => (0..PAGES, 1u8..).prop_map(|(page, byte)| Call::Write(page, byte)),
    ];
    proptest::collection::vec(call, 1..40)
}

fn perform(mapping: &Mapping, model: &mut Model, call: Call) -> Result<(), TestCaseError> {
    let at = |page: usize| mapping.address(page);
    let bytes = |count: usize| (count * PAGE) as u64;
    let filled =
        |stopped: Option<usize>| stopped.map_or(Fill::Complete, |page| Fill::Exists(at(page)));
    let uffd = &mapping.uffd;
    match call {
        Call::Zero(first, count) => {
            let stopped = model.fill(first, count, State::Writable(0));
            prop_assert_eq!(uffd.zero(at(first), bytes(count)), Ok(filled(stopped)));
        }
        Call::Copy(first, count, byte, protect) => {
            let state = if protect {
                State::ReadOnly(byte)
            } else {
                State::Writable(byte)
            };
            let stopped = model.fill(first, count, state);
            let contents = vec![byte; count * PAGE];
            prop_assert_eq!(
                uffd.copy(at(first), &contents, protect),
                Ok(filled(stopped))
            );
        }
        Call::Protect(first, count) => {
            model.each(first, count, |state| match state {
                State::Writable(byte) => State::ReadOnly(byte),
                other => other,
            });
            prop_assert_eq!(uffd.protect(at(first), bytes(count)), Ok(()));
        }
        Call::Unprotect(first, count) => {
            model.each(first, count, |state| match state {
                State::ReadOnly(byte) => State::Writable(byte),
                other => other,
            });
            prop_assert_eq!(uffd.unprotect(at(first), bytes(count)), Ok(()));
        }
        Call::Drop(first, count) => {
            model.each(first, count, |_| State::Missing);
            mapping.drop_pages(first, count);
        }
        Call::Wake(first, count) => {
            prop_assert_eq!(uffd.wake(at(first), bytes(count)), Ok(()));
        }
        Call::Write(page, byte) => {
            if matches!(model.0[page], State::Writable(_)) {
                model.0[page] = State::Writable(byte);
                mapping.fill_page(page, byte);
            }
        }
    }
    Ok(())
}

fn compare(mapping: &Mapping, model: &Model) -> Result<(), TestCaseError> {
    for (page, expected) in model.0.iter().enumerate() {
        let (present, protected) = mapping.entry(page);
        let state = match (present, protected) {
            (false, _) => State::Missing,
            (true, true) => State::ReadOnly(mapping.first_byte(page)),
            (true, false) => State::Writable(mapping.first_byte(page)),
        };
        prop_assert_eq!(state, *expected, "page {}", page);
        prop_assert!(!present || mapping.is_uniform(page), "page {}", page);
    }
    let mut faults = Vec::new();
    prop_assert_eq!(mapping.uffd.read(&mut faults), Ok(()));
    prop_assert!(faults.is_empty(), "nobody touched anything: {:?}", faults);
    Ok(())
}

fn every_call_does_what_the_model_says(memory: Memory) {
    let Some(mapping) = Mapping::new(PAGES, memory) else {
        return;
    };
    let config = ProptestConfig {
        cases: 200,
        ..ProptestConfig::default()
    };
    proptest!(config, |(calls in calls())| {
        mapping.drop_pages(0, PAGES);
        let mut model = Model([State::Missing; PAGES]);
        compare(&mapping, &model)?;
        for call in calls {
            perform(&mapping, &mut model, call)?;
            compare(&mapping, &model)?;
        }
    });
}

#[test]
fn anonymous_memory() {
    every_call_does_what_the_model_says(Memory::Anonymous);
}

#[test]
fn shared_memory() {
    every_call_does_what_the_model_says(Memory::Shmem);
}
