//! One clock over hosts whose counters drift apart: who must step forward, and how far.
//!
//! Time in the guest never goes back, so nobody is ever slowed down: all follow whoever is ahead. What the guest could
//! notice is a message that arrives before it was sent. The fastest exchange seen, `T` there and back, bounds every
//! message from below by `T/2`; the clocks are kept within half of that:
//!
//! - an exchange counts only if it took at most `T + T/16`, so its middle is wrong by at most `T/32`, and what it says of two
//!   workers by `T/16`;
//! - who is more than `T/8` behind steps forward;
//! - rounds follow each other so fast that the drift between two of them is at most `T/16`.
//!
//! `T/16 + T/8 + T/16 = T/4`. (A path that is longer in one direction than in the other cannot be told from a distance
//! between the clocks, by anybody.) Times are ticks of the guest's counter.

use std::time::Duration;

/// Rounds without any exchange that counts, after which the network is taken to have become slower.
const PATIENCE: u32 = 16;
/// Shortest and longest time between two rounds.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(4);
/// The same while the drift is not known yet.
const UNKNOWN: Duration = Duration::from_millis(250);
/// Seconds after which the drift is known: the error of two exchanges, spread over so long, does not matter.
const WATCHED: u64 = 8;

/// One question and answer between the head and a worker.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// The head's counter when it asked.
    pub asked: u64,
    /// The worker's counter, in ticks of the guest's rate.
    pub theirs: u64,
    /// The head's counter when the answer had come.
    pub answered: u64,
}

impl Exchange {
    /// Ticks there and back.
    #[must_use]
    pub fn trip(&self) -> u64 {
        self.answered.wrapping_sub(self.asked)
    }

    /// Head's counter minus the worker's, if both ways took equally long.
    #[must_use]
    pub fn distance(&self) -> i64 {
        let middle = self.asked.wrapping_add(self.trip() / 2);
        middle.wrapping_sub(self.theirs) as i64
    }
}

/// What is known of one worker's clock.
#[derive(Clone, Debug)]
struct Clock {
    /// The fastest trip.
    fastest: u64,
    /// Head's counter minus the worker's when they were set, changed by the steps since.
    set: i64,
    /// The worker's guest clock minus the head's, and when that was so (head's counter).
    lead: (i64, u64),
    /// The fastest trip of the rounds that did not count, and their number.
    slower: (u64, u32),
    /// Distance and time (head's counter) of an older exchange, for the rate.
    anchor: (i64, u64),
    /// Ticks that it gains in 2^32; none before it has been watched for a while.
    rate: Option<i64>,
}

impl Clock {
    /// The lead at a later time: a round without a good exchange is no reason to wait.
    fn lead_at(&self, now: u64) -> i64 {
        let passed = now.wrapping_sub(self.lead.1);
        self.lead.0 + ((i128::from(passed) * i128::from(self.rate.unwrap_or(0))) >> 32) as i64
    }
}

/// Follows the drift of all workers.
#[derive(Clone, Debug)]
pub struct Drift {
    clocks: Vec<Clock>,
    ticks_per_second: u64,
}

/// How far everybody steps forward now; zero: stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The head.
    pub head: u64,
    /// The workers, in the order in which they were given.
    pub workers: Vec<u64>,
}

impl Drift {
    /// Starts from the exchanges by which the clocks were set.
    #[must_use]
    pub fn new(set_by: &[Exchange], tsc_khz: u32) -> Self {
        let clock = |exchange: &Exchange| Clock {
            fastest: exchange.trip(),
            set: exchange.distance(),
            lead: (0, exchange.answered),
            slower: (u64::MAX, 0),
            anchor: (exchange.distance(), exchange.answered),
            rate: None,
        };
        Self {
            clocks: set_by.iter().map(clock).collect(),
            ticks_per_second: u64::from(tsc_khz) * 1000,
        }
    }

    /// Takes an exchange with a worker; true if it counts, so that no other is needed in this round.
    pub fn heard(&mut self, worker: usize, exchange: &Exchange) -> bool {
        let clock = &mut self.clocks[worker];
        let trip = exchange.trip();
        if trip > clock.fastest + clock.fastest / 16 {
            clock.slower.0 = clock.slower.0.min(trip);
            return false;
        }
        clock.fastest = clock.fastest.min(trip);
        clock.slower = (u64::MAX, 0);
        let distance = exchange.distance();
        clock.lead = (clock.set.wrapping_sub(distance), exchange.answered);
        let passed = exchange.answered.wrapping_sub(clock.anchor.1);
        if passed >= WATCHED * self.ticks_per_second {
            let gained = clock.anchor.0.wrapping_sub(distance);
            clock.rate = Some(((i128::from(gained) << 32) / i128::from(passed)) as i64);
            if passed >= 8 * WATCHED * self.ticks_per_second {
                clock.anchor = (distance, exchange.answered);
            }
        }
        true
    }

    /// No exchange with a worker counted in this round.
    pub fn missed(&mut self, worker: usize) {
        let clock = &mut self.clocks[worker];
        clock.slower.1 += 1;
        if clock.slower.1 >= PATIENCE && clock.slower.0 != u64::MAX {
            clock.fastest = clock.slower.0;
            clock.slower = (u64::MAX, 0);
        }
    }

    /// The end of a round, at a time of the head's counter: the steps, which are taken as done.
    pub fn steps(&mut self, now: u64) -> Steps {
        let ahead = self
            .clocks
            .iter()
            .map(|clock| clock.lead_at(now))
            .fold(0, i64::max);
        let step = |behind: i64, fastest: u64| {
            let behind = behind.max(0) as u64;
            if behind > fastest / 8 {
                // Small ones: a clock that is far behind catches up over several rounds.
                behind.min(fastest / 4)
            } else {
                0
            }
        };
        let shortest = self.clocks.iter().map(|clock| clock.fastest).min();
        let head = step(ahead, shortest.unwrap_or(0));
        let workers = self
            .clocks
            .iter_mut()
            .map(|clock| {
                let own = step(ahead - clock.lead_at(now), clock.fastest);
                clock.set = clock.set.wrapping_add(own as i64 - head as i64);
                clock.lead.0 += own as i64 - head as i64;
                own
            })
            .collect();
        Steps { head, workers }
    }

    /// How far the clocks are apart as last measured: the worker that leads or trails most, by its place, and the ticks.
    #[must_use]
    pub fn skew(&self) -> Option<(usize, i64)> {
        let leads = self.clocks.iter().map(|clock| clock.lead.0).enumerate();
        leads.max_by_key(|(_, lead)| lead.unsigned_abs())
    }

    /// Some clocks are further apart than the fastest message takes: the guest can see time go back.
    #[must_use]
    pub fn visible(&self) -> bool {
        self.clocks
            .iter()
            .any(|clock| clock.lead.0.unsigned_abs() > clock.fastest / 2)
    }

    /// Ticks a million by which a worker's counter differs from the head's in rate.
    #[must_use]
    pub fn parts_per_million(&self, worker: usize) -> u64 {
        (self.clocks[worker].rate.unwrap_or(0).unsigned_abs() * 1_000_000) >> 32
    }

    /// Time until the next round.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let rates = || self.clocks.iter().map(|clock| clock.rate);
        let Some(rates) = rates().collect::<Option<Vec<_>>>() else {
            return UNKNOWN;
        };
        // The head's own rate is 0.
        let apart = rates.iter().fold(0, |a, b| a.max(*b)) - rates.iter().fold(0, |a, b| a.min(*b));
        let fastest = self.clocks.iter().map(|clock| clock.fastest).min();
        let allowed = u128::from(fastest.unwrap_or(0) / 16) << 32;
        let ticks = allowed / u128::from(apart.unsigned_abs().max(1));
        Duration::try_from_secs_f64(ticks as f64 / self.ticks_per_second.max(1) as f64)
            .unwrap_or(LONGEST)
            .clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u32 = 2_000_000;
    const TICKS: u64 = KHZ as u64 * 1000;
    /// 40 us there and back.
    const TRIP: u64 = 80_000;

    /// A cluster as it really is: counters that run at their own rates, guest clocks made of counters and offsets.
    struct World {
        /// Parts per billion that each worker's counter is faster than the head's.
        rates: Vec<i64>,
        offsets: Vec<u64>,
        head_offset: u64,
        now: u64,
        random: u64,
    }

    impl World {
        fn new(rates: &[i64]) -> Self {
            Self {
                rates: rates.to_vec(),
                offsets: vec![0; rates.len()],
                head_offset: 1u64.wrapping_neg(),
                now: 1 << 40,
                random: 1,
            }
        }

        fn chance(&mut self, below: u64) -> u64 {
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.random >> 33) % below
        }

        fn counter(&self, worker: usize) -> u64 {
            let drift = i128::from(self.now) * i128::from(self.rates[worker]) / 1_000_000_000;
            // Started at another time.
            (self.now + 12_345_678 * (worker as u64 + 1)).wrapping_add(drift as u64)
        }

        /// Both ways take half of the fastest trip, and now and then something more.
        fn exchange(&mut self, worker: usize) -> Exchange {
            let asked = self.now;
            let delay = |world: &mut Self| match world.chance(3) {
                0 => world.chance(TRIP / 20),
                1 => world.chance(TRIP),
                _ => world.chance(20 * TRIP),
            };
            self.now += TRIP / 2 + delay(self);
            let theirs = self.counter(worker);
            self.now += TRIP / 2 + delay(self);
            Exchange {
                asked,
                theirs,
                answered: self.now,
            }
        }

        fn set(&mut self) -> Drift {
            let mut best = Vec::new();
            for worker in 0..self.rates.len() {
                let all: Vec<_> = (0..64).map(|_| self.exchange(worker)).collect();
                let fastest = *all.iter().min_by_key(|exchange| exchange.trip()).unwrap();
                self.offsets[worker] = self.head_offset.wrapping_add(fastest.distance() as u64);
                best.push(fastest);
            }
            Drift::new(&best, KHZ)
        }

        fn round(&mut self, drift: &mut Drift) -> Steps {
            for worker in 0..self.rates.len() {
                let counts = (0..16).any(|_| {
                    let exchange = self.exchange(worker);
                    drift.heard(worker, &exchange)
                });
                if !counts {
                    drift.missed(worker);
                }
            }
            let steps = drift.steps(self.now);
            self.head_offset = self.head_offset.wrapping_add(steps.head);
            for (offset, step) in self.offsets.iter_mut().zip(&steps.workers) {
                *offset = offset.wrapping_add(*step);
            }
            steps
        }

        fn wait(&mut self, time: Duration) {
            self.now += (time.as_secs_f64() * TICKS as f64) as u64;
        }

        /// Greatest difference between any two guest clocks.
        fn skew(&self) -> u64 {
            let clocks =
                (0..self.rates.len()).map(|w| self.counter(w).wrapping_add(self.offsets[w]));
            let head = self.now.wrapping_add(self.head_offset);
            let leads: Vec<i64> = clocks
                .map(|clock| clock.wrapping_sub(head) as i64)
                .chain([0])
                .collect();
            leads
                .iter()
                .max()
                .unwrap()
                .abs_diff(*leads.iter().min().unwrap())
        }
    }

    /// Runs a cluster for so many seconds; the greatest skew after the first ten, and how fast the guest's time ran against
    /// the head's counter, parts per million.
    fn run(rates: &[i64], seconds: u64) -> (u64, f64) {
        let mut world = World::new(rates);
        let mut drift = world.set();
        let (start, offset) = (world.now, world.head_offset);
        let mut worst = 0;
        while world.now < start + seconds * TICKS {
            let pause = drift.pause();
            for _ in 0..4 {
                world.wait(pause / 4);
                if world.now > start + 20 * TICKS {
                    worst = worst.max(world.skew());
                }
            }
            world.round(&mut drift);
        }
        let gained = world.head_offset.wrapping_sub(offset) as f64;
        (worst, gained * 1e6 / (world.now - start) as f64)
    }

    #[test]
    fn drifting_clocks_stay_within_half_the_fastest_message() {
        // Parts per billion.
        for rates in [
            &[20_000][..],
            &[-20_000],
            &[15_000, -10_000],
            &[0, 3_000, -25_000],
        ] {
            let (worst, _) = run(rates, 60);
            assert!(worst <= TRIP / 4, "{rates:?}: {worst} of {}", TRIP / 4);
        }
    }

    #[test]
    fn the_guests_time_runs_as_the_fastest_counter_and_no_faster() {
        for (rates, fastest) in [
            (&[0, 0][..], 0.0),
            (&[-20_000], 0.0),
            (&[20_000, 5_000], 20.0),
        ] {
            let (_, gained) = run(rates, 120);
            assert!((gained - fastest).abs() < 0.5, "{rates:?}: {gained} ppm");
        }
    }

    #[test]
    fn steps_are_small_and_a_late_clock_catches_up() {
        let mut world = World::new(&[0]);
        let mut drift = world.set();
        // As after a pause of the worker's host.
        world.offsets[0] = world.offsets[0].wrapping_sub(5 * TRIP);
        drift.clocks[0].set -= 5 * TRIP as i64;
        let mut rounds = 0;
        while world.skew() > TRIP / 4 {
            let steps = world.round(&mut drift);
            assert!(steps.head == 0 && steps.workers[0] <= TRIP / 4 + TRIP / 32);
            world.wait(SHORTEST);
            rounds += 1;
            assert!(rounds < 200, "{}", world.skew());
        }
        assert!(rounds > 10);
    }

    #[test]
    fn still_clocks_are_left_alone_and_seldom_asked() {
        let mut world = World::new(&[0, 0]);
        let mut drift = world.set();
        let mut stepped = 0;
        for _ in 0..150 {
            world.wait(drift.pause());
            let steps = world.round(&mut drift);
            stepped +=
                u32::from(steps.head > 0) + steps.workers.iter().filter(|s| **s > 0).count() as u32;
        }
        assert_eq!(stepped, 0);
        assert!(
            drift.pause() >= Duration::from_secs(1),
            "{:?}",
            drift.pause()
        );
    }

    #[test]
    fn a_network_that_became_slower_is_believed_after_a_while() {
        let exchange = |trip: u64| Exchange {
            asked: TICKS,
            theirs: TICKS + trip / 2,
            answered: TICKS + trip,
        };
        let mut drift = Drift::new(&[exchange(TRIP)], KHZ);
        for _ in 0..PATIENCE {
            assert!(!drift.heard(0, &exchange(3 * TRIP)));
            drift.missed(0);
        }
        assert!(drift.heard(0, &exchange(3 * TRIP)));
    }

    #[test]
    fn counters_may_wrap() {
        let exchange = Exchange {
            asked: u64::MAX - 10,
            theirs: 5,
            answered: 9,
        };
        assert_eq!((exchange.trip(), exchange.distance()), (20, -6));
    }
}
