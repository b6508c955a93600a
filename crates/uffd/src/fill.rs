//! Fills that stop half-way: the kernel says how far it came, and the rest is asked for again.

use crate::{Fill, UffdError};

/// Fills `[start, start + len)`. `step` asks for everything from so many bytes on; it returns the kernel's count (negative: an
/// error number, nothing was done) and the call's result.
pub(crate) fn all(
    start: u64,
    len: u64,
    mut step: impl FnMut(u64) -> (i64, Result<(), UffdError>),
) -> Result<Fill, UffdError> {
    let mut done = 0;
    while done < len {
        match step(done) {
            (_, Ok(())) => return Ok(Fill::Complete),
            (count, Err(error)) => match progress(count, error)? {
                Some(more) => done += more,
                None => return Ok(Fill::Exists(start + done)),
            },
        }
    }
    Ok(Fill::Complete)
}

/// After a fill that stopped: `Some(bytes)` done, go on from there; `None`: the next page exists already.
fn progress(done: i64, error: UffdError) -> Result<Option<u64>, UffdError> {
    match error {
        _ if done > 0 => Ok(Some(done as u64)),
        UffdError::Call {
            errno: libc::EAGAIN,
            ..
        } => {
            std::thread::yield_now(); // the process forks or remaps memory: try again
            Ok(Some(0))
        }
        UffdError::Call {
            errno: libc::EEXIST,
            ..
        } => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;
    const START: u64 = 0x7000_0000;

    /// A kernel: pages, and how far it comes in each call before it is interrupted.
    struct Kernel {
        present: Vec<bool>,
        filled: Vec<u32>,
        interrupted: std::vec::IntoIter<Option<usize>>,
        broken_at: Option<usize>,
    }

    impl Kernel {
        /// As `UFFDIO_COPY` and `UFFDIO_ZEROPAGE` (Linux, mm/userfaultfd.c and fs/userfaultfd.c): the count and `EAGAIN` after
        /// a part, the error of the first page as the count and the result before any.
        fn step(&mut self, done: u64) -> (i64, Result<(), UffdError>) {
            let first = (done / PAGE) as usize;
            let limit = self.interrupted.next().flatten();
            let mut page = first;
            let errno = loop {
                if page == self.present.len() {
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
        ) {
            let before = present.clone();
            let pages = present.len();
            let mut kernel = Kernel {
                filled: vec![0; pages],
                present,
                interrupted: interrupted.into_iter(),
                broken_at,
            };
            let result = all(START, pages as u64 * PAGE, |done| kernel.step(done));
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
