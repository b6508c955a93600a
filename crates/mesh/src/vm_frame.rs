//! Payloads of control requests that stand for KVM calls on the VM's descriptor: what QEMU's structures say, without
//! their pointers. Each value has exactly one form on the wire; anything else is refused.

use kvm_bindings as k;
use lev_kvmabi::ioctl;

/// Bytes of an encoded memory slot.
pub const SLOT_LEN: usize = 32;
/// MSRs of one range of a filter: the kernel's own limit (`KVM_MSR_FILTER_MAX_BITMAP_SIZE`).
const RANGE_MSRS: u32 = 0x600 * 8;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn wide(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(word(bytes, at)?) | u64::from(word(bytes, at + 4)?) << 32)
}

/// The payload of [`control::SLOT`](crate::message::control::SLOT).
#[must_use]
pub fn encode_slot(region: &k::kvm_userspace_memory_region) -> [u8; SLOT_LEN] {
    let mut bytes = [0; SLOT_LEN];
    bytes[0..4].copy_from_slice(&region.slot.to_le_bytes());
    bytes[4..8].copy_from_slice(&region.flags.to_le_bytes());
    bytes[8..16].copy_from_slice(&region.guest_phys_addr.to_le_bytes());
    bytes[16..24].copy_from_slice(&region.memory_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&region.userspace_addr.to_le_bytes());
    bytes
}

/// Reads [`encode_slot`]'s form. The numbers are the peer's: the kernel and the window of guest memory check them.
#[must_use]
pub fn decode_slot(payload: &[u8]) -> Option<k::kvm_userspace_memory_region> {
    if payload.len() != SLOT_LEN {
        return None;
    }
    Some(k::kvm_userspace_memory_region {
        slot: word(payload, 0)?,
        flags: word(payload, 4)?,
        guest_phys_addr: wide(payload, 8)?,
        memory_size: wide(payload, 16)?,
        userspace_addr: wide(payload, 24)?,
    })
}

/// Bits of a slot's dirty bitmap that shall be cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearDirtyLog {
    /// The slot.
    pub slot: u32,
    /// Pages that the bitmap covers.
    pub pages: u32,
    /// The first of them, counted from the slot's start.
    pub first_page: u64,
    /// A bit for each page, in whole words.
    pub bitmap: Vec<u64>,
}

impl ClearDirtyLog {
    /// The payload of [`control::CLEAR_DIRTY_LOG`](crate::message::control::CLEAR_DIRTY_LOG).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.bitmap.len() * 8);
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(&self.pages.to_le_bytes());
        out.extend_from_slice(&self.first_page.to_le_bytes());
        out.extend(self.bitmap.iter().flat_map(|word| word.to_le_bytes()));
        out
    }

    /// Reads [`ClearDirtyLog::encode`]'s form; `None` unless the bitmap covers the pages exactly.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (_, bits) = payload.split_first_chunk::<16>()?;
        let pages = word(payload, 4)?;
        if bits.len() != (pages as usize).div_ceil(64) * 8 {
            return None;
        }
        Some(Self {
            slot: word(payload, 0)?,
            pages,
            first_page: wide(payload, 8)?,
            bitmap: (0..bits.len() / 8)
                .map(|index| wide(bits, index * 8))
                .collect::<Option<_>>()?,
        })
    }
}

/// A VM ioctl without pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmCall {
    /// The ioctl; one of a few.
    pub request: u32,
    /// Its argument: a number in the first word, or the structure.
    argument: [u64; VmCall::WORDS],
}

impl VmCall {
    const WORDS: usize = 13;
    const ALLOWED: [u32; 4] = [
        ioctl::ENABLE_CAP,
        ioctl::SET_TSS_ADDR,
        ioctl::SET_IDENTITY_MAP_ADDR,
        ioctl::SET_BOOT_CPU_ID,
    ];

    /// Bytes of the argument of `request` on the wire.
    fn len(request: u32) -> usize {
        ioctl::size(request).max(8)
    }

    /// The payload of [`control::VM_CALL`](crate::message::control::VM_CALL).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.request.to_le_bytes().to_vec();
        out.extend(self.argument.iter().flat_map(|word| word.to_le_bytes()));
        out.truncate(4 + Self::len(self.request));
        out
    }

    /// Reads the number and the bytes of the argument; the error is the number of a call that cannot be sent, or 0.
    ///
    /// # Errors
    /// A call that is not one of those without pointers, or an argument of another length than the call's.
    pub fn decode(payload: &[u8]) -> Result<Self, u32> {
        let (number, bytes) = payload.split_first_chunk::<4>().ok_or(0u32)?;
        let request = u32::from_le_bytes(*number);
        if !Self::ALLOWED.contains(&request) || bytes.len() != Self::len(request) {
            return Err(request);
        }
        let mut argument = [0; Self::WORDS];
        for (index, value) in argument.iter_mut().enumerate().take(bytes.len() / 8) {
            *value = wide(bytes, index * 8).ok_or(request)?;
        }
        Ok(Self { request, argument })
    }

    /// What the kernel is given: the number, or where the structure lies. The call must outlive the address.
    #[must_use]
    pub fn argument(&self) -> usize {
        if ioctl::size(self.request) == 0 {
            self.argument[0] as usize
        } else {
            self.argument.as_ptr() as usize
        }
    }
}

// Whole words, and room for the largest.
const _: () = {
    let mut index = 0;
    while index < VmCall::ALLOWED.len() {
        let size = ioctl::size(VmCall::ALLOWED[index]);
        assert!(size % 8 == 0 && size <= VmCall::WORDS * 8);
        index += 1;
    }
};

/// An MSR filter with its bitmaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MsrFilter {
    /// `KVM_MSR_FILTER_…`.
    pub flags: u32,
    /// The kernel's sixteen ranges.
    pub ranges: [MsrRange; 16],
}

const _: () = assert!(k::KVM_MSR_FILTER_MAX_RANGES == 16);

/// Consecutive MSRs and which of them the guest may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MsrRange {
    /// Reads, writes or both.
    pub flags: u32,
    /// MSRs in the range; 0: the range is not used.
    pub count: u32,
    /// The first one.
    pub base: u32,
    /// A bit for each, in whole bytes.
    pub bits: Vec<u8>,
}

impl MsrFilter {
    /// The payload of [`control::MSR_FILTER`](crate::message::control::MSR_FILTER): the flags, three words a range, all
    /// bitmaps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.flags.to_le_bytes().to_vec();
        for range in &self.ranges {
            for value in [range.flags, range.count, range.base] {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.ranges
            .iter()
            .for_each(|range| out.extend_from_slice(&range.bits));
        out
    }

    /// Reads [`MsrFilter::encode`]'s form; `None` unless the bitmaps are exactly as long as the ranges.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut filter = Self {
            flags: word(payload, 0)?,
            ..Self::default()
        };
        let mut bitmaps = payload.get(4 + filter.ranges.len() * 12..)?;
        for (index, range) in filter.ranges.iter_mut().enumerate() {
            let at = 4 + index * 12;
            range.flags = word(payload, at)?;
            range.count = word(payload, at + 4)?;
            range.base = word(payload, at + 8)?;
            if range.count > RANGE_MSRS {
                return None;
            }
            let (bits, rest) = bitmaps.split_at_checked((range.count as usize).div_ceil(8))?;
            range.bits = bits.to_vec();
            bitmaps = rest;
        }
        bitmaps.is_empty().then_some(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_survives() {
        let slot = k::kvm_userspace_memory_region {
            slot: 3,
            flags: 1,
            guest_phys_addr: 1 << 32,
            memory_size: 1 << 20,
            userspace_addr: 0x7f00_0000_0000,
        };
        assert_eq!(decode_slot(&encode_slot(&slot)), Some(slot));
        assert_eq!(decode_slot(&encode_slot(&slot)[1..]), None);
        let clear = ClearDirtyLog {
            slot: 1,
            pages: 65,
            first_page: 1 << 33,
            bitmap: vec![1, 2],
        };
        assert_eq!(ClearDirtyLog::decode(&clear.encode()), Some(clear.clone()));
        assert_eq!(ClearDirtyLog::decode(&clear.encode()[..24]), None);
        let mut filter = MsrFilter::default();
        filter.ranges[2] = MsrRange {
            flags: 3,
            count: 9,
            base: 0xc000_0080,
            bits: vec![0xff, 1],
        };
        assert_eq!(MsrFilter::decode(&filter.encode()), Some(filter.clone()));
        assert_eq!(
            MsrFilter::decode(&[filter.encode(), vec![0]].concat()),
            None
        );
    }

    #[test]
    fn calls_with_pointers_are_refused() {
        for (request, len) in [(ioctl::ENABLE_CAP, 104), (ioctl::SET_TSS_ADDR, 8)] {
            let payload = [&request.to_le_bytes()[..], &vec![7; len]].concat();
            let call = VmCall::decode(&payload).unwrap();
            assert_eq!(call.encode(), payload);
            assert_eq!(VmCall::decode(&payload[..payload.len() - 1]), Err(request));
        }
        let payload = [&ioctl::X86_SET_MSR_FILTER.to_le_bytes()[..], &[0; 392]].concat();
        assert_eq!(VmCall::decode(&payload), Err(ioctl::X86_SET_MSR_FILTER));
        assert_eq!(VmCall::decode(&[1]), Err(0));
    }
}
