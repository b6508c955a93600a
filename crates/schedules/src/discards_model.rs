//! Threads that wait for discards, others that complete them, and an engine that stops.

use crate::explore::{fails, holds};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::sync::Arc;
use shuttle::thread;

macro_rules! discard_models {
    ($module:ident: $completed:ident, $stopped:ident) => {
        /// Two callers discard a page each, and one page of both; whoever completes pages wakes them all.
        fn $completed() {
            use crate::$module::{Discards, Ticket};
            let discards = Arc::new(Discards::default());
            let stopped = Arc::new(AtomicBool::new(false));
            let tickets: Vec<_> = (0..2).map(|_| Arc::new(Ticket::default())).collect();
            for (page, ticket) in [(1, 0), (2, 1), (3, 0), (3, 1)] {
                discards.begin(page, &tickets[ticket]);
            }
            let callers: Vec<_> = tickets
                .into_iter()
                .map(|ticket| {
                    let (discards, stopped) = (discards.clone(), stopped.clone());
                    thread::spawn(move || discards.wait(&ticket, &stopped))
                })
                .collect();
            for page in [3, 1, 3, 2] {
                discards.complete(page);
            }
            callers
                .into_iter()
                .for_each(|caller| caller.join().unwrap());
        }

        /// The engine stops while a caller is about to wait for what will never come.
        fn $stopped() {
            use crate::$module::{Discards, Ticket};
            let discards = Arc::new(Discards::default());
            let stopped = Arc::new(AtomicBool::new(false));
            let ticket = Arc::new(Ticket::default());
            discards.begin(1, &ticket);
            let caller = {
                let (discards, stopped) = (discards.clone(), stopped.clone());
                thread::spawn(move || discards.wait(&ticket, &stopped))
            };
            stopped.store(true, Ordering::Release);
            discards.give_up();
            caller.join().unwrap();
        }
    };
}

discard_models!(discards: completed, stopped);
discard_models!(discards_gives_up_unlocked: completed_unlocked, stopped_unlocked);
discard_models!(discards_wakes_one: completed_one, stopped_one);

#[test]
fn everybody_who_waits_for_a_discard_wakes() {
    holds(completed);
    holds(stopped);
    fails(stopped_unlocked);
    fails(completed_one);
}
