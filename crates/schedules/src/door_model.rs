//! A vCPU's thread, and others that post events and set the clock.

use crate::explore::{fails, holds};
use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

/// The signal that ends `KVM_RUN` and `ppoll`: pending until it is taken.
#[derive(Default)]
struct Signal {
    pending: Mutex<bool>,
    sent: Condvar,
}

impl Signal {
    fn send(&self) {
        *self.pending.lock().unwrap() = true;
        self.sent.notify_all();
    }

    /// As `sigtimedwait` without waiting.
    fn drain(&self) {
        *self.pending.lock().unwrap() = false;
    }

    /// As `KVM_RUN`: ends when the signal is pending, whenever it came; its handler takes it.
    fn wait(&self) {
        let mut pending = self.pending.lock().unwrap();
        while !*pending {
            pending = self.sent.wait(pending).unwrap();
        }
        *pending = false;
    }
}

macro_rules! door_models {
    ($module:ident: $posted:ident, $clock:ident) => {
        /// Two others post an event each; the thread sleeps inside until it has seen both.
        fn $posted() {
            let door = Arc::new(crate::$module::Door::default());
            let signal = Arc::new(Signal::default());
            let events = Arc::new(AtomicU32::new(0));
            let others: Vec<_> = [1, 2]
                .into_iter()
                .map(|event| {
                    let (door, signal, events) = (door.clone(), signal.clone(), events.clone());
                    thread::spawn(move || {
                        events.fetch_or(event, Ordering::SeqCst);
                        if door.knock() {
                            signal.send();
                        }
                    })
                })
                .collect();
            let mut seen = 0;
            while seen != 3 {
                door.clear_poke();
                let taken = events.swap(0, Ordering::SeqCst);
                seen |= taken;
                if taken == 0 && door.enter(|| signal.drain()) {
                    signal.wait();
                    door.leave(|| signal.drain());
                }
            }
            others.into_iter().for_each(|other| other.join().unwrap());
        }

        /// The clock steps while a vCPU goes in and out: once the step is settled, it is never inside with the old one.
        fn $clock() {
            let door = Arc::new(crate::$module::Door::default());
            let clock = Arc::new(AtomicU64::new(1));
            let settled = Arc::new(AtomicBool::new(false));
            let vcpu = {
                let (door, clock, settled) = (door.clone(), clock.clone(), settled.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let number = clock.load(Ordering::SeqCst);
                        if door.enter_guest(number, || clock.load(Ordering::SeqCst), || {}) {
                            let other_has_it = settled.load(Ordering::SeqCst);
                            assert!(number == 2 || !other_has_it, "an old clock inside");
                            door.leave_guest(|| {});
                        }
                    }
                })
            };
            clock.store(2, Ordering::SeqCst);
            if door.in_guest_with() != 1 {
                settled.store(true, Ordering::SeqCst);
            }
            vcpu.join().unwrap();
        }
    };
}

door_models!(door: posted, clock);
door_models!(door_pokes_late: posted_poked_late, clock_poked_late);
door_models!(door_looks_early: posted_looked_early, clock_looked_early);
door_models!(door_announces_late: posted_announced_late, clock_announced_late);

#[test]
fn no_kick_is_lost() {
    holds(posted);
    fails(posted_poked_late);
    fails(posted_looked_early);
}

#[test]
fn nobody_is_inside_with_an_old_clock() {
    holds(clock);
    fails(clock_announced_late);
}
