//! From the ring into a file.

use crate::{Header, Record, Ring, HEADER_LEN, RECORD_LEN};
use std::io::{self, Seek, SeekFrom, Write};

/// Records of one file at most: 192 MiB.
pub const MAX_RECORDS: u64 = 8 << 20;
/// Bytes that go into the file at a time.
const BUFFER: usize = 64 << 10;

/// Writes the trace of one node.
pub struct Writer<F: Write + Seek> {
    file: F,
    header: Header,
    limit: u64,
    buffer: Vec<u8>,
    /// The first error: nothing is written after it.
    failed: Option<io::Error>,
}

impl<F: Write + Seek> Writer<F> {
    /// Begins an empty file with this header and so many records at most.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(mut file: F, header: Header, limit: u64) -> io::Result<Self> {
        file.write_all(&header.encode())?;
        Ok(Self {
            file,
            header,
            limit,
            buffer: Vec::with_capacity(BUFFER + RECORD_LEN),
            failed: None,
        })
    }

    /// Adds one record, or counts it where the file has its greatest length.
    pub fn add(&mut self, record: &Record) {
        if self.header.records >= self.limit || self.failed.is_some() {
            self.header.cut += 1;
            return;
        }
        self.header.records += 1;
        self.buffer.extend_from_slice(&record.encode());
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Everything that is in the ring now goes into the file.
    pub fn drain(&mut self, ring: &Ring) {
        while let Some(record) = ring.take() {
            self.add(&record);
        }
        self.flush();
    }

    fn flush(&mut self) {
        if let Err(error) = self.file.write_all(&self.buffer) {
            self.failed.get_or_insert(error);
        }
        self.buffer.clear();
    }

    /// Completes the file: what is in the ring, and the header with what is known now.
    ///
    /// # Errors
    /// The file could not be written, now or before.
    pub fn finish(mut self, ring: &Ring, clock_offset_ns: i64) -> io::Result<Header> {
        self.drain(ring);
        if let Some(error) = self.failed {
            return Err(error);
        }
        let header = Header {
            finished: true,
            clock_offset_ns,
            dropped: ring.dropped(),
            ..self.header
        };
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header.encode())?;
        self.file.flush()?;
        Ok(header)
    }
}

const _: () = assert!(HEADER_LEN % 8 == 0 && RECORD_LEN % 8 == 0);
