//! One target of `lev-fuzz`, named by `LEV_FUZZ_TARGET`, under libFuzzer. `make fuzz` builds and runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<lev_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("LEV_FUZZ_TARGET").unwrap_or_default();
    lev_fuzz::target(&name).unwrap_or_else(|| {
        let names: Vec<_> = lev_fuzz::targets()
            .iter()
            .map(|target| target.name)
            .collect();
        eprintln!(
            "error: LEV_FUZZ_TARGET={name:?} is not one of {}",
            names.join(", ")
        );
        std::process::exit(2)
    })
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
