//! Frames on a node channel: a fixed header of 16 bytes, little-endian, then the payload.

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 16;
/// Largest payload that a peer may announce; a longer one ends the connection.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Header of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is; numbered by the channel's owner.
    pub kind: u16,
    /// Small operand: a flag word, a vCPU, an errno; meaning by kind.
    pub tag: u16,
    /// Bytes of payload that follow.
    pub len: u32,
    /// Wide operand: a page number, a sequence number; meaning by kind.
    pub arg: u64,
}

impl Header {
    /// The header's bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..2].copy_from_slice(&self.kind.to_le_bytes());
        out[2..4].copy_from_slice(&self.tag.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.arg.to_le_bytes());
        out
    }

    /// Reads a header; `None` if it announces a payload over [`MAX_PAYLOAD`].
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let header = Self {
            kind: u16::from_le_bytes([bytes[0], bytes[1]]),
            tag: u16::from_le_bytes([bytes[2], bytes[3]]),
            len: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            arg: u64::from_le_bytes([
                bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14],
                bytes[15],
            ]),
        };
        (header.len as usize <= MAX_PAYLOAD).then_some(header)
    }

    /// Bytes of payload that a header announces, whether or not they are allowed.
    #[must_use]
    pub fn announced(bytes: &[u8; HEADER_LEN]) -> u32 {
        u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_fixed() {
        let header = Header {
            kind: 0x0201,
            tag: 0x0403,
            len: 0x0008_0605,
            arg: 0x100f_0e0d_0c0b_0a09,
        };
        let bytes = [1, 2, 3, 4, 5, 6, 8, 0, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(&bytes), Some(header));
        assert_eq!(Header::announced(&bytes), 0x0008_0605);
    }

    #[test]
    fn the_limit_is_inclusive() {
        let mut header = Header {
            kind: 0,
            tag: 0,
            len: MAX_PAYLOAD as u32,
            arg: 0,
        };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        header.len += 1;
        assert_eq!(Header::decode(&header.encode()), None);
        assert_eq!(Header::announced(&header.encode()), header.len);
    }
}
