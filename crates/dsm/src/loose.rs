//! Blocks that only their home has touched: out of userfaultfd, so that the kernel can back them with huge pages.
//!
//! Memory that is registered with userfaultfd has pages of 4 KiB, and a guest pays for each of them with a fault in KVM.
//! A block of 2 MiB of which nobody has touched a page belongs to its home as a whole at the first touch there; as long
//! as no other node wants a page of it, there is nothing to watch. Such a block is *loose*: every page of it is
//! Exclusive here, and no event of it comes. Before anything happens to one of its pages the block is registered
//! again ([`Core::lock_watched`]); the kernel then splits the huge page when it must.
//!
//! Two of its pages never have different answers to "is it watched?": the mark is in all chunks of the block and changes
//! with all their locks held.

use crate::core::{Core, Failure, PAGE, ZERO_PAGE};
use crate::segment::{Chunk, Segment, BLOCK_PAGES, CHUNK_PAGES};
use crate::{mappings, memory};
use crate::{Backing, DsmError};
use lev_uffd::Memory;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::MutexGuard;

/// Of the mappings that a process may have, this part is for loose blocks: each may cut one mapping in three.
const SHARE_OF_MAPPINGS: u64 = 16;

/// How many blocks are loose, and how many may be.
pub(crate) struct Loose {
    blocks: AtomicU64,
    most: u64,
}

impl Loose {
    /// `wanted`: the engine may make blocks loose at all.
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            blocks: AtomicU64::new(0),
            most: if wanted {
                mappings::limit() / SHARE_OF_MAPPINGS
            } else {
                0
            },
        }
    }

    /// Takes one of the places, if there is one.
    fn take(&self) -> bool {
        let more = |blocks| (blocks < self.most).then_some(blocks + 1);
        self.blocks.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn give_back(&self) {
        self.blocks.fetch_sub(1, Relaxed);
    }
}

/// The block of a page, as far as huge pages could back it: whole, aligned in this process, private memory.
fn block(segment: &Segment, offset: u64) -> Option<Range<u64>> {
    let first = offset - offset % BLOCK_PAGES;
    let whole = first + BLOCK_PAGES <= segment.pages;
    let aligned = segment.local % (BLOCK_PAGES * PAGE) == 0;
    (whole && aligned && segment.backing == Backing::Anonymous)
        .then_some(first..first + BLOCK_PAGES)
}

/// All chunks of a block, locked in the order of their pages: nobody else ever has two.
fn lock_block(segment: &Segment, block: Range<u64>) -> Vec<MutexGuard<'_, Chunk>> {
    block
        .step_by(CHUNK_PAGES)
        .map(|first| segment.lock(first).0)
        .collect()
}

impl Core {
    /// Locks a page for an event: what happens to it from now on is seen by userfaultfd.
    pub(crate) fn lock_watched<'a>(
        &self,
        segment: &'a Segment,
        offset: u64,
    ) -> Result<(MutexGuard<'a, Chunk>, usize), Failure> {
        loop {
            let (chunk, index) = segment.lock(offset);
            if !chunk.loose {
                return Ok((chunk, index));
            }
            drop(chunk);
            self.tighten(segment, offset)?;
        }
    }

    /// First touch of a page at home: the whole block, if nobody has touched any of it, becomes this node's and loose.
    /// `false`: it does not, and nothing has happened.
    pub(crate) fn loosen(&self, segment: &Segment, offset: u64) -> Result<bool, Failure> {
        let Some(block) = block(segment, offset) else {
            return Ok(false);
        };
        // Limits count pages, and huge ones are there as a whole.
        if self.room.is_limited() || !self.loose.take() {
            return Ok(false);
        }
        let mut chunks = lock_block(segment, block.clone());
        let untouched = block
            .clone()
            .all(|page| self.is_unclaimed(segment, chunk_of(&mut chunks, page), page));
        if !untouched {
            self.loose.give_back();
            return Ok(false);
        }
        let now = self.now_us();
        for page in block.clone() {
            self.claim(chunk_of(&mut chunks, page), page, now);
        }
        for chunk in &mut chunks {
            chunk.here += CHUNK_PAGES as u16;
            chunk.loose = true;
        }
        self.room.came(BLOCK_PAGES);
        self.stats.blocks_loosened.add(1);
        self.tape.filled(segment.first + block.start, BLOCK_PAGES);
        let (address, len) = (segment.address(block.start), BLOCK_PAGES * PAGE);
        let uffd = &self.uffds[segment.stripe(block.start)];
        // The fault has left an empty page table where a huge page would have to be, and the kernel replaces one only
        // if it finds a page in it.
        uffd.copy(address, &ZERO_PAGE, false)?;
        memory::allow_huge_pages(address, len)?;
        // Wakes whoever waits for one of its pages.
        uffd.unregister(address, len)?;
        memory::collapse(address, len);
        Ok(true)
    }

    /// Registers the block of a page again, if it is loose. Pages of it that are still absent are this node's, and zero.
    fn tighten(&self, segment: &Segment, offset: u64) -> Result<(), DsmError> {
        let Some(block) = block(segment, offset) else {
            return Ok(());
        };
        let mut chunks = lock_block(segment, block.clone());
        if !chunks[0].loose {
            return Ok(()); // another thread was faster
        }
        let (address, len) = (segment.address(block.start), BLOCK_PAGES * PAGE);
        memory::forbid_huge_pages(address, len)?;
        self.uffds[segment.stripe(block.start)].register(address, len, Memory::Anonymous)?;
        for chunk in &mut chunks {
            chunk.loose = false;
        }
        self.loose.give_back();
        self.stats.blocks_tightened.add(1);
        Ok(())
    }
}

/// The chunk of a page among those of its block.
fn chunk_of<'a, 'b>(
    chunks: &'a mut [MutexGuard<'b, Chunk>],
    page: u64,
) -> &'a mut MutexGuard<'b, Chunk> {
    &mut chunks[(page % BLOCK_PAGES) as usize / CHUNK_PAGES]
}
