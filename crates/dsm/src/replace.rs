//! A page that leaves the pool: the mapping of its slot is replaced, in one step, by memory that userfaultfd watches already.
//!
//! In two steps (map, then register) a thread could find zeroes in between. So there is memory beside the guest's that is
//! like it and registered, and that nobody ever touches; `mremap` puts a piece like it over the page and leaves it where
//! it is. For private memory one page for each context is enough ([`libc::MREMAP_DONTUNMAP`]); of shared memory, where a page
//! belongs to a place in a file, the segment is mapped a second time (an old length of 0 makes `mremap` copy a mapping). What
//! is put there has never been touched, so the kernel can join it with its neighbours again.
//!
//! The kernel lets whoever moves registered memory wait until somebody has read that from the context, and the thread that
//! reads the context may wait for the page lock that the mover holds. So "lev-move" reads it as long as somebody moves.

use crate::core::{Core, Failure, PAGE};
use crate::fault::wait_readable;
use crate::segment::Segment;
use crate::{mappings, memory};
use crate::{Backing, DsmError};
use lev_coherence::Illegal;
use lev_uffd::{Memory, Uffd};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So long "lev-move" looks at a context that says nothing before it asks whether anybody still moves.
const LOOK: Duration = Duration::from_millis(1);

/// Memory like that of a segment, to be put in the place of single pages.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// A page of each context, in order of their numbers.
    Pages { base: u64, count: u64 },
    /// The whole segment.
    Copy { base: u64, len: u64 },
}

impl Pattern {
    /// For a segment that is not registered yet.
    pub(crate) fn new(segment: &Segment, uffds: &[Uffd]) -> Result<Self, DsmError> {
        match segment.backing {
            Backing::Anonymous => {
                let count = uffds.len() as u64;
                let base = mappings::map_alike(segment.local, count * PAGE)?;
                let pattern = Self::Pages { base, count };
                for (page, uffd) in (0..).zip(uffds) {
                    uffd.register(base + page * PAGE, PAGE, Memory::Anonymous)?;
                }
                Ok(pattern)
            }
            Backing::Shmem => {
                let len = segment.len();
                let base = mappings::map_again(segment.local, len)?;
                let pattern = Self::Copy { base, len };
                for (run, stripe) in segment.stripe_runs() {
                    let (start, len) = (base + run.start * PAGE, (run.end - run.start) * PAGE);
                    uffds[stripe].register(start, len, Memory::Shmem)?;
                }
                Ok(pattern)
            }
        }
    }

    /// Puts a piece over the page at `offset`.
    fn put(&self, segment: &Segment, offset: u64) -> Result<(), DsmError> {
        let (from, old) = match self {
            Self::Pages { base, .. } => (base + segment.stripe(offset) as u64 * PAGE, PAGE),
            Self::Copy { base, .. } => (base + offset * PAGE, 0),
        };
        memory::remap(from, old, PAGE, Some(segment.address(offset))).map(|_| ())
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        match *self {
            Self::Pages { base, count } => memory::unmap(base, count * PAGE),
            Self::Copy { base, len } => memory::unmap(base, len),
        }
    }
}

/// One thread at a time moves memory, and "lev-move" reads meanwhile.
#[derive(Default)]
pub(crate) struct Mover {
    one: Mutex<()>,
    /// Of which context memory is being moved.
    context: Mutex<Option<usize>>,
    begun: Condvar,
}

impl Mover {
    /// Moves memory of a context.
    fn during(
        &self,
        context: usize,
        stopped: &AtomicBool,
        step: impl FnOnce() -> Result<(), DsmError>,
    ) -> Result<(), DsmError> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut now = self.context();
            if stopped.load(Ordering::Acquire) {
                return Err(DsmError::Stopped); // asked under the lock: nobody may read any more
            }
            *now = Some(context);
            self.begun.notify_one();
        }
        let result = step();
        *self.context() = None;
        result
    }

    /// Waits until somebody moves memory, and says of which context; `None`: the engine has stopped, and nobody does.
    fn wait(&self, stopped: &AtomicBool) -> Option<usize> {
        let idle =
            |context: &mut Option<usize>| context.is_none() && !stopped.load(Ordering::Acquire);
        let context = self.begun.wait_while(self.context(), idle);
        *context.unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine stops.
    pub(crate) fn stop(&self) {
        let _context = self.context();
        self.begun.notify_all();
    }

    fn context(&self) -> MutexGuard<'_, Option<usize>> {
        self.context.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Takes the mapping of a slot away: the page is absent, and watched. The caller has its lock.
    pub(crate) fn unmap_slot(&self, segment: &Segment, offset: u64) -> Result<(), Failure> {
        let Some(pattern) = segment.pattern.get() else {
            return Err(Failure::Peer(Illegal("pages stay in the pool here")));
        };
        let context = segment.stripe(offset);
        let put = || pattern.put(segment, offset);
        self.mover.during(context, &self.stopped, put)?;
        Ok(())
    }

    /// Reads contexts while memory of them is moved, until the engine stops. A fault that is read here belongs to the thread
    /// that serves faults: its waiter is woken, and faults again.
    pub(crate) fn serve_moves(&self) {
        let mut faults = Vec::with_capacity(16);
        while let Some(context) = self.mover.wait(&self.stopped) {
            let uffd = &self.uffds[context];
            let result = wait_readable(&[uffd.as_raw_fd()], Some(LOOK))
                .and_then(|()| Ok(uffd.read(&mut faults)?))
                .and_then(|()| {
                    let mut wakes = faults.iter();
                    Ok(wakes.try_for_each(|fault| uffd.wake(fault.address, PAGE))?)
                });
            if let Err(error) = result {
                return self.fatal(error);
            }
        }
    }
}
