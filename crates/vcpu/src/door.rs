//! Where a vCPU's thread is, and how others reach it: the guest's doorstep.
//!
//! Whoever posts something knocks; the thread looks at what was posted after [`Door::clear_poke`] and before it enters. All
//! accesses are sequentially consistent: of a knock and an entry at the same time, at least one sees the other.
//! `crates/schedules` runs this file under many schedules.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const OUTSIDE: u32 = 0;
const INSIDE: u32 = 1;
const KICKED: u32 = 2;

/// A vCPU thread's door. `Default`: outside, nobody has knocked.
#[derive(Default)]
pub(crate) struct Door {
    poked: AtomicBool,
    place: AtomicU32,
    /// Number of the clock setting with which it is in the guest, else 0.
    in_guest_with: AtomicU64,
}

impl Door {
    /// Something was posted: the thread shall look at it. True: it is inside, and this caller must send it the signal.
    pub(crate) fn knock(&self) -> bool {
        self.poked.store(true, Ordering::SeqCst);
        self.place
            .compare_exchange(INSIDE, KICKED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// What was posted up to here is looked at after this.
    pub(crate) fn clear_poke(&self) {
        self.poked.store(false, Ordering::SeqCst);
    }

    /// Announces that the thread is about to run the guest or to sleep; false if somebody knocked since
    /// [`Door::clear_poke`]. `drain` takes a signal that was sent meanwhile.
    pub(crate) fn enter(&self, drain: impl FnOnce()) -> bool {
        self.place.store(INSIDE, Ordering::SeqCst);
        if self.poked.load(Ordering::SeqCst) {
            self.leave(drain);
            return false;
        }
        true
    }

    /// As [`Door::enter`] for the guest, which runs with clock setting `clock`; false also if `in_force` has become another
    /// one: either we see it here, or whoever waits for us to leave sees us.
    pub(crate) fn enter_guest(
        &self,
        clock: u64,
        in_force: impl FnOnce() -> u64,
        drain: impl FnOnce() + Copy,
    ) -> bool {
        self.in_guest_with.store(clock, Ordering::SeqCst);
        if !self.enter(drain) {
            self.in_guest_with.store(0, Ordering::SeqCst);
            return false;
        }
        if in_force() != clock {
            self.leave_guest(drain);
            return false;
        }
        true
    }

    /// See [`Door::leave`].
    pub(crate) fn leave_guest(&self, drain: impl FnOnce()) {
        self.in_guest_with.store(0, Ordering::SeqCst);
        self.leave(drain);
    }

    /// See [`Door::in_guest_with`]'s field.
    pub(crate) fn in_guest_with(&self) -> u64 {
        self.in_guest_with.load(Ordering::SeqCst)
    }

    /// The thread is back; takes the signal that was sent meanwhile.
    pub(crate) fn leave(&self, drain: impl FnOnce()) {
        if self.place.swap(OUTSIDE, Ordering::SeqCst) == KICKED {
            drain();
        }
    }
}
