//! Whether a peer still lives: both sides beat, and each counts its own beats during which it heard nothing.
//!
//! Counting beats instead of reading a clock keeps a node that was itself stopped (a suspended machine, a host that gives a
//! lab machine no time) from blaming its peers for the silence.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Time between two beats.
pub const BEAT: Duration = Duration::from_millis(500);
/// Beats without a word after which a peer is lost: noticed after 4.0 to 4.5 s, which leaves the rest of the promised 5 s
/// for stopping the guest.
const LIMIT: u32 = 8;

/// What one node knows of one peer's life.
#[derive(Debug, Default)]
pub struct Pulse {
    watched: AtomicBool,
    silent_beats: AtomicU32,
}

impl Pulse {
    /// The peer has said something. From the first time on it is expected to go on.
    pub fn heard(&self) {
        self.watched.store(true, Ordering::Relaxed);
        self.silent_beats.store(0, Ordering::Relaxed);
    }

    /// The peer has said something else than its beat, which may not have begun: no reason to expect it to go on.
    pub fn heard_aside(&self) {
        self.silent_beats.store(0, Ordering::Relaxed);
    }

    /// To be called at every beat. The length of the silence, once, if the peer is lost.
    pub fn beat(&self) -> Option<Duration> {
        if !self.watched.load(Ordering::Relaxed) {
            return None;
        }
        let silent = self.silent_beats.fetch_add(1, Ordering::Relaxed);
        (silent == LIMIT).then_some(BEAT * LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_lost_once_and_within_the_promise() {
        let pulse = Pulse::default();
        pulse.heard();
        let beats = (1..).find(|_| pulse.beat().is_some()).unwrap();
        assert!((BEAT * (beats - 1)..=BEAT * beats).contains(&Duration::from_millis(4000)));
        assert!(BEAT * beats < Duration::from_secs(5));
        assert_eq!(pulse.beat(), None);
    }

    #[test]
    fn a_word_starts_the_count_anew() {
        let pulse = Pulse::default();
        for _ in 0..3 * LIMIT {
            pulse.heard();
            assert_eq!(pulse.beat(), None);
        }
    }

    #[test]
    fn any_word_is_a_sign_of_life_and_beats_alone_start_the_watch() {
        let pulse = Pulse::default();
        pulse.heard_aside();
        assert!((0..3 * LIMIT).all(|_| pulse.beat().is_none()));
        pulse.heard();
        assert!((0..3 * LIMIT).all(|_| {
            pulse.heard_aside();
            pulse.beat().is_none()
        }));
    }

    #[test]
    fn a_peer_that_has_not_begun_is_not_watched() {
        let pulse = Pulse::default();
        assert!((0..3 * LIMIT).all(|_| pulse.beat().is_none()));
    }
}
