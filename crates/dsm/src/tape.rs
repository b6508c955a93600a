//! The trace of what happens to pages here: see `lev_trace` and `docs/design/0016-traces.md`.
//!
//! While no trace is recorded, an event costs one load and a branch that is never taken. While one is, it costs reading
//! the clock and a place in the ring: nothing waits, nothing is allocated.

use crate::act::Place;
use crate::segment::Segment;
use crate::{threads, DsmError, Engine};
use lev_coherence::{Access, Action, Message, NodeState};
use lev_trace::{flag, Header, Kind, Record, Ring, Writer, MAX_RECORDS};
use lev_uffd::Fault;
use lev_wire::{NodeId, PageNumber};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Records that wait for the writer at most: 2 MiB.
const RING: usize = 1 << 16;
/// The writer looks into the ring so often: it has room for a million events a second. Not more often, because every wake
/// costs a virtual machine an exit.
const DRAIN: Duration = Duration::from_millis(50);

/// Where an engine's events go.
pub(crate) struct Tape {
    on: AtomicBool,
    me: NodeId,
    start_ns: AtomicU64,
    ring: OnceLock<Arc<Ring>>,
    writing: Mutex<Option<Writing>>,
}

/// A trace being recorded.
struct Writing {
    stop: Arc<Stop>,
    thread: JoinHandle<std::io::Result<Header>>,
}

#[derive(Default)]
struct Stop {
    now: AtomicBool,
    clock_offset_ns: AtomicI64,
}

impl Tape {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            on: AtomicBool::new(false),
            me,
            start_ns: AtomicU64::new(0),
            ring: OnceLock::new(),
            writing: Mutex::default(),
        }
    }

    /// A thread faulted.
    #[inline]
    pub(crate) fn fault(&self, kind: Kind, page: PageNumber, fault: &Fault) {
        if self.on.load(Ordering::Relaxed) {
            let flags = if fault.write { flag::WRITE } else { 0 };
            self.put(kind, page, flags, NodeId::HEAD, fault.thread);
        }
    }

    /// A thread faulted on a page of which this node has `state`, and another node must be asked, or the home's part here.
    #[inline]
    pub(crate) fn asks(&self, state: NodeState, page: PageNumber, fault: &Fault) {
        let kind = match (state, fault.write) {
            (NodeState::Shared, _) => Kind::Upgrade,
            (_, false) => Kind::Read,
            (_, true) => Kind::Write,
        };
        self.fault(kind, page, fault);
    }

    /// A run of pages was filled with zeroes.
    #[inline]
    pub(crate) fn filled(&self, first: PageNumber, pages: u64) {
        if self.on.load(Ordering::Relaxed) {
            let flags = flag::WRITE | flag::ZERO;
            self.put(Kind::Fill, first, flags, NodeId::HEAD, pages as u32);
        }
    }

    /// Contents go to another node.
    #[inline]
    pub(crate) fn sent(&self, to: NodeId, page: PageNumber, message: Message) {
        if self.on.load(Ordering::Relaxed) {
            let right = |access| {
                if access == Access::Write {
                    flag::WRITE
                } else {
                    0
                }
            };
            let (flags, zero) = match message {
                Message::Contents { access, zero } => (right(access), zero),
                Message::Keep { zero } => (flag::WRITE | flag::UNASKED, zero),
                Message::ReadAhead { zero } => (flag::UNASKED, zero),
                _ => return,
            };
            let flags = flags | if zero { flag::ZERO } else { 0 };
            self.put(Kind::Send, page, flags, to, 0);
        }
    }

    /// The state machine's wish was carried out.
    #[inline]
    pub(crate) fn acted(&self, action: &Action, place: &Place<'_>) {
        if self.on.load(Ordering::Relaxed) {
            self.note_action(action, place);
        }
    }

    #[cold]
    fn note_action(&self, action: &Action, place: &Place<'_>) {
        let zero = place.received.is_empty();
        let (kind, flags) = match action {
            Action::InstallReceived(access) => {
                let right = if *access == Access::Write {
                    flag::WRITE
                } else {
                    0
                };
                (Kind::Grant, right | if zero { flag::ZERO } else { 0 })
            }
            Action::InstallZero => (Kind::Grant, flag::WRITE | flag::ZERO),
            Action::InstallSlot(_) => (Kind::Grant, flag::WRITE),
            // No contents came, and it says nothing about them.
            Action::Unprotect => (Kind::Grant, flag::WRITE),
            Action::Drop => (Kind::Drop, 0),
            Action::Protect => (Kind::Protect, 0),
            Action::CopyToSlot(_) => (Kind::Collect, 0),
            Action::MapSlot(_) => (Kind::Pool, flag::WRITE),
            Action::UnmapSlot(_) => (Kind::Unpool, 0),
            Action::Defer(_) => (Kind::Hold, 0),
            Action::Queued => (Kind::Wait, 0),
            _ => return,
        };
        self.put(kind, place.page, flags, NodeId::HEAD, 0);
    }

    /// A copy for reading came that nobody here asked for.
    #[inline]
    pub(crate) fn came_ahead(&self, page: PageNumber, zero: bool) {
        if self.on.load(Ordering::Relaxed) {
            let flags = flag::UNASKED | if zero { flag::ZERO } else { 0 };
            self.put(Kind::Grant, page, flags, NodeId::HEAD, 0);
        }
    }

    /// Where the pages of a segment are at home.
    pub(crate) fn homes(&self, segment: &Segment) {
        if self.on.load(Ordering::Relaxed) {
            if let Some(ring) = self.ring.get() {
                let runs = segment.home_runs();
                runs.for_each(|(first, pages, node)| ring.put(&Record::home(first, pages, node)));
            }
        }
    }

    #[cold]
    fn put(&self, kind: Kind, page: PageNumber, flags: u8, other: NodeId, thread: u32) {
        let Some(ring) = self.ring.get() else { return };
        let start_ns = self.start_ns.load(Ordering::Relaxed);
        ring.put(&Record {
            at_ns: trace_clock_ns().saturating_sub(start_ns),
            page,
            node: self.me,
            kind,
            flags,
            other,
            thread,
        });
    }
}

impl Engine {
    /// Records every event of a page from now on into `file`, which is empty, until [`Engine::stop_trace`].
    ///
    /// # Errors
    /// A trace is being recorded already, the file cannot be written, or there is no thread to write it.
    pub fn start_trace(&self, file: File) -> Result<(), DsmError> {
        let core = &self.core;
        let tape = &core.tape;
        let mut writing = tape.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.is_some() {
            return Err(DsmError::Config("a trace is being recorded already"));
        }
        let start_ns = trace_clock_ns();
        let header = Header {
            promote_after: core.rules.promote_after,
            hold_us: core.hold_us,
            ..Header::new(core.nodes, core.rules.me, start_ns)
        };
        let mut writer = Writer::new(file, header, MAX_RECORDS).map_err(|error| failed(&error))?;
        let ring = Arc::clone(tape.ring.get_or_init(|| Arc::new(Ring::new(RING))));
        while ring.take().is_some() {} // what came too late for the trace before
        ring.dropped();
        tape.start_ns.store(start_ns, Ordering::Relaxed);
        // Before the homes that are known: a segment that comes meanwhile is told twice.
        tape.on.store(true, Ordering::SeqCst);
        for (first, pages, node) in self.table().iter().flat_map(|segment| segment.home_runs()) {
            writer.add(&Record::home(first, pages, node));
        }
        let stop = Arc::new(Stop::default());
        let stopping = Arc::clone(&stop);
        let thread = threads::spawn("lev-trace".into(), move || {
            while !stopping.now.load(Ordering::Acquire) {
                writer.drain(&ring);
                std::thread::park_timeout(DRAIN);
            }
            writer.finish(&ring, stopping.clock_offset_ns.load(Ordering::Acquire))
        });
        match thread {
            Ok(thread) => *writing = Some(Writing { stop, thread }),
            Err(error) => {
                tape.on.store(false, Ordering::SeqCst);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends the trace and completes its file; `clock_offset_ns` is what must be added to this node's clock for the head's.
    /// What the file says of itself; `None`: no trace was being recorded.
    ///
    /// # Errors
    /// The file could not be written; what is in it so far can be read.
    pub fn stop_trace(&self, clock_offset_ns: i64) -> Result<Option<Header>, DsmError> {
        let tape = &self.core.tape;
        let mut writing = tape.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Writing { stop, thread }) = writing.take() else {
            return Ok(None);
        };
        tape.on.store(false, Ordering::SeqCst);
        stop.clock_offset_ns
            .store(clock_offset_ns, Ordering::Release);
        stop.now.store(true, Ordering::Release);
        thread.thread().unpark();
        match thread.join() {
            Ok(result) => result.map(Some).map_err(|error| failed(&error)),
            Err(_) => Err(DsmError::Config("the thread that writes the trace is gone")),
        }
    }
}

fn failed(error: &std::io::Error) -> DsmError {
    DsmError::System {
        call: "write of the trace",
        at: 0,
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// The clock of traces on this machine, nanoseconds: `CLOCK_MONOTONIC`, the same for all processes.
#[must_use]
pub fn trace_clock_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec, which `now` is; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
