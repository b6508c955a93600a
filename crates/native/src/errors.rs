//! Errors of Rust as the exceptions of `leviathan.errors`.

use lev_region::RegionError;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception that says the same.
pub(crate) fn exception(py: Python<'_>, error: &RegionError) -> PyErr {
    let name = match error {
        RegionError::Shape(_) | RegionError::Clear { .. } => "UsageError",
        RegionError::System { .. }
        | RegionError::Engine(_)
        | RegionError::Channel { .. }
        | RegionError::Ucx(_) => "StartError",
        RegionError::Lost { .. } => "NodeLost",
        RegionError::Missing { .. } => "TimeOver",
        RegionError::Closed => return PyValueError::new_err(error.to_string()),
        RegionError::Place { .. } => return PyIndexError::new_err(error.to_string()),
    };
    make(py, name, error).unwrap_or_else(|failure| failure)
}

fn make(py: Python<'_>, name: &str, error: &RegionError) -> PyResult<PyErr> {
    let options = PyDict::new(py);
    options.set_item("hint", error.hint())?;
    let class = py.import("leviathan.errors")?.getattr(name)?;
    Ok(PyErr::from_value(
        class.call((error.to_string(),), Some(&options))?,
    ))
}
