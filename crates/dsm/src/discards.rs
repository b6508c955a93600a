//! Calls of [`Engine::discard`](crate::Engine::discard) that wait until pages are zero everywhere.

use lev_wire::PageNumber;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Discards of this node that are not complete, by page, oldest first.
#[derive(Default)]
pub(crate) struct Discards {
    waiting: Mutex<HashMap<PageNumber, VecDeque<Arc<Ticket>>>>,
    done: Condvar,
}

/// One call of [`Engine::discard`](crate::Engine::discard): pages that are not zero yet.
#[derive(Default)]
pub(crate) struct Ticket(Mutex<u64>);

impl Discards {
    pub(crate) fn begin(&self, page: PageNumber, ticket: &Arc<Ticket>) {
        *ticket.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .entry(page)
            .or_default()
            .push_back(Arc::clone(ticket));
    }

    pub(crate) fn complete(&self, page: PageNumber) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tickets) = waiting.get_mut(&page) else {
            return;
        };
        if let Some(ticket) = tickets.pop_front() {
            *ticket.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        }
        if tickets.is_empty() {
            waiting.remove(&page);
        }
        self.done.notify_all();
    }

    /// The page's home is lost: nobody will ever say that a discard is done.
    pub(crate) fn complete_all(&self, page: PageNumber) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for ticket in waiting.remove(&page).into_iter().flatten() {
            *ticket.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        }
        self.done.notify_all();
    }

    pub(crate) fn wait(&self, ticket: &Ticket, stopped: &AtomicBool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while *ticket.0.lock().unwrap_or_else(PoisonError::into_inner) > 0
            && !stopped.load(Ordering::Acquire)
        {
            waiting = self
                .done
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn give_up(&self) {
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.done.notify_all();
    }
}
