//! Which pages leave the pool, and when, as their home decides it.
//!
//! Nobody sees any more who uses a page of the pool, so the home cannot know which of them still bounce. It lets pages
//! leave only while others find no slot, those first whose stay is over, and learns from what follows: a page that comes back
//! soon stays four times as long as the last time. (Twice was measured, too: nearly twice as many pages come and go where
//! too many are equally hot.)

use lev_wire::PageNumber;
use std::collections::{BTreeMap, HashMap};

/// A page that left too early stays so many times as long, so often at most.
const GROWTH: u64 = 4;
/// See [`GROWTH`].
const LONGER: u32 = 5;
/// Pages without a slot that are remembered.
const REFUSED: usize = 4096;
/// Pages that left and are remembered.
const LEFT: usize = 1 << 16;

/// The pages of one home that are in the pool, that would be, and that were. Times are microseconds of one clock.
#[derive(Debug)]
pub struct Stays {
    shortest: u64,
    /// By the time until which they stay: how long that was.
    pooled: BTreeMap<(u64, PageNumber), u64>,
    /// When they left, and how long they had stayed.
    left: HashMap<PageNumber, Left>,
    refused: Refused,
}

/// Pages that found no slot within the last shortest stay, the hot ones counted: a page leaves for each of those, and
/// going through all others every time would take as long as it takes to bring one.
#[derive(Debug, Default)]
struct Refused {
    last: HashMap<PageNumber, u64>,
    /// By the time when they last found none: whether that was the second time within the shortest stay.
    by_time: BTreeMap<(u64, PageNumber), bool>,
    hot: u64,
}

impl Refused {
    fn note(&mut self, page: PageNumber, now: u64, hot: bool) {
        if self.last.len() < REFUSED || self.last.contains_key(&page) {
            self.remove(page);
            self.last.insert(page, now);
            self.by_time.insert((now, page), hot);
            self.hot += u64::from(hot);
        }
    }

    fn remove(&mut self, page: PageNumber) {
        if let Some(at) = self.last.remove(&page) {
            let hot = self.by_time.remove(&(at, page));
            self.hot -= u64::from(hot == Some(true));
        }
    }

    /// Forgets who was refused before that time.
    fn forget(&mut self, before: u64) {
        while let Some((&(_, page), _)) = self
            .by_time
            .first_key_value()
            .filter(|((at, _), _)| *at < before)
        {
            self.remove(page);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Left {
    at: u64,
    stay: u64,
}

impl Left {
    /// Whether a page that comes back now has left too early.
    fn is_recent(self, now: u64) -> bool {
        now.saturating_sub(self.at) <= self.stay
    }
}

impl Stays {
    /// A page stays for `shortest` microseconds the first time.
    #[must_use]
    pub fn new(shortest: u64) -> Self {
        Self {
            shortest: shortest.max(1),
            pooled: BTreeMap::new(),
            left: HashMap::new(),
            refused: Refused::default(),
        }
    }

    /// The page has moved into the pool.
    pub fn promoted(&mut self, page: PageNumber, now: u64) {
        self.refused.remove(page);
        let stay = match self.left.remove(&page) {
            Some(left) if left.is_recent(now) => {
                (GROWTH * left.stay).min(self.shortest * GROWTH.pow(LONGER))
            }
            _ => self.shortest,
        };
        self.pooled.insert((now + stay, page), stay);
    }

    /// The page is to move into the pool, whose slots have all been given out before: whether it may have one that is free
    /// again. It may if it wanted one within the last shortest stay, too: what bounces less often gains nothing from a stay.
    pub fn wants(&mut self, page: PageNumber, now: u64) -> bool {
        let before = self.refused.last.get(&page);
        let hot = before.is_some_and(|at| now.saturating_sub(*at) <= self.shortest);
        self.refused.note(page, now, hot);
        hot
    }

    /// A page that should leave now, if more pages want a slot, and may have one, than the `free` slots. It counts as gone.
    pub fn next(&mut self, free: u64, now: u64) -> Option<PageNumber> {
        self.refused.forget(now.saturating_sub(self.shortest));
        if self.refused.hot <= free {
            return None;
        }
        let ((due, page), stay) = self.pooled.pop_first()?;
        if due > now {
            self.pooled.insert((due, page), stay);
            return None;
        }
        if self.left.len() >= LEFT {
            self.left.retain(|_, left| left.is_recent(now));
        }
        if self.left.len() < LEFT {
            self.left.insert(page, Left { at: now, stay });
        }
        Some(page)
    }

    /// The page that [`Stays::next`] has named cannot leave just now: somebody is about to use it.
    pub fn busy(&mut self, page: PageNumber, now: u64) {
        let stay = self
            .left
            .remove(&page)
            .map_or(self.shortest, |left| left.stay);
        self.pooled.insert((now + self.shortest, page), stay);
    }

    /// Whether a page has found no slot lately, as far as [`Stays::next`] has looked.
    #[must_use]
    pub fn any_refused(&self) -> bool {
        !self.refused.last.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAY: u64 = 100;

    /// The page wants a slot for the second time.
    fn want(stays: &mut Stays, page: u64, now: u64) {
        stays.wants(page, now);
        assert!(stays.wants(page, now) || stays.refused.last.len() == REFUSED);
    }

    /// Pages 1 and 2 in the pool since 0 and 10, page 9 without a slot at `now`.
    fn full(now: u64) -> Stays {
        let mut stays = Stays::new(STAY);
        stays.promoted(1, 0);
        stays.promoted(2, 10);
        want(&mut stays, 9, now);
        stays
    }

    #[test]
    fn pages_leave_in_order_when_their_stay_is_over_and_another_one_waits() {
        let mut stays = full(0);
        assert_eq!(stays.next(0, 99), None);
        assert_eq!(stays.next(0, 100), Some(1));
        assert_eq!(stays.next(1, 110), None); // its slot is free
        stays.promoted(9, 110);
        want(&mut stays, 8, 110);
        assert_eq!(stays.next(0, 120), Some(2));
    }

    #[test]
    fn who_wants_a_slot_now_and_then_gets_none() {
        let mut stays = Stays::new(STAY);
        stays.promoted(1, 0);
        for time in 1..10 {
            assert!(!stays.wants(9, time * (STAY + 1)));
            assert_eq!(stays.next(0, time * (STAY + 1)), None);
        }
        assert!(stays.wants(9, 10 * STAY));
        assert_eq!(stays.next(0, 10 * STAY), Some(1));
    }

    #[test]
    fn who_was_refused_long_ago_waits_no_more() {
        let mut stays = full(0);
        assert!(stays.any_refused());
        assert_eq!(stays.next(0, 101), None);
        assert!(!stays.any_refused());
    }

    #[test]
    fn hot_pages_are_counted_as_they_come_and_go() {
        let (mut stays, mut most) = (Stays::new(STAY), 0);
        for step in 0..2000_u64 {
            let (page, now) = (step * step % 13, step * 9);
            match step % 5 {
                0 => stays.promoted(page, now),
                1 => drop(stays.next(step % 3, now)),
                _ => most = most.max(u64::from(stays.wants(page, now)) * stays.refused.hot),
            }
            let refused = &stays.refused;
            let hot = refused.by_time.values().filter(|hot| **hot).count();
            assert_eq!(
                (refused.hot, refused.last.len()),
                (hot as u64, refused.by_time.len())
            );
        }
        assert!(most > 1);
    }

    #[test]
    fn who_comes_back_soon_stays_longer() {
        let (mut stays, mut now) = (Stays::new(STAY), 0);
        for round in 0..=LONGER + 2 {
            let stay = STAY * GROWTH.pow(round.min(LONGER));
            stays.promoted(1, now);
            want(&mut stays, 9, now + stay);
            assert_eq!(stays.next(0, now + stay - 1), None, "round {round}");
            assert_eq!(stays.next(0, now + stay), Some(1), "round {round}");
            now += 2 * stay; // at the last moment
        }
        now += STAY * GROWTH.pow(LONGER) + 1; // too late
        stays.promoted(1, now);
        want(&mut stays, 9, now + STAY);
        assert_eq!(stays.next(0, now + STAY), Some(1));
    }

    #[test]
    fn a_busy_page_is_asked_again_later() {
        let mut stays = full(100);
        assert_eq!(stays.next(0, 100), Some(1));
        stays.busy(1, 100);
        assert_eq!(stays.next(0, 110), Some(2));
        want(&mut stays, 9, 199);
        assert_eq!(stays.next(0, 199), None);
        assert_eq!(stays.next(0, 200), Some(1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut stays = Stays::new(STAY);
        for page in 0..2 * LEFT as u64 {
            stays.promoted(page, page);
            want(&mut stays, page + 1, page + STAY);
            stays.next(0, page + STAY);
        }
        (0..2 * REFUSED as u64).for_each(|page| want(&mut stays, page, 1 << 40));
        assert!(stays.left.len() <= LEFT && stays.refused.last.len() <= REFUSED);
    }
}
