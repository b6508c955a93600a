//! Touching memory and taking the time.

use crate::command::{Access, Touch};
use lev_wire::PAGE_SIZE;
use std::sync::Barrier;
use std::time::Instant;

/// Memory by its address: whole pages that stay mapped while this exists.
#[derive(Clone, Copy)]
pub struct Pages {
    base: u64,
    count: u64,
}

impl Pages {
    /// `count` pages from `base` on.
    ///
    /// # Safety
    /// They are mapped, readable and writable for as long as the result or a copy of it is used, and only used by
    /// volatile accesses.
    pub unsafe fn new(base: *mut u8, count: u64) -> Self {
        Self {
            base: base as u64,
            count,
        }
    }

    pub fn address(&self, page: u64) -> u64 {
        assert!(page < self.count, "page {page} of {}", self.count);
        self.base + page * PAGE_SIZE as u64
    }

    fn word(&self, page: u64) -> *mut u64 {
        self.address(page) as *mut u64
    }

    pub fn read(&self, page: u64) -> u64 {
        // SAFETY: the first word of a page that, as checked, is one of these; see `new`.
        unsafe { self.word(page).read_volatile() }
    }

    pub fn write(&self, page: u64, value: u64) {
        // SAFETY: as in `read`.
        unsafe { self.word(page).write_volatile(value) }
    }

    fn access(&self, page: u64, access: Access) {
        match access {
            Access::Read => {
                self.read(page);
            }
            Access::Write => self.write(page, page + 1),
            // Not folded into one instruction, whose only fault would be that of a write.
            Access::ReadWrite => self.write(page, std::hint::black_box(self.read(page)) + 1),
        }
    }

    /// Whether the run of pages is inside.
    pub fn check(&self, first: u64, pages: u64) -> Result<(), String> {
        match first.checked_add(pages) {
            Some(end) if end <= self.count => Ok(()),
            _ => Err(format!("pages {first} + {pages} of {}", self.count)),
        }
    }

    /// Touches pages one after the other; nanoseconds of each.
    pub fn touch(&self, touch: Touch) -> Vec<u64> {
        let mut samples = Vec::with_capacity(touch.pages as usize);
        let mut last = Instant::now();
        for page in order(touch) {
            self.access(page, touch.access);
            let now = Instant::now();
            samples.push((now - last).as_nanos() as u64);
            last = now;
        }
        samples
    }

    /// Touches pages from several threads, each in its part; nanoseconds from the common start to the last end.
    pub fn touch_from(&self, threads: usize, touch: Touch) -> u64 {
        let (start, end) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
        let part = touch.pages / threads as u64;
        std::thread::scope(|scope| {
            for thread in 0..threads as u64 {
                let (start, end) = (&start, &end);
                let mine = Touch {
                    first: touch.first + thread * part,
                    pages: part,
                    ..touch
                };
                scope.spawn(move || {
                    let pages: Vec<u64> = order(mine).collect();
                    start.wait();
                    pages
                        .into_iter()
                        .for_each(|page| self.access(page, mine.access));
                    end.wait();
                });
            }
            start.wait();
            let began = Instant::now();
            end.wait();
            began.elapsed().as_nanos() as u64
        })
    }
}

/// The pages of a run, upwards or shuffled (always in the same way: a measurement can be repeated).
fn order(touch: Touch) -> Box<dyn Iterator<Item = u64>> {
    let pages = touch.first..touch.first + touch.pages;
    if !touch.random {
        return Box::new(pages);
    }
    let mut pages: Vec<u64> = pages.collect();
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    for index in (1..pages.len()).rev() {
        // xorshift64: any generator will do.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        pages.swap(index, (seed % (index as u64 + 1)) as usize);
    }
    Box::new(pages.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_visits_every_page_once() {
        let touch = |random| Touch {
            first: 10,
            pages: 100,
            access: Access::Read,
            random,
        };
        let straight: Vec<u64> = order(touch(false)).collect();
        let mut shuffled: Vec<u64> = order(touch(true)).collect();
        assert_ne!(straight, shuffled);
        shuffled.sort_unstable();
        assert_eq!(straight, shuffled);
    }
}
