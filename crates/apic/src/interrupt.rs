//! Interrupt messages: what travels between APICs, I/O APICs and devices.

/// Destination that means "every APIC", physical or logical.
///
/// In xAPIC format broadcast is `0xff`; [`Interrupt::from_msi`] and the ICR turn that into
/// this value, because `0xff` is an ordinary identifier in x2APIC format.
pub const BROADCAST: u32 = u32::MAX;

/// How a message is to be handled (SDM 11.6.1, encodings of ICR bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector, at every destination.
    Fixed = 0,
    /// The vector, at exactly one of the destinations.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Start-up; the vector is a page number.
    StartUp = 6,
    /// The vector comes from the external interrupt controller.
    ExtInt = 7,
}

impl DeliveryMode {
    /// Decodes the three-bit field; `None` for the reserved encoding 3 and values above 7.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

/// Trigger mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Edge.
    Edge,
    /// Level: the end of interrupt is reported to the I/O APIC.
    Level,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The APIC with this identifier, or [`BROADCAST`].
    Physical(u32),
    /// The APICs whose logical identifier matches (SDM 11.6.2.2), or [`BROADCAST`].
    Logical(u32),
    /// The sender.
    SelfOnly,
    /// Every APIC.
    AllIncludingSelf,
    /// Every APIC but the sender.
    AllExcludingSelf,
}

/// One interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interrupt {
    /// Whom it is for.
    pub destination: Destination,
    /// What it is.
    pub mode: DeliveryMode,
    /// Vector; page number for start-up; without meaning for SMI, NMI, INIT, ExtINT.
    pub vector: u8,
    /// Trigger mode.
    pub trigger: Trigger,
    /// Level: asserted. Has no meaning for edges.
    pub assert: bool,
}

const KIND_PHYSICAL: u8 = 0;
const KIND_LOGICAL: u8 = 1;
const KIND_SELF: u8 = 2;
const KIND_ALL: u8 = 3;
const KIND_OTHERS: u8 = 4;
const FLAG_LEVEL: u8 = 1 << 0;
const FLAG_ASSERT: u8 = 1 << 1;

impl Interrupt {
    /// Length of [`Interrupt::encode`]'s result in bytes.
    pub const ENCODED_LEN: usize = 8;

    /// A fixed, edge-triggered interrupt.
    pub const fn fixed(destination: Destination, vector: u8) -> Self {
        Self {
            destination,
            mode: DeliveryMode::Fixed,
            vector,
            trigger: Trigger::Edge,
            assert: true,
        }
    }

    /// Decodes a message-signalled interrupt in xAPIC format (SDM 11.11).
    ///
    /// `None` if the address is not in the interrupt range `0xfee0_0000..=0xfeef_ffff` or the
    /// delivery mode is reserved for MSIs (3 and start-up).
    ///
    /// - The redirection hint turns a fixed interrupt into a lowest-priority one.
    /// - The destination mode bit counts with and without the hint, as on all hardware.
    /// - The result is always asserted: there is no de-assert message that anyone uses, and
    ///   QEMU's I/O APIC sends its level interrupts with data bit 14 (assert) clear.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        let id = (address >> 12) as u8;
        let redirection_hint = address & (1 << 3) != 0;
        let logical = address & (1 << 2) != 0;
        let mode = match DeliveryMode::from_bits((data >> 8) as u8 & 7)? {
            DeliveryMode::StartUp => return None,
            DeliveryMode::Fixed if redirection_hint => DeliveryMode::LowestPriority,
            mode => mode,
        };
        Some(Self {
            destination: Destination::from_xapic(id, logical),
            mode,
            vector: data as u8,
            trigger: Trigger::from_bit(data & (1 << 15) != 0),
            assert: true,
        })
    }

    /// Wire form: kind of destination, delivery mode, vector, flags (bit 0 level, bit 1
    /// assert), then the destination as a little-endian `u32` (zero for shorthands).
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let (kind, id) = match self.destination {
            Destination::Physical(id) => (KIND_PHYSICAL, id),
            Destination::Logical(id) => (KIND_LOGICAL, id),
            Destination::SelfOnly => (KIND_SELF, 0),
            Destination::AllIncludingSelf => (KIND_ALL, 0),
            Destination::AllExcludingSelf => (KIND_OTHERS, 0),
        };
        let mut flags = 0;
        if self.trigger == Trigger::Level {
            flags |= FLAG_LEVEL;
        }
        if self.assert {
            flags |= FLAG_ASSERT;
        }
        let [a, b, c, d] = id.to_le_bytes();
        [kind, self.mode as u8, self.vector, flags, a, b, c, d]
    }

    /// Reads [`Interrupt::encode`]'s form; `None` unless `bytes` is exactly one valid message.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [kind, mode, vector, flags, a, b, c, d] =
            *<&[u8; Self::ENCODED_LEN]>::try_from(bytes).ok()?;
        let id = u32::from_le_bytes([a, b, c, d]);
        let destination = match (kind, id) {
            (KIND_PHYSICAL, id) => Destination::Physical(id),
            (KIND_LOGICAL, id) => Destination::Logical(id),
            (KIND_SELF, 0) => Destination::SelfOnly,
            (KIND_ALL, 0) => Destination::AllIncludingSelf,
            (KIND_OTHERS, 0) => Destination::AllExcludingSelf,
            _ => return None,
        };
        if flags & !(FLAG_LEVEL | FLAG_ASSERT) != 0 {
            return None;
        }
        Some(Self {
            destination,
            mode: DeliveryMode::from_bits(mode)?,
            vector,
            trigger: Trigger::from_bit(flags & FLAG_LEVEL != 0),
            assert: flags & FLAG_ASSERT != 0,
        })
    }
}

impl Trigger {
    pub(crate) const fn from_bit(level: bool) -> Self {
        if level {
            Self::Level
        } else {
            Self::Edge
        }
    }
}

impl Destination {
    /// An eight-bit destination, with its broadcast value widened.
    pub(crate) fn from_xapic(id: u8, logical: bool) -> Self {
        let id = if id == 0xff { BROADCAST } else { u32::from(id) };
        if logical {
            Self::Logical(id)
        } else {
            Self::Physical(id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields_sdm_11_11() {
        let msi = Interrupt::from_msi(0xfee0_3000, 0x0000_4041).unwrap();
        assert_eq!(msi, Interrupt::fixed(Destination::Physical(3), 0x41));
        let msi = Interrupt::from_msi(0xfee0_5004, 0x0000_8131).unwrap();
        assert_eq!(msi.destination, Destination::Logical(5));
        assert_eq!(msi.mode, DeliveryMode::LowestPriority);
        assert_eq!(msi.trigger, Trigger::Level);
        assert!(msi.assert, "level without bit 14 still asserts");
    }

    #[test]
    fn msi_redirection_hint_means_one_target() {
        let hinted = Interrupt::from_msi(0xfee0_300c, 0x41).unwrap();
        assert_eq!(hinted.mode, DeliveryMode::LowestPriority);
        let nmi = Interrupt::from_msi(0xfee0_300c, 0x400).unwrap();
        assert_eq!(nmi.mode, DeliveryMode::Nmi);
    }

    #[test]
    fn msi_broadcast_is_widened() {
        let all = Interrupt::from_msi(0xfeef_f000, 0x41).unwrap();
        assert_eq!(all.destination, Destination::Physical(BROADCAST));
        let all = Interrupt::from_msi(0xfeef_f004, 0x41).unwrap();
        assert_eq!(all.destination, Destination::Logical(BROADCAST));
    }

    #[test]
    fn msi_refuses_what_is_not_one() {
        assert_eq!(Interrupt::from_msi(0xfed0_0000, 0x41), None);
        assert_eq!(Interrupt::from_msi(0x1_fee0_0000, 0x41), None);
        assert_eq!(Interrupt::from_msi(0, 0), None);
        assert_eq!(Interrupt::from_msi(0xfee0_0000, 0x0341), None, "mode 3");
        assert_eq!(Interrupt::from_msi(0xfee0_0000, 0x0641), None, "start-up");
        for mode in [0, 1, 2, 4, 5, 7] {
            assert!(Interrupt::from_msi(0xfee0_0000, mode << 8 | 0x41).is_some());
        }
    }

    #[test]
    fn decode_refuses_what_encode_never_makes() {
        let good = Interrupt::fixed(Destination::SelfOnly, 0x30).encode();
        assert!(Interrupt::decode(&good).is_some());
        assert_eq!(Interrupt::decode(&good[..7]), None);
        assert_eq!(Interrupt::decode(&[&good[..], &[0]].concat()), None);
        for (index, value) in [(0, 5), (1, 3), (1, 8), (3, 4), (4, 1)] {
            let mut bad = good;
            bad[index] = value;
            assert_eq!(Interrupt::decode(&bad), None, "byte {index} = {value}");
        }
    }
}
