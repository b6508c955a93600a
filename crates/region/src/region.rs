//! The region itself: memory, the threads that read the channels, barriers and the end.

use crate::members::{End, Members};
use crate::memory::Mapping;
use crate::message::{read_reason, reason, AGREE, ARRIVED, GOODBYE, INTRODUCTION, LOST};
use crate::pages::Pages;
use crate::RegionError;
use lev_dsm::{threads, Counters, DsmError, Engine, FRAME_KINDS};
use lev_transport::{Channel, Header, Receiver, Sender};
use lev_wire::NodeId;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How long leaving waits for a slow peer to take the last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Told once, with the reason, when the engine cannot go on.
pub(crate) type OnFailure = Box<dyn Fn(String) + Send + Sync>;

/// Memory that several processes share. Dropping it without [`Region::close`] counts as a loss for the others.
pub struct Region {
    shared: Arc<Shared>,
    barrier: Mutex<u64>,
}

/// What the region and its threads share.
pub(crate) struct Shared {
    mapping: Arc<Mapping>,
    engine: Arc<Engine>,
    pages: Arc<Pages>,
    members: Arc<Members>,
    digest: u64,
    senders: Mutex<Vec<Sender>>,
    /// Held for reading while a frame is handled; for writing when that must have ended for good.
    handling: RwLock<()>,
    ended: AtomicBool,
}

impl Region {
    pub(crate) fn new(
        mapping: Arc<Mapping>,
        engine: Arc<Engine>,
        pages: Arc<Pages>,
        members: Arc<Members>,
        digest: u64,
    ) -> Self {
        let shared = Arc::new(Shared {
            mapping,
            engine,
            pages,
            members,
            digest,
            senders: Mutex::default(),
            handling: RwLock::new(()),
            ended: AtomicBool::new(false),
        });
        shared.pages.listen(Arc::downgrade(&shared));
        Self {
            shared,
            barrier: Mutex::new(0),
        }
    }

    /// What the engine calls when it cannot go on; `me` is this node. The end comes on a thread of its own, because
    /// the caller may be in the middle of a frame.
    pub(crate) fn failure(&self, me: NodeId) -> OnFailure {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move |why| {
            let shared = shared.clone();
            let end = move || {
                if let Some(shared) = shared.upgrade() {
                    shared.lost(me, End::Channel(why));
                }
            };
            // Without a thread there is no memory left: the process ends by itself.
            let _ = threads::spawn("lev-end".into(), end);
        })
    }

    /// Takes the channels: from now on each is read by a thread of its own.
    pub(crate) fn start(&self, channels: Vec<Channel>) -> Result<(), RegionError> {
        let mut receivers = Vec::new();
        for channel in channels {
            let node = channel.peer();
            let (sender, receiver) = channel.split();
            if let Some(words) = self.shared.pages.attach(node, &sender) {
                // Before anything else that is said. A channel that cannot send has ended, which its reader finds out.
                let _ = sender.send(INTRODUCTION, 0, 0, &[&words]);
            }
            self.shared.senders().push(sender);
            receivers.push((node, receiver));
        }
        // All senders first: serving one peer may need another.
        for (node, receiver) in receivers {
            let shared = Arc::clone(&self.shared);
            threads::spawn(format!("lev-page-{}", node.0), move || {
                threads::serve_first();
                let end = shared.read(node, receiver);
                shared.lost(node, end);
            })?;
        }
        Ok(())
    }

    /// Says what the region is like and waits until all others have said the same.
    pub(crate) fn agree(&self, limit: Duration) -> Result<(), RegionError> {
        self.shared.tell(AGREE, self.shared.digest, &[]);
        let deadline = Instant::now() + limit;
        self.shared.members.all_agreed(limit)?;
        if self.shared.pages.on_channels() {
            return Ok(());
        }
        // UCX connects when it is first used. Whom it cannot reach is found here, and not when a page is touched.
        let left = deadline.saturating_duration_since(Instant::now());
        self.shared.members.all_met(left)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// First byte. Valid until the region and all of its [`Region::keep`]s are dropped; see [`Region::close`].
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.shared.mapping.base()
    }

    /// Bytes, whole pages.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a region has at least one page"
    )]
    pub fn len(&self) -> u64 {
        self.shared.mapping.len()
    }

    /// Something that keeps the addresses reserved, so that a pointer into the region never points at other memory.
    #[must_use]
    pub fn keep(&self) -> Arc<dyn Send + Sync> {
        Arc::clone(&self.shared.mapping) as Arc<dyn Send + Sync>
    }

    /// A word of the region, for atomic operations between nodes: they are as atomic as between threads, because
    /// writing needs the page for oneself. Using it may wait for another node.
    ///
    /// # Errors
    /// The place is not in the region or not aligned; a node is lost; the region is closed.
    pub fn word(&self, offset: u64) -> Result<&AtomicU64, RegionError> {
        self.check()?;
        if offset % 8 != 0 || offset >= self.len() {
            return Err(RegionError::Place {
                offset,
                len: self.len(),
            });
        }
        // SAFETY: eight aligned bytes of a mapping that lives as long as `self`; everybody uses them through atomics
        // or, from other languages, through whole-word accesses of this architecture, which are atomic.
        Ok(unsafe { AtomicU64::from_ptr(self.base().add(offset as usize).cast()) })
    }

    /// Whether the memory may be used.
    ///
    /// # Errors
    /// A node is lost, or this process has left.
    pub fn check(&self) -> Result<(), RegionError> {
        self.shared.members.check()?;
        if self.shared.ended.load(Ordering::Acquire) {
            return Err(RegionError::Closed);
        }
        Ok(())
    }

    /// Waits until every node has called this as often as this one. What was written before, by anybody, is seen
    /// after. One thread of a process at a time.
    ///
    /// # Errors
    /// A node is lost; not all came within `limit`; the region is closed.
    pub fn barrier(&self, limit: Duration) -> Result<(), RegionError> {
        let barrier = self.arrive()?;
        self.await_others(barrier, limit)
    }

    /// The first half of [`Region::barrier`]: tells the others; the barrier's number.
    ///
    /// # Errors
    /// A node is lost; the region is closed.
    pub fn arrive(&self) -> Result<u64, RegionError> {
        self.check()?;
        let mut barrier = self.barrier.lock().unwrap_or_else(PoisonError::into_inner);
        *barrier += 1;
        self.shared.tell(ARRIVED, *barrier, &[]);
        Ok(*barrier)
    }

    /// The second half: waits until all others have come to this barrier, too. May be repeated.
    ///
    /// # Errors
    /// A node is lost; not all came within `limit`.
    pub fn await_others(&self, barrier: u64, limit: Duration) -> Result<(), RegionError> {
        self.shared.members.all_arrived(barrier, limit)
    }

    /// The engine's counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.engine.counters()
    }

    /// One line about the page at `offset`, for people who look for a fault in the protocol.
    #[must_use]
    pub fn describe(&self, offset: u64) -> String {
        self.shared
            .engine
            .describe_page(offset / lev_wire::PAGE_SIZE as u64)
    }

    /// Leaves: waits until all nodes do, then ends all threads. The memory is inaccessible afterwards.
    ///
    /// # Errors
    /// A node is lost or did not leave within `limit`; this process has left all the same.
    pub fn close(&self, limit: Duration) -> Result<(), RegionError> {
        if self.check().is_err() {
            self.shared.end(Duration::ZERO);
            return self.shared.members.check();
        }
        self.shared.members.leave();
        self.shared.tell(GOODBYE, 0, &[]);
        let result = self.shared.members.all_gone(limit);
        self.shared.end(LAST_WORDS);
        result
    }
}

impl Region {
    /// Leaves at once. The other nodes see that as a loss: what this one had is gone.
    pub fn abandon(&self) {
        self.shared.end(Duration::ZERO);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.shared.end(Duration::ZERO);
    }
}

impl Shared {
    fn senders(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to all others. A channel that cannot send has ended, which its reader finds out.
    fn tell(&self, kind: u16, arg: u64, text: &[u8]) {
        for sender in self.senders().iter() {
            let _ = sender.send(kind, 0, arg, &[text]);
        }
    }

    /// Handles the frames of one peer until there are no more.
    fn read(&self, from: NodeId, mut receiver: Receiver) -> End {
        loop {
            let (header, payload) = match receiver.recv() {
                Ok(frame) => frame,
                Err(error) => return End::Channel(error.to_string()),
            };
            let result = if self.pages.on_channels() && FRAME_KINDS.contains(&header.kind) {
                self.serve(from, header, payload)
            } else {
                self.while_there(|| self.hear(from, header, payload))
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// The way of the engine's frames to `node` and back works.
    pub(crate) fn met(&self, node: NodeId) {
        self.members.met(node);
    }

    /// Handles a frame for the engine.
    pub(crate) fn serve(&self, from: NodeId, header: Header, payload: &[u8]) -> Result<(), End> {
        if !FRAME_KINDS.contains(&header.kind) {
            return Err(unknown(header.kind));
        }
        self.while_there(|| {
            self.engine
                .on_frame(from, header, payload)
                .map_err(|error| match error {
                    DsmError::Stopped => End::Stopped,
                    error => End::Channel(error.to_string()),
                })
        })
    }

    /// Handles something, unless this process has left.
    fn while_there(&self, handle: impl FnOnce() -> Result<(), End>) -> Result<(), End> {
        let _handling = self.handling.read().unwrap_or_else(PoisonError::into_inner);
        if self.ended.load(Ordering::Acquire) {
            return Err(End::Channel("this process has left".into()));
        }
        handle()
    }

    fn hear(&self, from: NodeId, header: Header, payload: &[u8]) -> Result<(), End> {
        match header.kind {
            AGREE if header.arg == self.digest => self.members.agreed(from),
            AGREE => {
                let why = "its region has another size, other homes or another transport than here";
                return Err(End::Channel(why.into()));
            }
            ARRIVED => self.members.arrived(from, header.arg),
            GOODBYE => self.members.gone(from),
            LOST => return Err(self.members.named(header.arg, read_reason(payload))),
            INTRODUCTION => return self.pages.introduced(from, payload),
            kind => return Err(unknown(kind)),
        }
        Ok(())
    }

    /// A peer's channel has ended.
    pub(crate) fn lost(&self, from: NodeId, end: End) {
        let tell = |node: NodeId, why: &str| self.tell(LOST, node.0.into(), reason(why));
        let Some((node, why)) = self.members.lost(from, end, tell) else {
            return;
        };
        // Whoever touches the memory now ends by a signal: say why while there is time.
        let _ = writeln!(
            std::io::stderr(),
            "leviathan: {node} is lost: {why}; memory shared with it is gone"
        );
        self.end(LAST_WORDS);
    }

    /// Stops everything, in this order: nobody handles frames, the memory is inaccessible, then those who wait for
    /// a page are woken. The other way round they would see a page of zeroes. Then peers have so long to take what was
    /// said to them last.
    fn end(&self, patience: Duration) {
        self.members.close();
        {
            let _alone = self
                .handling
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if self.ended.swap(true, Ordering::AcqRel) {
                return;
            }
            self.engine.halt();
            self.mapping.forbid();
        }
        self.engine.stop();
        let senders: Vec<Sender> = self.senders().drain(..).collect();
        let deadline = Instant::now() + patience;
        while senders.iter().any(|sender| sender.queued() > 0) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        senders.iter().for_each(Sender::shutdown);
        // After the channels: how they end says why.
        self.pages.close(Duration::ZERO);
    }
}

/// A frame that nobody knows.
fn unknown(kind: u16) -> End {
    End::Channel(format!("it sent a frame of unknown kind {kind:#x}"))
}
