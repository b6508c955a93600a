//! A whole trace in memory.

use crate::record::{PAGE_LIMIT, TIME_LIMIT};
use crate::{Header, Homes, Kind, Record, TraceError, HEADER_LEN, MERGED, RECORD_LEN};

/// A trace: the events in the order of their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it says of itself.
    pub header: Header,
    /// Where pages are at home.
    pub homes: Homes,
    /// The events; those of one time in the order of the file.
    pub records: Vec<Record>,
}

impl Trace {
    /// Reads a file: a node's or that of all nodes. Of one that was not written to its end, all whole records.
    ///
    /// # Errors
    /// Where the file is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, TraceError> {
        let mut header = Header::decode(bytes)?;
        let body = &bytes[HEADER_LEN..];
        let whole = body.len() / RECORD_LEN;
        let exact = body.len() % RECORD_LEN == 0 && header.records == whole as u64;
        if header.finished && !exact {
            return Err(TraceError::Length {
                announced: header.records,
                bytes: body.len(),
            });
        }
        header.records = whole as u64;
        let mut records = Vec::with_capacity(whole);
        let mut last = 0;
        for (number, chunk) in body.chunks_exact(RECORD_LEN).enumerate() {
            let wrong = |why| TraceError::Record {
                offset: HEADER_LEN + number * RECORD_LEN,
                why,
            };
            let record = chunk
                .first_chunk()
                .and_then(Record::decode)
                .ok_or_else(|| wrong("there is no such kind of record, or no such flag"))?;
            check(&record, &header).map_err(wrong)?;
            if record.kind != Kind::Home {
                if header.node == MERGED && record.at_ns < last {
                    return Err(wrong("before the record in front of it"));
                }
                last = record.at_ns;
            }
            records.push(record);
        }
        let homes = Homes::of(records.iter());
        records.retain(|record| record.kind != Kind::Home);
        records.sort_by_key(|record| record.at_ns); // of several threads, one may have been late with its record
        Ok(Self {
            header,
            homes,
            records,
        })
    }

    /// The bytes of a finished file: homes first, then the events.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let homes: Vec<Record> = self.homes.records().collect();
        let count = homes.len() + self.records.len();
        let header = Header {
            finished: true,
            records: count as u64,
            ..self.header
        };
        let mut bytes = Vec::with_capacity(HEADER_LEN + count * RECORD_LEN);
        bytes.extend_from_slice(&header.encode());
        for record in homes.iter().chain(&self.records) {
            bytes.extend_from_slice(&record.encode());
        }
        bytes
    }

    /// Nanoseconds from the first event to the last.
    #[must_use]
    pub fn span_ns(&self) -> u64 {
        match (self.records.first(), self.records.last()) {
            (Some(first), Some(last)) => last.at_ns - first.at_ns,
            _ => 0,
        }
    }
}

/// What can be wrong with a record that could be decoded.
fn check(record: &Record, header: &Header) -> Result<(), &'static str> {
    if record.node.0 >= header.nodes || record.other.0 >= header.nodes {
        return Err("a node that is not in the cluster");
    }
    if header.node != MERGED && record.kind != Kind::Home && record.node.0 != header.node {
        return Err("an event of another node in a node's file");
    }
    if record.kind != Kind::Home && record.at_ns >= TIME_LIMIT {
        return Err("a time that is years after the start");
    }
    let pages = match record.kind {
        Kind::Home => record.at_ns,
        Kind::Fill => u64::from(record.thread),
        _ => 1,
    };
    if pages == 0 || pages > PAGE_LIMIT || record.page > PAGE_LIMIT - pages {
        return Err("a run of no pages, or past the last one");
    }
    Ok(())
}
