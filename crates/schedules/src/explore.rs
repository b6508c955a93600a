//! Runs a model under a fixed number of schedules, the same ones every time.

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Schedules of each kind; `LEV_SCHEDULES` multiplies them.
const SCHEDULES: usize = 800;
/// Threads that the probabilistic scheduler puts off.
const DEPTH: usize = 3;
/// Always the same schedules.
const SEED: u64 = 0x1EAF;

fn schedules() -> usize {
    let times = std::env::var("LEV_SCHEDULES").ok();
    SCHEDULES * times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Everything that the model asserts holds under all of them; a thread that waits for ever is a failure, too.
pub(crate) fn holds(model: impl Fn() + Send + Sync + Copy + 'static) {
    Runner::new(
        RandomScheduler::new_from_seed(SEED, schedules()),
        Config::new(),
    )
    .run(model);
    Runner::new(
        PctScheduler::new_from_seed(SEED, DEPTH, schedules()),
        Config::new(),
    )
    .run(model);
    Runner::new(DfsScheduler::new(Some(schedules()), false), Config::new()).run(model);
}

/// Some schedule shows what is wrong.
pub(crate) fn fails(model: impl Fn() + Send + Sync + Copy + 'static) {
    let found = catch_unwind(AssertUnwindSafe(|| holds(model)));
    assert!(found.is_err(), "the mistake was not found");
}
