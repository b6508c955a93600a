//! Calls over a range that stop half-way: the kernel says how far it came, and the rest is asked for again.
//!
//! It also refuses a range that lies in several mappings (`ENOENT`; `mm/userfaultfd.c`), and guest memory is cut into several
//! by pages that were in a pool: then a smaller part is asked for, down to single pages.

use crate::{Fill, UffdError, PAGE};
use std::time::Duration;

/// Fills `[start, start + len)`. `step` asks for so many bytes (the second number) from so many on (the first); it returns the
/// kernel's count (negative: an error number, nothing was done) and the call's result.
pub(crate) fn all(
    start: u64,
    len: u64,
    mut step: impl FnMut(u64, u64) -> (i64, Result<(), UffdError>),
) -> Result<Fill, UffdError> {
    let (mut done, mut most, mut patience) = (0, len, Patience::default());
    while done < len {
        let part = most.min(len - done);
        match step(done, part) {
            (_, Ok(())) => {
                done += part;
                most = most.saturating_mul(2);
            }
            (count, Err(_)) if count > 0 => done += count as u64,
            (_, Err(error)) => match errno(&error) {
                libc::EAGAIN => patience.wait(),
                libc::EEXIST => return Ok(Fill::Exists(start + done)),
                libc::ENOENT if part > PAGE => most = half(part),
                _ => return Err(error),
            },
        }
    }
    Ok(Fill::Complete)
}

/// The same for a call that does not say how far it came, and may be repeated.
pub(crate) fn each(
    len: u64,
    mut step: impl FnMut(u64, u64) -> Result<(), UffdError>,
) -> Result<(), UffdError> {
    // What was done before an error is done again; nothing can exist already.
    all(0, len, |done, part| (0, step(done, part))).map(|_| ())
}

fn errno(error: &UffdError) -> i32 {
    match error {
        UffdError::Call { errno, .. } => *errno,
        UffdError::Permission { .. } | UffdError::Missing { .. } => 0,
    }
}

/// Half of a part of several pages, in whole pages.
fn half(part: u64) -> u64 {
    (part / PAGE / 2).max(1) * PAGE
}

/// Waiting until the process has forked or moved memory. Who does that may be a thread that runs after this one on the same
/// processor: after a few attempts it is let run.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    const YIELDS: u32 = 16;
    const SLEEP: Duration = Duration::from_micros(20);

    fn wait(&mut self) {
        self.0 += 1;
        if self.0 <= Self::YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Self::SLEEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 0x7000_0000;

    /// A kernel: pages, and how far it comes in each call before it is interrupted.
    struct Kernel {
        present: Vec<bool>,
        filled: Vec<u32>,
        interrupted: std::vec::IntoIter<Option<usize>>,
        broken_at: Option<usize>,
        /// Where another mapping begins.
        cuts: Vec<usize>,
    }

    impl Kernel {
        /// As `UFFDIO_COPY` and `UFFDIO_ZEROPAGE` (Linux, mm/userfaultfd.c and fs/userfaultfd.c): the count and `EAGAIN` after
        /// a part, the error of the first page as the count and the result before any; nothing over more than one mapping.
        fn step(&mut self, done: u64, len: u64) -> (i64, Result<(), UffdError>) {
            let first = (done / PAGE) as usize;
            let end = first + (len / PAGE) as usize;
            assert!(len % PAGE == 0 && end > first && end <= self.present.len());
            if self.cuts.iter().any(|cut| first < *cut && *cut < end) {
                let errno = libc::ENOENT;
                return (
                    -i64::from(errno),
                    Err(UffdError::Call {
                        call: "step",
                        at: done,
                        errno,
                    }),
                );
            }
            let limit = self.interrupted.next().flatten();
            let mut page = first;
            let errno = loop {
                if page == end {
                    return (((page - first) as u64 * PAGE) as i64, Ok(()));
                }
                if self.broken_at == Some(page) {
                    break libc::EFAULT;
                }
                if self.present[page] {
                    break libc::EEXIST;
                }
                if limit == Some(page - first) {
                    break libc::EAGAIN;
                }
                self.present[page] = true;
                self.filled[page] += 1;
                page += 1;
            };
            let error = |errno| UffdError::Call {
                call: "step",
                at: done,
                errno,
            };
            match (page - first) as i64 * PAGE as i64 {
                0 => (-i64::from(errno), Err(error(errno))),
                count => (count, Err(error(libc::EAGAIN))),
            }
        }
    }

    proptest! {
        /// However the kernel is interrupted: pages before the first obstacle are filled once, the others not touched.
        #[test]
        fn half_way_results_are_gone_on_from(
            present in proptest::collection::vec(proptest::bool::weighted(0.1), 1..40),
            interrupted in proptest::collection::vec(proptest::option::of(0usize..6), 0..60),
            broken_at in proptest::option::weighted(0.2, 0usize..40),
            cuts in proptest::collection::vec(0usize..40, 0..6),
        ) {
            let before = present.clone();
            let pages = present.len();
            let mut kernel = Kernel {
                filled: vec![0; pages],
                present,
                interrupted: interrupted.into_iter(),
                broken_at,
                cuts,
            };
            let result = all(START, pages as u64 * PAGE, |done, len| kernel.step(done, len));
            let exists = before.iter().position(|present| *present).unwrap_or(pages);
            let broken = broken_at.unwrap_or(pages);
            let stop = exists.min(broken).min(pages);
            match result {
                Ok(Fill::Complete) => prop_assert_eq!(stop, pages),
                Ok(Fill::Exists(at)) => prop_assert_eq!(at, START + exists as u64 * PAGE),
                Err(UffdError::Call { errno, .. }) => prop_assert_eq!((errno, stop), (libc::EFAULT, broken)),
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            for (page, filled) in kernel.filled.iter().enumerate() {
                prop_assert_eq!(*filled, u32::from(page < stop), "page {}", page);
            }
        }
    }
}
