//! The first 80 bytes of a file.

use crate::TraceError;
use lev_wire::{NodeId, PAGE_SIZE};

/// Bytes of the header.
pub const HEADER_LEN: usize = 80;
/// The node of a trace of all nodes.
pub const MERGED: u16 = u16::MAX;

const MAGIC: [u8; 8] = *b"LEVTRACE";
const VERSION: u16 = 1;
/// Nodes that there can be, as in `lev_coherence::Sharers`.
const NODES_MAX: u16 = 1024;
const FINISHED: u16 = 1;
/// What a file says while it is written.
const OPEN: u64 = u64::MAX;

/// What a trace says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Nodes of the cluster.
    pub nodes: u16,
    /// Whose events these are; [`MERGED`]: everybody's, in the order of time.
    pub node: u16,
    /// The file was written to its end.
    pub finished: bool,
    /// The node's monotonic clock at time 0 of the trace.
    pub start_ns: u64,
    /// To be added to the node's clock for the head's.
    pub clock_offset_ns: i64,
    /// Records in the file, if it is finished.
    pub records: u64,
    /// Events that found the ring full.
    pub dropped: u64,
    /// Events after the file had its greatest length.
    pub cut: u64,
    /// [`promote_after`](lev_wire::cluster::EngineOptions::promote_after) of the engine; 0: there was no pool.
    pub promote_after: u32,
    /// [`hold_us`](lev_wire::cluster::EngineOptions::hold_us) of the engine.
    pub hold_us: u32,
}

impl Header {
    /// Of a trace that begins now at `start_ns`.
    #[must_use]
    pub fn new(nodes: u16, node: NodeId, start_ns: u64) -> Self {
        Self {
            nodes,
            node: node.0,
            finished: false,
            start_ns,
            clock_offset_ns: 0,
            records: 0,
            dropped: 0,
            cut: 0,
            promote_after: 0,
            hold_us: 0,
        }
    }

    /// As it stands in a file.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&(HEADER_LEN as u16).to_le_bytes());
        put(&(crate::RECORD_LEN as u16).to_le_bytes());
        put(&self.nodes.to_le_bytes());
        put(&self.node.to_le_bytes());
        put(&if self.finished { FINISHED } else { 0 }.to_le_bytes());
        put(&(PAGE_SIZE as u32).to_le_bytes());
        put(&self.start_ns.to_le_bytes());
        put(&self.clock_offset_ns.to_le_bytes());
        put(&if self.finished { self.records } else { OPEN }.to_le_bytes());
        put(&self.dropped.to_le_bytes());
        put(&self.cut.to_le_bytes());
        put(&self.promote_after.to_le_bytes());
        put(&self.hold_us.to_le_bytes());
        out
    }

    /// Reads the start of a file. The number of records is not compared with anything.
    ///
    /// # Errors
    /// Where the header is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, TraceError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(TraceError::Short(bytes.len()));
        };
        let number = |at: usize, len: usize| {
            let mut word = [0; 8];
            word[..len].copy_from_slice(&bytes[at..at + len]);
            u64::from_le_bytes(word)
        };
        if bytes[..8] != MAGIC {
            return Err(TraceError::Magic);
        }
        if number(8, 2) != u64::from(VERSION) {
            return Err(TraceError::Version(number(8, 2) as u16));
        }
        let check = |right: bool, offset, len, field| {
            let value = number(offset, len);
            right.then_some(()).ok_or(TraceError::Header {
                offset,
                field,
                value,
            })
        };
        let (nodes, node, flags) = (number(14, 2) as u16, number(16, 2) as u16, number(18, 2));
        check(
            number(10, 2) == HEADER_LEN as u64,
            10,
            2,
            "the header's length",
        )?;
        check(
            number(12, 2) == crate::RECORD_LEN as u64,
            12,
            2,
            "a record's length",
        )?;
        check(
            (1..=NODES_MAX).contains(&nodes),
            14,
            2,
            "the number of nodes",
        )?;
        check(node < nodes || node == MERGED, 16, 2, "the node")?;
        check(flags <= u64::from(FINISHED), 18, 2, "the flags")?;
        check(number(20, 4) == PAGE_SIZE as u64, 20, 4, "the page size")?;
        check(number(72, 8) == 0, 72, 8, "what is reserved")?;
        let finished = flags == u64::from(FINISHED);
        check(
            finished || number(40, 8) == OPEN,
            40,
            8,
            "the number of records of an unfinished file",
        )?;
        Ok(Self {
            nodes,
            node,
            finished,
            start_ns: number(24, 8),
            clock_offset_ns: number(32, 8) as i64,
            records: if finished { number(40, 8) } else { 0 },
            dropped: number(48, 8),
            cut: number(56, 8),
            promote_after: number(64, 4) as u32,
            hold_us: number(68, 4) as u32,
        })
    }
}
