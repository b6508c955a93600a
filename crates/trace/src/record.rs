//! One event of one page: 24 bytes, little-endian, the same in the ring and in a file.

use lev_wire::{NodeId, PageNumber};

/// Bytes of a record.
pub const RECORD_LEN: usize = 24;
/// Page numbers are below this: 48 bits.
pub(crate) const PAGE_LIMIT: u64 = 1 << 48;
/// Times are below this: two years.
pub(crate) const TIME_LIMIT: u64 = 1 << 56;

/// Bits of [`Record::flags`].
pub mod flag {
    /// The right is, or the access was, to write; else to read.
    pub const WRITE: u8 = 1;
    /// The contents are all zero, and none travelled.
    pub const ZERO: u8 = 2;
    /// Nobody waits for it: sent ahead, prefetched, or given away for want of room.
    pub const UNASKED: u8 = 4;
    /// All that there are.
    pub(crate) const ALL: u8 = WRITE | ZERO | UNASKED;
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A thread faulted to read a page that is not here.
    Read = 1,
    /// A thread faulted to write a page that is not here.
    Write = 2,
    /// A thread faulted to write a page that is here for reading.
    Upgrade = 3,
    /// A thread was the first to use a page that is at home here; it was filled with zeroes.
    Touch = 4,
    /// A thread faulted on a page that was being fetched already.
    Join = 5,
    /// A fault that had been answered when it was looked at.
    Stale = 6,
    /// [`Record::thread`] pages from this one on, which nobody ever used, were filled with zeroes here, mostly for
    /// nobody yet.
    Fill = 7,
    /// This node may use the page from now on.
    Grant = 8,
    /// This node's copy was removed.
    Drop = 9,
    /// This node's copy was write-protected.
    Protect = 10,
    /// The contents went to node [`Record::other`].
    Send = 11,
    /// This node uses the page in the pool from now on.
    Pool = 12,
    /// This node uses the page in the pool no more.
    Unpool = 13,
    /// A demand was put off: the page was granted a moment ago.
    Hold = 14,
    /// A request waits behind another one at this home.
    Wait = 15,
    /// The contents went into the pool.
    Collect = 16,
    /// No event: [`Record::at_ns`] pages from this one on are at home on node [`Record::other`].
    Home = 32,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::Read,
        Self::Write,
        Self::Upgrade,
        Self::Touch,
        Self::Join,
        Self::Stale,
        Self::Fill,
        Self::Grant,
        Self::Drop,
        Self::Protect,
        Self::Send,
        Self::Pool,
        Self::Unpool,
        Self::Hold,
        Self::Wait,
        Self::Collect,
        Self::Home,
    ];

    /// The kind of this number, if there is one.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// A word for it, as in `lev trace show`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Upgrade => "upgrade",
            Self::Touch => "touch",
            Self::Join => "join",
            Self::Stale => "stale",
            Self::Fill => "fill",
            Self::Grant => "grant",
            Self::Drop => "drop",
            Self::Protect => "protect",
            Self::Send => "send",
            Self::Pool => "pool",
            Self::Unpool => "unpool",
            Self::Hold => "hold",
            Self::Wait => "wait",
            Self::Collect => "collect",
            Self::Home => "home",
        }
    }

    /// Whether it is an access of a thread that this node could not satisfy at once.
    #[must_use]
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Read | Self::Write | Self::Upgrade | Self::Touch | Self::Join
        )
    }
}

/// One event of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Nanoseconds since the start of the trace.
    pub at_ns: u64,
    /// The page.
    pub page: PageNumber,
    /// Where it happened.
    pub node: NodeId,
    /// What happened.
    pub kind: Kind,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Another node, where the kind says so; else 0.
    pub other: NodeId,
    /// The thread that faulted, as the kernel numbers it, or a number of pages, where the kind says so; else 0.
    pub thread: u32,
}

impl Record {
    /// Whether the access or right is to write.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.flags & flag::WRITE != 0
    }

    /// The three words that it is made of: time; page and node (upper 16 bits); kind, flags, other node, thread.
    #[must_use]
    pub fn words(&self) -> [u64; 3] {
        [
            self.at_ns,
            self.page & (PAGE_LIMIT - 1) | u64::from(self.node.0) << 48,
            u64::from(self.kind as u8)
                | u64::from(self.flags) << 8
                | u64::from(self.other.0) << 16
                | u64::from(self.thread) << 32,
        ]
    }

    /// The record that these words are; `None`: there is no such kind or flag.
    #[must_use]
    pub fn of_words(words: [u64; 3]) -> Option<Self> {
        let [at_ns, place, rest] = words;
        let flags = (rest >> 8) as u8;
        let kind = Kind::of(rest as u8)?;
        (flags & !flag::ALL == 0).then_some(Self {
            at_ns,
            page: place & (PAGE_LIMIT - 1),
            node: NodeId((place >> 48) as u16),
            kind,
            flags,
            other: NodeId((rest >> 16) as u16),
            thread: (rest >> 32) as u32,
        })
    }

    /// As it stands in a file.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        for (out, word) in bytes.chunks_exact_mut(8).zip(self.words()) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What stands in a file; `None`: there is no such kind or flag.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        let mut words = [0; 3];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().ok()?);
        }
        Self::of_words(words)
    }
}
