//! The bounded run: the corpus, then a fixed number of mutations, the same every time. `LEV_FUZZ_ROUNDS` multiplies their
//! number.

mod measured;

use lev_fuzz::{targets, Mutator, Seed, Target, PER_BYTE};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

/// Reads one input and says what it did wrong.
fn check(target: &Target, input: &[u8]) -> Result<(), String> {
    let (result, peak) = measured::peak(|| {
        catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|_| "it panicked".to_owned())
    });
    result?;
    let limit = target.memory + PER_BYTE * input.len();
    if peak > limit {
        return Err(format!("{peak} bytes of memory; the limit is {limit}"));
    }
    Ok(())
}

/// Ends the test, with the input in a file.
fn report(target: &Target, what: &str, input: &[u8], name: &str) -> ! {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", target.name));
    let kept = match std::fs::write(&path, input) {
        Ok(()) => format!("input in {}; keep it in the corpus", path.display()),
        Err(error) => format!("input {input:02x?} ({error})"),
    };
    panic!("{}, {name}: {what}; {kept}", target.name);
}

fn run(target: &Target) {
    let corpus = lev_fuzz::read_corpus(target).unwrap_or_default();
    assert!(!corpus.is_empty(), "no corpus of {}", target.name);
    for (name, input) in &corpus {
        if let Err(what) = check(target, input) {
            report(target, &what, input, name);
        }
    }
    let times = std::env::var("LEV_FUZZ_ROUNDS").map_or(1, |text| {
        text.parse::<u64>().expect("LEV_FUZZ_ROUNDS is a number")
    });
    let mutator = Mutator::new(target, &corpus);
    for round in 0..u64::from(target.rounds) * times {
        let input = mutator.input(round);
        if let Err(what) = check(target, &input) {
            report(target, &what, &input, &format!("round-{round}"));
        }
    }
}

#[test]
fn every_border_holds() {
    // Once for what is made on first use, which is not the input's doing.
    for target in targets() {
        for (_, seed) in (target.seeds)() {
            (target.run)(&seed);
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = targets()
            .into_iter()
            .map(|target| scope.spawn(move || run(&target)))
            .collect();
        let failed = threads.into_iter().filter_map(|thread| thread.join().err());
        assert_eq!(failed.count(), 0, "see above");
    });
}

#[test]
fn the_corpus_is_what_production_makes() {
    for target in targets() {
        let kept = lev_fuzz::read_corpus(&target).unwrap_or_default();
        for (name, seed) in (target.seeds)() {
            let found = kept.iter().find(|(kept, _): &&Seed| *kept == name);
            assert!(
                found.is_some_and(|(_, bytes)| *bytes == seed),
                "{} of {} is not in the corpus; `cargo run -p lev-fuzz --bin lev-corpus` writes it",
                name,
                target.name
            );
        }
    }
}

#[test]
fn a_target_that_does_wrong_is_noticed() {
    let target = |run: fn(&[u8])| Target {
        run,
        ..targets()[0]
    };
    let greedy = target(|input| {
        let len = input
            .first_chunk()
            .map_or(0, |len| u32::from_le_bytes(*len));
        std::hint::black_box(vec![0u8; len as usize]);
    });
    assert!(check(&greedy, &1000u32.to_le_bytes()).is_ok());
    let wrong = check(&greedy, &(1u32 << 30).to_le_bytes()).unwrap_err();
    assert!(wrong.contains("1073741"), "{wrong}");
    let fragile = target(|input| assert!(input.len() < 3));
    assert!(check(&fragile, b"ab").is_ok());
    assert_eq!(check(&fragile, b"abc"), Err("it panicked".to_owned()));
}
