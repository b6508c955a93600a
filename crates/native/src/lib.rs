//! `leviathan._native`: what Python and the Rust programs must agree on, answered by the Rust side, and memory that
//! Python processes share.
//!
//! The cluster file is written by Python and read by the head with [`lev_wire::cluster::Cluster`]. Checking it here,
//! with the same type, turns a disagreement into an error before anything starts instead of a failure inside QEMU.

mod errors;
mod region;
mod trace;

use pyo3::prelude::*;

/// Python module `leviathan._native`; its signatures are in `python/leviathan/_native.pyi`.
#[pymodule]
mod _native {
    use lev_wire::cluster::{Cluster, EngineOptions};
    use pyo3::exceptions::PyValueError;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::region::{Region, Seat};
    #[pymodule_export]
    use crate::trace::{measure_trace, merge_traces, read_trace, replay_trace, summarize_trace};

    /// Version of the workspace that this module was built from.
    #[pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Raises `ValueError` (with line and column) if `text` is not a cluster description that the head can read.
    #[pyfunction]
    fn check_cluster(text: &str) -> PyResult<()> {
        serde_json::from_str::<Cluster>(text)
            .map(drop)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// Runs one scenario (JSON) of the coherence protocol through the simulator; its outcome as JSON. Raises `ValueError`
    /// with the field that is wrong.
    #[pyfunction]
    fn simulate(py: Python<'_>, scenario: &str) -> PyResult<String> {
        let wrong = |error: String| PyValueError::new_err(error);
        let scenario: lev_sim::Scenario =
            serde_json::from_str(scenario).map_err(|error| wrong(error.to_string()))?;
        let outcome = py.detach(|| lev_sim::simulate(&scenario)).map_err(wrong)?;
        serde_json::to_string(&outcome).map_err(|error| wrong(error.to_string()))
    }

    /// The engine's tunables with their defaults, as JSON.
    #[pyfunction]
    fn engine_defaults() -> PyResult<String> {
        serde_json::to_string(&EngineOptions::default())
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }
}
