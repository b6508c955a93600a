//! Coherent memory for Python processes.
//!
//! Every access to the buffer may be a page fault that waits for another node, with the interpreter's lock held if the
//! access is Python's. That is safe: faults are served by threads of the engine, which never need that lock. What may
//! wait on purpose (joining, barriers, atomic operations) gives the lock back meanwhile.

use crate::errors::exception;
use lev_region::{RegionError, Shape};
use lev_wire::cluster::Cluster;
use lev_wire::NodeId;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a wait goes on without looking for Ctrl-C.
const SLICE: Duration = Duration::from_millis(100);

/// A place in a region that is about to be made.
#[pyclass(frozen, module = "leviathan._native")]
pub(crate) struct Seat {
    seat: Mutex<Option<lev_region::Seat>>,
    /// Where it listens, `HOST:PORT`.
    #[pyo3(get)]
    address: String,
}

#[pymethods]
impl Seat {
    /// Listens at `address`.
    #[new]
    fn new(py: Python<'_>, address: &str) -> PyResult<Self> {
        let seat = lev_region::Seat::at(address).map_err(|error| exception(py, &error))?;
        Ok(Self {
            address: seat.address().to_string(),
            seat: Mutex::new(Some(seat)),
        })
    }

    /// Joins as `node` of the region that `cluster` (JSON) describes.
    fn join(&self, py: Python<'_>, cluster: &str, node: u16, timeout: f64) -> PyResult<Region> {
        let cluster: Cluster = serde_json::from_str(cluster)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let limit = duration(timeout)?;
        let mut place = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seat) = place.take() else {
            return Err(PyValueError::new_err(
                "this seat is taken: it serves for one region",
            ));
        };
        drop(place);
        let nodes = cluster.nodes.len();
        let region = py.detach(|| {
            let shape = Shape::of(&cluster)?;
            seat.join(&cluster, NodeId(node), &shape, limit)
        });
        Ok(Region {
            region: region.map_err(|error| exception(py, &error))?,
            node,
            nodes,
        })
    }
}

/// Memory that several processes share; a writable buffer of bytes.
#[pyclass(frozen, module = "leviathan._native")]
pub(crate) struct Region {
    region: lev_region::Region,
    /// Number of this process among the nodes.
    #[pyo3(get)]
    node: u16,
    /// How many nodes there are.
    #[pyo3(get)]
    nodes: usize,
}

#[pymethods]
impl Region {
    /// Bytes, whole pages.
    fn __len__(&self) -> usize {
        self.region.len() as usize
    }

    fn __repr__(&self) -> String {
        format!(
            "<Region of {} bytes, node {} of {}>",
            self.region.len(),
            self.node,
            self.nodes
        )
    }

    /// Waits until every node has come to this barrier.
    #[pyo3(signature = (timeout = 60.0))]
    fn barrier(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let deadline = Instant::now() + duration(timeout)?;
        let barrier = self
            .region
            .arrive()
            .map_err(|error| exception(py, &error))?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let result = py.detach(|| self.region.await_others(barrier, left.min(SLICE)));
            match result {
                Err(RegionError::Missing { .. }) if left > SLICE => py.check_signals()?,
                Err(RegionError::Missing { what, nodes, .. }) => {
                    let waited_ms = (timeout * 1000.0) as u64;
                    return Err(exception(
                        py,
                        &RegionError::Missing {
                            what,
                            nodes,
                            waited_ms,
                        },
                    ));
                }
                result => return result.map_err(|error| exception(py, &error)),
            }
        }
    }

    /// The word at byte `offset`.
    fn load(&self, py: Python<'_>, offset: u64) -> PyResult<u64> {
        self.word(py, offset, |word| word.load(Ordering::SeqCst))
    }

    /// Sets the word at byte `offset`.
    fn store(&self, py: Python<'_>, offset: u64, value: u64) -> PyResult<()> {
        self.word(py, offset, |word| word.store(value, Ordering::SeqCst))
    }

    /// Adds to the word at byte `offset`, modulo 2^64; what it was before.
    fn add(&self, py: Python<'_>, offset: u64, value: i64) -> PyResult<u64> {
        self.word(py, offset, |word| {
            word.fetch_add(value as u64, Ordering::SeqCst)
        })
    }

    /// Sets the word at byte `offset` to `value` if it is `expected`; what it was before.
    fn compare_exchange(
        &self,
        py: Python<'_>,
        offset: u64,
        expected: u64,
        value: u64,
    ) -> PyResult<u64> {
        self.word(py, offset, |word| {
            match word.compare_exchange(expected, value, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(before) | Err(before) => before,
            }
        })
    }

    /// The engine's counters in this process, and how long faults that needed another node took.
    fn statistics(&self, py: Python<'_>) -> BTreeMap<&'static str, u64> {
        let counters = py.detach(|| self.region.counters());
        let mut all: BTreeMap<_, _> = counters.named().into_iter().collect();
        for (name, percent) in [("fault_p50_ns", 50), ("fault_p99_ns", 99)] {
            all.insert(name, counters.latency_percentile_ns(percent).unwrap_or(0));
        }
        all
    }

    /// Leaves the region together with all other nodes.
    #[pyo3(signature = (timeout = 60.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let limit = duration(timeout)?;
        py.detach(|| self.region.close(limit))
            .map_err(|error| exception(py, &error))
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Leaves in order after a block that ended so; after an exception it leaves at once, which the others notice.
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if kind.is_none() {
            return self.close(py, 60.0);
        }
        py.detach(|| self.region.abandon());
        Ok(())
    }

    /// The memory as a writable buffer.
    ///
    /// # Safety
    /// Called by the interpreter with a view to be filled.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        if let Err(error) = this.region.check() {
            return Err(PyBufferError::new_err(error.to_string()));
        }
        let (base, len) = (this.region.base(), this.region.len());
        // SAFETY: the interpreter passes a valid view. The view keeps a reference to `slf`, and `slf` keeps the
        // addresses reserved: a view that outlives the region meets inaccessible memory, never other memory.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                base.cast(),
                len as ffi::Py_ssize_t,
                0,
                flags,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

impl Region {
    fn word<T: Send>(
        &self,
        py: Python<'_>,
        offset: u64,
        operation: impl FnOnce(&AtomicU64) -> T + Send,
    ) -> PyResult<T> {
        py.detach(|| self.region.word(offset).map(operation))
            .map_err(|error| exception(py, &error))
    }
}

/// A time limit given in seconds.
fn duration(seconds: f64) -> PyResult<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(limit) if seconds > 0.0 && seconds <= 1e9 => Ok(limit),
        _ => Err(PyValueError::new_err(format!(
            "timeout must be more than 0 and at most 1e9 seconds, not {seconds}"
        ))),
    }
}
