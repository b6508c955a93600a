//! The timer's counter (SDM 11.5.4), as a deadline instead of something that counts.

/// Frequency of the APIC bus clock, which the divider divides.
pub const BUS_FREQUENCY_HZ: u64 = 1_000_000_000;

/// A periodic timer does not expire more often than this; shorter periods are served every
/// few periods. An expiry costs about 0.1 ms on slow nodes, and a guest that asks for one
/// every nanosecond must not stop its node.
pub const MIN_PERIOD_NS: u64 = 200_000;

// The arithmetic below takes one bus clock as one nanosecond.
const _: () = assert!(BUS_FREQUENCY_HZ == 1_000_000_000);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timer {
    initial: u32,
    divide: u32,
    /// Time of the next expiry; later than the next zero of the count only for periodic
    /// timers faster than [`MIN_PERIOD_NS`], and then by a multiple of the period.
    deadline: Option<u64>,
}

impl Timer {
    pub(crate) fn initial(&self) -> u32 {
        self.initial
    }

    pub(crate) fn divide(&self) -> u32 {
        self.divide
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// SDM figure 11-10: bits 0, 1 and 3 mean 2, 4, … 128, 1.
    fn divisor(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    /// A write to the initial count: starts the timer, or stops it if 0.
    pub(crate) fn start(&mut self, initial: u32, now: u64) {
        self.initial = initial;
        self.deadline = (initial != 0).then(|| now.saturating_add(self.period()));
    }

    /// Puts back a timer whose current count was `current`. As KVM does it, a one-shot timer
    /// with count 0 expires at once: whoever saved it may not have saved the count (QEMU does
    /// not), and a guest survives a timer interrupt too many, but not one too few.
    pub(crate) fn restore(
        &mut self,
        initial: u32,
        current: u32,
        divide: u32,
        periodic: bool,
        now: u64,
    ) {
        self.divide = divide;
        self.start(initial, now);
        if self.deadline.is_some() && (current != 0 || !periodic) {
            let rest = u64::from(current.min(initial)) * self.divisor();
            self.deadline = Some(now.saturating_add(rest));
        }
    }

    /// A write to the divide configuration; a running count goes on at the new speed.
    pub(crate) fn set_divide(&mut self, divide: u32, now: u64) {
        let old = self.divisor();
        self.divide = divide;
        if let Some(deadline) = self.deadline {
            let rest = u128::from(deadline.saturating_sub(now)) * u128::from(self.divisor())
                / u128::from(old);
            self.deadline = Some(now.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX)));
        }
    }

    /// Time until the count is 0; `None` if stopped.
    fn rest(&self, now: u64, periodic: bool) -> Option<u64> {
        let deadline = self.deadline?;
        let period = self.period().max(1);
        match deadline.checked_sub(now) {
            Some(ahead) if ahead > period => Some((ahead - 1) % period + 1),
            Some(ahead) if ahead > 0 || !periodic => Some(ahead),
            None if !periodic => Some(0),
            _ => Some(period - (now - deadline) % period),
        }
    }

    /// The current count register.
    pub(crate) fn current(&self, now: u64, periodic: bool) -> u32 {
        let rest = self.rest(now, periodic).unwrap_or(0);
        u32::try_from(rest.div_ceil(self.divisor())).unwrap_or(u32::MAX)
    }

    /// The timer turns from periodic into one-shot: the coming zero is the last.
    pub(crate) fn leave_periodic(&mut self, now: u64) {
        self.deadline = self.rest(now, true).map(|rest| now.saturating_add(rest));
    }

    /// Handles all expiries up to `now`; `true` if there was one.
    pub(crate) fn expire(&mut self, now: u64, periodic: bool) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return false;
        };
        self.deadline = periodic.then(|| {
            let period = self.period().max(1);
            let step = period * MIN_PERIOD_NS.div_ceil(period);
            let missed = (now - deadline) / step;
            deadline.saturating_add((missed + 1).saturating_mul(step))
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divide_configuration_sdm_figure_11_10() {
        for (divide, divisor) in [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
        ] {
            let timer = Timer {
                divide,
                ..Timer::default()
            };
            assert_eq!(timer.divisor(), divisor);
        }
    }

    #[test]
    fn counts_down_and_stays_at_zero() {
        let mut timer = Timer::default();
        timer.start(10, 100);
        assert_eq!(timer.deadline(), Some(120));
        assert_eq!(timer.current(100, false), 10);
        assert_eq!(timer.current(101, false), 10, "a tick is not over yet");
        assert_eq!(timer.current(102, false), 9);
        assert_eq!(timer.current(119, false), 1);
        assert_eq!(timer.current(500, false), 0);
        assert!(!timer.expire(119, false));
        assert!(timer.expire(120, false));
        assert_eq!(timer.deadline(), None);
        assert_eq!(timer.current(120, false), 0);
    }

    #[test]
    fn new_divisor_keeps_the_count() {
        let mut timer = Timer::default();
        timer.start(1000, 0);
        timer.set_divide(0b1011, 1000);
        assert_eq!(timer.current(1000, false), 500);
        assert_eq!(timer.deadline(), Some(1500));
    }

    #[test]
    fn fast_periodic_timers_are_served_rarely_but_count_on() {
        let mut timer = Timer {
            divide: 0b1011,
            ..Timer::default()
        };
        timer.start(7, 0);
        assert!(timer.expire(7, true));
        let next = timer.deadline().unwrap();
        assert!(next >= 7 + MIN_PERIOD_NS && next % 7 == 0);
        assert_eq!(timer.current(7, true), 7);
        assert_eq!(timer.current(12, true), 2);
        timer.leave_periodic(12);
        assert_eq!(timer.deadline(), Some(14));
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let mut timer = Timer {
            divide: 0b1010,
            ..Timer::default()
        };
        timer.start(u32::MAX, u64::MAX - 1);
        assert!(timer.expire(u64::MAX, true));
        timer.set_divide(0b1011, u64::MAX);
        timer.leave_periodic(u64::MAX);
        timer.current(0, true);
        timer.set_divide(0b1010, 0);
    }
}
