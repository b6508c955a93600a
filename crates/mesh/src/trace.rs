//! Recording the traces of all nodes at the same time, and how their clocks differ.

use crate::control::{ask_all, ControlClient};
use crate::message::control::TRACE;
use lev_dsm::{trace_clock_ns, DsmError, Engine};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Answered by 8 bytes: the worker's clock of traces.
const CLOCK: u16 = 0;
/// Begin.
const START: u16 = 1;
/// 8 bytes: the worker's clock offset. Complete the file; answered by 24 bytes: records, dropped, cut.
const STOP: u16 = 2;
/// The clocks are compared so often; the fastest exchange counts.
const EXCHANGES: usize = 16;

/// What is in one node's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Records.
    pub records: u64,
    /// Events that found the ring full.
    pub dropped: u64,
    /// Events after the file had its greatest length.
    pub cut: u64,
}

fn create(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| format!("trace {}: {error}", path.display()))
}

fn begin(engine: &Engine, path: &Path) -> Result<(), String> {
    let file = create(path)?;
    engine.start_trace(file).map_err(|error| error.to_string())
}

fn complete(engine: &Engine, offset_ns: i64) -> Result<Written, String> {
    let header = engine
        .stop_trace(offset_ns)
        .map_err(|error: DsmError| error.to_string())?
        .ok_or("no trace is being recorded")?;
    Ok(Written {
        records: header.records,
        dropped: header.dropped,
        cut: header.cut,
    })
}

/// On the head: every node begins, the head itself in the file `path`.
///
/// # Errors
/// A node cannot; then none does.
pub fn start(engine: &Engine, path: &Path, workers: &[Arc<ControlClient>]) -> Result<(), String> {
    begin(engine, path)?;
    ask_all(workers, TRACE, START, &[]).map_err(|error| {
        let _ = stop(engine, workers);
        error.to_string()
    })?;
    Ok(())
}

/// On the head: every node completes its file; what is in them, the head's first.
///
/// # Errors
/// The first node that cannot; the others have been asked all the same.
pub fn stop(engine: &Engine, workers: &[Arc<ControlClient>]) -> Result<Vec<Written>, String> {
    let mut results = vec![complete(engine, 0)];
    results.extend(workers.iter().map(|worker| stop_worker(worker)));
    results.into_iter().collect()
}

fn stop_worker(worker: &ControlClient) -> Result<Written, String> {
    let ask = |tag, payload: &[u8]| {
        let answer = worker.ask(TRACE, tag, &[payload]);
        answer.map_err(|error| error.to_string())
    };
    let short = || format!("{}: too short an answer about the trace", worker.node);
    let mut best = (u64::MAX, 0);
    for _ in 0..EXCHANGES {
        let before = trace_clock_ns();
        let answer = ask(CLOCK, &[])?;
        let took = trace_clock_ns() - before;
        let theirs = word(&answer.payload, 0).ok_or_else(short)?;
        if took < best.0 {
            best = (took, (before + took / 2).wrapping_sub(theirs) as i64);
        }
    }
    let answer = ask(STOP, &best.1.to_le_bytes())?;
    let number = |at| word(&answer.payload, at).ok_or_else(short);
    Ok(Written {
        records: number(0)?,
        dropped: number(1)?,
        cut: number(2)?,
    })
}

/// On a worker: what the head asks with `tag`; `path`: where this worker's trace goes, if anywhere.
///
/// # Errors
/// A sentence for the user.
pub fn serve(
    engine: &Engine,
    path: Option<&Path>,
    tag: u16,
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    match tag {
        CLOCK => Ok(trace_clock_ns().to_le_bytes().to_vec()),
        START => {
            let path = path.ok_or("this worker was started without --trace FILE")?;
            begin(engine, path).map(|()| Vec::new())
        }
        STOP => {
            let offset = word(payload, 0).ok_or("bad clock offset")? as i64;
            let written = complete(engine, offset)?;
            let words = [written.records, written.dropped, written.cut];
            Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
        }
        other => Err(format!("unknown request {other} about the trace")),
    }
}

/// The word number `at` of a payload.
fn word(payload: &[u8], at: usize) -> Option<u64> {
    let bytes = payload.get(at * 8..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}
