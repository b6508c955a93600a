//! Sees that a vCPU goes round in a loop too small to be work: it waits for something that another CPU has to do.
//!
//! A hint for those who decide how long this node may keep others waiting. The vCPU is taken out of the guest now and then,
//! and the place where it was is compared with the last one.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A loop that waits is not longer than this, bytes: Linux's spin locks, `rep; nop` in user programs.
const SMALL: u64 = 64;
/// Looks in a row that found the vCPU in such a loop.
const OFTEN: u32 = 3;

/// What is known of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Loiter {
    wanted: AtomicBool,
    last_rip: AtomicU64,
    alike: AtomicU32,
}

impl Loiter {
    /// Asks the vCPU's thread for a look; `true`: to be kicked for it.
    pub(crate) fn ask(&self) -> bool {
        !self.wanted.swap(true, Relaxed)
    }

    /// The vCPU's thread: somebody wants to know where it is.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.swap(false, Relaxed)
    }

    /// The vCPU's thread: the guest is at `rip`.
    pub(crate) fn note(&self, rip: u64) {
        if self.last_rip.swap(rip, Relaxed).abs_diff(rip) < SMALL {
            self.alike.fetch_add(1, Relaxed);
        } else {
            self.alike.store(0, Relaxed);
        }
    }

    /// It does something else: all that was seen says nothing.
    pub(crate) fn reset(&self) {
        if self.alike.load(Relaxed) != 0 {
            self.alike.store(0, Relaxed);
        }
    }

    pub(crate) fn seems_to_wait(&self) -> bool {
        self.alike.load(Relaxed) >= OFTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_loop_is_seen_and_work_is_not() {
        let loiter = Loiter::default();
        for step in 0..100 {
            loiter.note(0x40_0000 + step * 100);
            assert!(!loiter.seems_to_wait());
        }
        for step in 0..4 {
            assert!(!loiter.seems_to_wait());
            loiter.note(0x50_0000 + step % 2 * 20);
        }
        assert!(loiter.seems_to_wait());
        loiter.reset();
        assert!(!loiter.seems_to_wait());
    }

    #[test]
    fn one_look_at_a_time() {
        let loiter = Loiter::default();
        assert!(!loiter.is_wanted());
        assert!(loiter.ask());
        assert!(!loiter.ask());
        assert!(loiter.is_wanted());
        assert!(!loiter.is_wanted());
    }
}
