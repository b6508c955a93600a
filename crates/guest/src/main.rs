//! `lev-guest`: checks from inside a guest that one machine made of several nodes behaves like
//! one x86 machine. Static, without dependencies, so that it runs in any Linux guest.
//!
//! Each check is a module with a `verdict`: a pure function from what was seen to a list of
//! failures, tested with forbidden observations. The threads of a check are pinned (`team`).

mod apart;
mod asm;
mod batches;
mod clock;
mod counters;
mod demo;
mod error;
mod interrupts;
mod litmus;
mod mem;
mod options;
mod pagecross;
mod placement;
mod probe;
mod processes;
mod report;
mod shapes;
mod smc;
mod spin;
mod stretches;
mod sys;
mod tally;
mod team;
mod ticketlock;
mod tlb;

use error::{Error, Result};
use options::Options;
use placement::Placement;
use report::{Output, Report, Value};

/// A check found the machine wrong.
const EXIT_FAILED: i32 = 1;
/// The command line is wrong.
const EXIT_USAGE: i32 = 2;
/// The watchdog ended the run.
pub(crate) const EXIT_TIMEOUT: i32 = 3;
/// A check could not be carried out.
pub(crate) const EXIT_CANNOT_RUN: i32 = 4;

/// Names of the checks that `all` runs, in this order.
const CHECKS: [&str; 9] = [
    "demo",
    "counters",
    "ticketlock",
    "litmus",
    "pagecross",
    "smc",
    "clock",
    "tlb",
    "mem",
];
const ROUNDS_OF_ALL: u64 = 20_000;

/// Rounds of a check: as asked, else its own default; within `all`, less of what is slow.
fn rounds(options: &Options, check: &str) -> u64 {
    if options.check == "all" {
        let all = options.rounds.unwrap_or(ROUNDS_OF_ALL);
        return match check {
            "demo" => 100.min(all),
            "clock" => all * 5,
            "tlb" => all.div_ceil(10),
            _ => all,
        };
    }
    options.rounds.unwrap_or(match check {
        "demo" => 200,
        "clock" => 1_000_000,
        "tlb" => 20_000,
        _ => 100_000,
    })
}

/// Adds the NUMA nodes of the CPUs that a report names: what crossed nodes and what did not.
fn with_nodes(report: Report, placement: &Placement) -> Report {
    let cpus = report.fields.iter().find(|(key, _)| key == "cpus");
    let Some((_, Value::List(cpus))) = cpus else {
        return report;
    };
    let node = |cpu: &u64| placement.node_of(*cpu as usize).map(|n| n as u64);
    let nodes: Vec<u64> = cpus.iter().filter_map(node).collect();
    report.with("nodes", nodes)
}

fn run_check(check: &str, options: &Options, output: &mut Output) -> Result<()> {
    let placement = Placement::detect(options.cpus.clone())?;
    let rounds = rounds(options, check);
    let mut emit = |report: Report| output.emit(&with_nodes(report, &placement));
    match check {
        "demo" => {
            emit(demo::topology(
                &placement,
                options.expect_cpus,
                options.expect_nodes,
            ));
            let cpus = placement.alternating()?;
            emit(demo::work(&cpus, rounds.div_ceil(10))?);
            emit(demo::interrupts(&placement, &cpus, rounds)?);
            demo::memory(&placement, &cpus)?.into_iter().for_each(emit);
        }
        "counters" => counters::run(&placement.one_per_node()?, rounds, emit)?,
        "ticketlock" => emit(ticketlock::run(&placement.one_per_node()?, rounds)?),
        "litmus" => litmus::run(&placement, rounds, options.shapes.as_deref(), emit)?,
        "pagecross" => pagecross::run(&placement.one_per_node()?, rounds, emit)?,
        "smc" => emit(smc::run(&placement.one_per_node()?, rounds)?),
        "clock" => emit(clock::run(&placement.one_per_node()?, rounds)?),
        "tlb" => {
            let cpus = placement.one_per_node()?;
            emit(tlb::run(&cpus, rounds)?);
            emit(processes::copy_on_write(&cpus, rounds.div_ceil(100))?);
            emit(processes::exec_storm(&cpus, rounds.div_ceil(500))?);
        }
        "mem" => emit(mem::run(
            "mem",
            &placement.one_per_node()?,
            options.bytes.unwrap_or(mem::DEFAULT_BYTES),
            options.passes.unwrap_or(2),
        )?),
        "fill" => emit(mem::run(
            "fill",
            &placement.one_per_node()?,
            options.bytes.map_or_else(placement::fillable_bytes, Ok)?,
            options.passes.unwrap_or(1),
        )?),
        "spin" => {
            let missing = || Error::Usage("spin needs --cpu".to_string());
            emit(spin::run(
                options.cpu.ok_or_else(missing)?,
                options.seconds,
            )?);
        }
        _ => {
            return Err(Error::Usage(format!(
                "there is no check {check:?} (see --help)"
            )))
        }
    }
    Ok(())
}

fn run(options: &Options) -> Result<i32> {
    team::start_watchdog(
        std::time::Duration::from_secs(options.timeout),
        options.json,
    );
    if options.processes {
        apart::choose();
    }
    let mut output = Output::new(options.json);
    let one = [options.check.as_str()];
    let checks: &[&str] = if options.check == "all" {
        &CHECKS
    } else {
        &one
    };
    for check in checks {
        run_check(check, options, &mut output)?;
    }
    Ok(if output.finish() { 0 } else { EXIT_FAILED })
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|w| w == "--help" || w == "-h") {
        print!("{}", options::HELP);
        return;
    }
    // Not for users: what the exec storm of `tlb` starts.
    if let [command, code] = words.as_slice() {
        if command == "storm-child" {
            std::process::exit(processes::storm_child(code.parse().unwrap_or(0)));
        }
    }
    let result = Options::parse(words.into_iter()).and_then(|options| run(&options));
    let code = result.unwrap_or_else(|error| {
        eprintln!("lev-guest: {error}");
        match error {
            Error::Usage(_)
            | Error::Parse {
                what: "CPU list", ..
            } => EXIT_USAGE,
            _ => EXIT_CANNOT_RUN,
        }
    });
    std::process::exit(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_of_all_exists_and_is_documented() {
        let line = |words: &str| Options::parse(words.split(' ').map(str::to_string));
        let options = line("all --rounds 10 --bytes 1M --passes 1 --shapes MP").expect("options");
        if Placement::detect(None)
            .and_then(|p| p.one_per_node())
            .is_err()
        {
            return;
        }
        for check in CHECKS {
            assert!(options::HELP.contains(&format!("  {check} ")), "{check}");
            // The exec storm needs the program itself, which a unit test is not.
            if check != "tlb" {
                let mut output = Output::new(true);
                run_check(check, &options, &mut output).expect(check);
                assert!(output.finish(), "{check}");
            }
        }
        let unknown = line("nope").expect("options");
        assert!(run_check("nope", &unknown, &mut Output::new(true)).is_err());
    }

    #[test]
    fn explicit_rounds_win() {
        let line = |words: &str| Options::parse(words.split(' ').map(str::to_string));
        let options = line("clock --rounds 7").expect("options");
        assert_eq!(rounds(&options, "clock"), 7);
        assert_eq!(rounds(&line("clock").expect("options"), "clock"), 1_000_000);
        assert_eq!(rounds(&line("all").expect("options"), "clock"), 100_000);
    }
}
