//! What other nodes must know of one local APIC.

use crate::base::{BASE_ENABLE, BASE_EXTENDED};
use crate::interrupt::BROADCAST;

/// The replicated state of one local APIC: enough to resolve any destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicView {
    /// Identifier: 8 bits in xAPIC mode, 32 in x2APIC mode.
    pub id: u32,
    /// Logical destination register as read: identifier in bits 31:24 (xAPIC), or cluster in
    /// bits 31:16 and member mask in bits 15:0 (x2APIC).
    pub ldr: u32,
    /// Destination format register; bits 31:28 are the model. Unused in x2APIC mode.
    pub dfr: u32,
    /// IA32_APIC_BASE.
    pub base: u64,
    /// Enable bit of the spurious vector register.
    pub software_enabled: bool,
    /// In x2APIC mode.
    pub x2apic: bool,
}

const FLAG_SOFTWARE_ENABLED: u8 = 1 << 0;
const FLAG_X2APIC: u8 = 1 << 1;

impl ApicView {
    /// Length of [`ApicView::encode`]'s result in bytes.
    pub const ENCODED_LEN: usize = 21;

    /// IA32_APIC_BASE.EN is set: messages reach this APIC.
    pub const fn hardware_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// This APIC answers to the physical destination `id` (SDM 11.6.2.1, 11.12.9).
    pub const fn matches_physical(&self, id: u32) -> bool {
        id == self.id || id == BROADCAST || (!self.x2apic && id == 0xff)
    }

    /// This APIC answers to the message destination address `mda` (SDM 11.6.2.2, 11.12.10).
    pub const fn matches_logical(&self, mda: u32) -> bool {
        if mda == BROADCAST {
            return true;
        }
        if self.x2apic {
            return mda >> 16 == self.ldr >> 16 && mda & self.ldr & 0xffff != 0;
        }
        if mda > 0xff {
            return false;
        }
        let logical_id = self.ldr >> 24;
        match self.dfr >> 28 {
            _ if mda == 0xff => true,
            0xf => mda & logical_id != 0,
            0x0 => mda >> 4 == logical_id >> 4 && mda & logical_id & 0xf != 0,
            // Models between flat and cluster do not exist.
            _ => false,
        }
    }

    /// Wire form, little-endian: id, ldr, dfr, base, flags (bit 0 software-enabled, bit 1
    /// x2APIC).
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let mut bytes = [0; Self::ENCODED_LEN];
        bytes[0..4].copy_from_slice(&self.id.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.ldr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.dfr.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.base.to_le_bytes());
        if self.software_enabled {
            bytes[20] |= FLAG_SOFTWARE_ENABLED;
        }
        if self.x2apic {
            bytes[20] |= FLAG_X2APIC;
        }
        bytes
    }

    /// Reads [`ApicView::encode`]'s form; `None` unless `bytes` is exactly one view whose
    /// x2APIC flag agrees with its base register.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::ENCODED_LEN] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let field = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(field))
        };
        let flags = bytes[20];
        if flags & !(FLAG_SOFTWARE_ENABLED | FLAG_X2APIC) != 0 {
            return None;
        }
        let view = Self {
            id: word(0)?,
            ldr: word(4)?,
            dfr: word(8)?,
            base: u64::from(word(12)?) | u64::from(word(16)?) << 32,
            software_enabled: flags & FLAG_SOFTWARE_ENABLED != 0,
            x2apic: flags & FLAG_X2APIC != 0,
        };
        let extended = BASE_ENABLE | BASE_EXTENDED;
        (view.x2apic == (view.base & extended == extended)).then_some(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ldr: u8, dfr: u32) -> ApicView {
        ApicView {
            id: 1,
            ldr: u32::from(ldr) << 24,
            dfr,
            base: 0xfee0_0800,
            software_enabled: true,
            x2apic: false,
        }
    }

    #[test]
    fn flat_model_sdm_11_6_2_2() {
        let apic = view(0b0010, 0xffff_ffff);
        assert!(apic.matches_logical(0b0010));
        assert!(apic.matches_logical(0b0110));
        assert!(!apic.matches_logical(0b0101));
        assert!(!view(0, 0xffff_ffff).matches_logical(0x7f));
        assert!(view(0, 0xffff_ffff).matches_logical(0xff));
    }

    #[test]
    fn cluster_model_sdm_11_6_2_2() {
        let apic = view(0x21, 0x0fff_ffff);
        assert!(apic.matches_logical(0x21));
        assert!(apic.matches_logical(0x2f));
        assert!(!apic.matches_logical(0x22), "other member");
        assert!(!apic.matches_logical(0x31), "other cluster");
        assert!(apic.matches_logical(0xff));
        assert!(
            !view(0x21, 0x5fff_ffff).matches_logical(0x21),
            "no such model"
        );
    }

    #[test]
    fn x2apic_logical_sdm_11_12_10() {
        let apic = ApicView {
            id: 0x25,
            ldr: 0x0002_0020,
            base: 0xfee0_0c00,
            x2apic: true,
            ..view(0, 0xffff_ffff)
        };
        assert!(apic.matches_logical(0x0002_0020));
        assert!(apic.matches_logical(0x0002_ffff));
        assert!(!apic.matches_logical(0x0001_0020));
        assert!(!apic.matches_logical(0x0002_0010));
        assert!(apic.matches_logical(BROADCAST));
        assert!(!apic.matches_physical(0xff), "an ordinary identifier here");
    }

    #[test]
    fn decode_refuses_contradictions() {
        let good = view(1, 0xffff_ffff).encode();
        assert!(ApicView::decode(&good).is_some());
        assert_eq!(ApicView::decode(&good[1..]), None);
        let mut bad = good;
        bad[20] |= FLAG_X2APIC;
        assert_eq!(ApicView::decode(&bad), None, "x2APIC without the base bit");
        bad[20] = 4;
        assert_eq!(ApicView::decode(&bad), None, "unknown flag");
    }
}
