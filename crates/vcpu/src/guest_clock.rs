//! The distance between this host's time-stamp counter and the guest's, as all vCPUs of the node have it.
//!
//! A step forward must not be seen on one vCPU before another of the same node has it: that one's reading would lie in the
//! first one's past. So a vCPU enters the guest with a new setting only when no other is inside with an older one.

use crate::cell::Vcpu;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for another vCPU to leave the guest: it has been kicked, and only its host can keep it from running.
const LEAVE_LIMIT: Duration = Duration::from_millis(20);
const LOOK_AGAIN: Duration = Duration::from_micros(20);

/// The clock setting of one node. Settings are numbered from 1; 0 is none.
#[derive(Debug, Default)]
pub struct GuestClock {
    number: AtomicU64,
    /// Number and offset belong together.
    setting: Mutex<(u64, u64)>,
    /// Steps taken after the start.
    pub steps: AtomicU64,
    /// Ticks of all steps together.
    pub stepped: AtomicU64,
}

impl GuestClock {
    /// Number of the setting in force.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// The setting in force: its number and `guest counter = host counter + offset`, modulo 2^64.
    #[must_use]
    pub fn setting(&self) -> (u64, u64) {
        *self.setting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the offset. Once set it only grows; false: it would go back.
    #[must_use]
    pub(crate) fn set(&self, offset: u64) -> bool {
        let mut setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, before) = *setting;
        let step = offset.wrapping_sub(before);
        if number > 0 {
            if step as i64 <= 0 {
                return step == 0;
            }
            self.steps.fetch_add(1, Ordering::Relaxed);
            self.stepped.fetch_add(step, Ordering::Relaxed);
        }
        *setting = (number + 1, offset);
        self.number.store(number + 1, Ordering::SeqCst);
        true
    }

    /// Waits until none of the node's vCPUs is in the guest with an older setting than `number`; false if one of them
    /// stayed too long.
    pub(crate) fn wait_for_others<'a>(
        &self,
        number: u64,
        vcpus: impl Fn() -> Box<dyn Iterator<Item = &'a Arc<Vcpu>> + 'a>,
    ) -> bool {
        let start = Instant::now();
        while vcpus().any(|vcpu| (1..number).contains(&vcpu.in_guest_with())) {
            if start.elapsed() > LEAVE_LIMIT {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lev_kvmabi::run_page::RunPage;

    fn vcpu(memory: &mut [u64]) -> Arc<Vcpu> {
        // SAFETY: each test keeps the memory alive as long as the vCPU.
        let page = unsafe { RunPage::new(memory.as_mut_ptr().cast(), 4096) };
        Arc::new(Vcpu::new(0, -1, page))
    }

    #[test]
    fn a_new_setting_waits_for_those_with_the_old_one() {
        let mut memory = vec![0u64; 512];
        let other = vcpu(&mut memory);
        let clock = GuestClock::default();
        let wait = |number| clock.wait_for_others(number, || Box::new(std::iter::once(&other)));
        assert!(wait(2), "outside");
        assert!(other.enter_guest(1, || 1));
        assert!(wait(1), "the same setting");
        let start = Instant::now();
        assert!(!wait(2), "never left");
        assert!(start.elapsed() >= LEAVE_LIMIT);
        let left = std::thread::scope(|scope| {
            let leaving = scope.spawn(|| {
                std::thread::sleep(LEAVE_LIMIT / 10);
                let now = Instant::now();
                other.leave_guest();
                now
            });
            // However late the other thread runs.
            while !wait(2) {}
            Instant::now() >= leaving.join().unwrap()
        });
        assert!(left, "went on before the other had left");
    }

    #[test]
    fn the_clock_never_goes_back() {
        let clock = GuestClock::default();
        assert_eq!(clock.setting(), (0, 0));
        // The first setting may be anything: the guest has not looked yet.
        assert!(clock.set(500u64.wrapping_neg()));
        assert!(clock.set(400u64.wrapping_neg()));
        assert!(!clock.set(401u64.wrapping_neg()));
        assert!(clock.set(400u64.wrapping_neg()));
        assert!(clock.set(1));
        assert_eq!(clock.setting(), (3, 1));
        let (steps, ticks) = (&clock.steps, &clock.stepped);
        assert_eq!(
            (steps.load(Ordering::Relaxed), ticks.load(Ordering::Relaxed)),
            (2, 501)
        );
    }
}
