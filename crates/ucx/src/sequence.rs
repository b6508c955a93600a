//! Frames of one peer, put in order. UCX promises order for some ways to send and not for others (several lanes, several
//! fragments); the engine relies on it.

use crate::UcxError;
use std::collections::BTreeMap;

/// Most bytes of frames that wait for an earlier one.
const EARLY_LIMIT: usize = 64 << 20;

/// The frames of one peer.
pub(crate) struct Sequence<T> {
    next: u64,
    early: BTreeMap<u64, (usize, T)>,
    early_bytes: usize,
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Self {
            next: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
        }
    }
}

impl<T> Sequence<T> {
    /// Frame `number` of `bytes` bytes has come: gives to `ready` what may be handled now, in order.
    ///
    /// # Errors
    /// It has come before; more is early than is believed.
    pub(crate) fn put(
        &mut self,
        number: u64,
        bytes: usize,
        frame: T,
        mut ready: impl FnMut(T),
    ) -> Result<(), UcxError> {
        if number < self.next || self.early.contains_key(&number) {
            let text = format!("frame {number} came twice, {} is next", self.next);
            return Err(UcxError::Frames(text));
        }
        if number > self.next {
            self.early_bytes += bytes;
            if self.early_bytes > EARLY_LIMIT {
                let (early, next) = (self.early_bytes, self.next);
                let text = format!("{early} bytes of frames are here, but not frame {next}");
                return Err(UcxError::Frames(text));
            }
            self.early.insert(number, (bytes, frame));
            return Ok(());
        }
        ready(frame);
        self.next += 1;
        while let Some((bytes, frame)) = self.early.remove(&self.next) {
            self.early_bytes -= bytes;
            self.next += 1;
            ready(frame);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_that_comes_twice_is_an_error() {
        let mut sequence = Sequence::default();
        sequence.put(0, 1, (), |()| {}).unwrap();
        sequence.put(2, 1, (), |()| {}).unwrap();
        for number in [0, 2] {
            let error = sequence
                .put(number, 1, (), |()| {})
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("frame {number} came twice")),
                "{error}"
            );
        }
    }

    #[test]
    fn nobody_makes_us_keep_frames_without_end() {
        let mut sequence = Sequence::default();
        for number in 1..=64 {
            sequence.put(number, 1 << 20, (), |()| {}).unwrap();
        }
        assert!(sequence.put(65, 1, (), |()| {}).is_err());
        let mut sequence = Sequence::default();
        for round in 0..100 {
            sequence.put(round * 2 + 1, 1 << 20, (), |()| {}).unwrap();
            sequence.put(round * 2, 1 << 20, (), |()| {}).unwrap();
        }
    }

    proptest! {
        #[test]
        fn any_order_becomes_the_right_one(order in Just((0..60u64).collect::<Vec<_>>()).prop_shuffle()) {
            let (mut sequence, mut seen) = (Sequence::default(), Vec::new());
            for number in order {
                sequence.put(number, 1, number, |frame| seen.push(frame)).unwrap();
            }
            prop_assert!(seen.into_iter().eq(0..60));
        }
    }
}
