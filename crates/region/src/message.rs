//! What members of a region say to each other beside the engine's frames, on the same channels.

/// "My region is so": [`digest`] of its shape in `arg`. The first frame on every channel.
pub(crate) const AGREE: u16 = 0x0E01;
/// "I have come to barrier number `arg`."
pub(crate) const ARRIVED: u16 = 0x0E02;
/// "I shall not touch the region any more."
pub(crate) const GOODBYE: u16 = 0x0E03;

/// "Node `arg` is lost, and so is the region": why, as text. The last frame on a channel, so that nobody takes the end of this
/// node's channels for the cause.
pub(crate) const LOST: u16 = 0x0E04;

/// "This is how I am reached over UCX", for one peer alone: what `lev_ucx::Link::introduction` gives. Before [`AGREE`], so that
/// whoever has agreed can be sent frames.
pub(crate) const INTRODUCTION: u16 = 0x0E05;

/// Longest reason that is told and believed, bytes.
const REASON: usize = 256;

/// A reason as it is told.
pub(crate) fn reason(why: &str) -> &[u8] {
    &why.as_bytes()[..why.len().min(REASON)]
}

/// A reason as it came from a peer: one short line of text, whatever it sent.
pub(crate) fn read_reason(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REASON)]);
    text.chars().filter(|char| !char.is_control()).collect()
}

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
    use super::{digest, read_reason, reason, REASON};

    #[test]
    fn order_and_values_matter() {
        assert_ne!(digest([1, 2]), digest([2, 1]));
        assert_ne!(digest([1]), digest([1, 0]));
        assert_eq!(digest([7, 8]), digest([7, 8]));
    }

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(read_reason(reason("cut off")), "cut off");
        let long = "ä".repeat(REASON);
        let text = read_reason(reason(&long));
        assert!(text.starts_with("ää") && text.chars().count() <= REASON);
        assert_eq!(read_reason(b"a\x1b[2J\nb\xff"), "a[2Jb\u{fffd}");
    }
}
