//! Traces of guest memory for Python: joined, summed up, replayed.

use lev_trace::{Summary, Trace, TraceError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;

fn wrong(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn json<T: Serialize>(value: &T) -> PyResult<String> {
    serde_json::to_string(value).map_err(wrong)
}

/// Joins the traces of the nodes of one run into one, in the order of the head's clock. Raises `ValueError`: the number
/// of the trace, and the offset at which it is wrong.
#[pyfunction]
pub(crate) fn merge_traces<'py>(
    py: Python<'py>,
    parts: Vec<Vec<u8>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let merged = py.detach(|| {
        let read = |(number, part): (usize, &Vec<u8>)| {
            Trace::parse(part).map_err(|error| format!("trace {number}: {error}"))
        };
        let traces: Vec<Trace> = parts
            .iter()
            .enumerate()
            .map(read)
            .collect::<Result<_, _>>()?;
        let merged = lev_trace::merge(&traces).map_err(|error: TraceError| error.to_string())?;
        Ok::<_, String>(merged.bytes())
    });
    merged
        .map(|bytes| PyBytes::new(py, &bytes))
        .map_err(PyValueError::new_err)
}

/// What is in a trace (`Summary` of `crates/trace`), as JSON; the `hottest` pages are named. Raises `ValueError` with the
/// offset at which it is wrong.
#[pyfunction]
pub(crate) fn summarize_trace(py: Python<'_>, data: &[u8], hottest: usize) -> PyResult<String> {
    let summary = py.detach(|| Trace::parse(data).map(|trace| Summary::of(&trace, hottest)));
    json(&summary.map_err(wrong)?)
}

/// What a trace says of itself (header, and where pages are at home) as JSON, and its events in the order of their time,
/// 24 bytes each. Raises `ValueError` with the offset at which it is wrong.
#[pyfunction]
pub(crate) fn read_trace<'py>(
    py: Python<'py>,
    data: &[u8],
) -> PyResult<(String, Bound<'py, PyBytes>)> {
    let (trace, records) = py
        .detach(|| {
            let trace = Trace::parse(data)?;
            let encoded = trace.records.iter().flat_map(|record| record.encode());
            let records: Vec<u8> = encoded.collect();
            Ok::<_, TraceError>((trace, records))
        })
        .map_err(wrong)?;
    let header = trace.header;
    let homes: Vec<(u64, u64, u16)> = trace
        .homes
        .runs()
        .iter()
        .map(|(first, pages, node)| (*first, *pages, node.0))
        .collect();
    let facts = serde_json::json!({
        "nodes": header.nodes,
        "node": (header.node != lev_trace::MERGED).then_some(header.node),
        "finished": header.finished,
        "start_ns": header.start_ns,
        "clock_offset_ns": header.clock_offset_ns,
        "dropped": header.dropped,
        "cut": header.cut,
        "promote_after": header.promote_after,
        "hold_us": header.hold_us,
        "homes": homes,
    });
    Ok((facts.to_string(), PyBytes::new(py, &records)))
}

/// Drives the simulator with a trace; `options` is `Replay` of `crates/sim` as JSON, the result its `Outcome`. Raises
/// `ValueError` with the offset or the field that is wrong.
#[pyfunction]
pub(crate) fn replay_trace(py: Python<'_>, data: &[u8], options: &str) -> PyResult<String> {
    let replay: lev_sim::Replay = serde_json::from_str(options).map_err(wrong)?;
    let outcome = py.detach(|| {
        let trace = Trace::parse(data).map_err(|error| error.to_string())?;
        replay.run(&trace)
    });
    json(&outcome.map_err(PyValueError::new_err)?)
}

/// What is asked for on another number of nodes (`Mix` of `crates/sim`), as JSON. Raises `ValueError`.
#[pyfunction]
pub(crate) fn measure_trace(py: Python<'_>, data: &[u8]) -> PyResult<String> {
    let mix = py.detach(|| {
        let trace = Trace::parse(data).map_err(|error| error.to_string())?;
        lev_sim::Mix::of(&trace, &lev_trace::Pages::of(&trace))
    });
    json(&mix.map_err(PyValueError::new_err)?)
}
