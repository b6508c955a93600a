//! What members of a region say to each other beside the engine's frames, on the same channels.

/// "My region is so": [`digest`] of its shape in `arg`. The first frame on every channel.
pub(crate) const AGREE: u16 = 0x0E01;
/// "I have come to barrier number `arg`."
pub(crate) const ARRIVED: u16 = 0x0E02;
/// "I shall not touch the region any more."
pub(crate) const GOODBYE: u16 = 0x0E03;

/// A number that is the same only for the same shape (FNV-1a over its words).
pub(crate) fn digest(words: impl IntoIterator<Item = u64>) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    for byte in words.into_iter().flat_map(u64::to_le_bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn order_and_values_matter() {
        assert_ne!(digest([1, 2]), digest([2, 1]));
        assert_ne!(digest([1]), digest([1, 0]));
        assert_eq!(digest([7, 8]), digest([7, 8]));
    }
}
