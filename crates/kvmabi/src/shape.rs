//! What a vCPU ioctl's argument looks like, so that it can travel to another node.
//!
//! Most calls carry their size in the number. A few have a flexible array whose length stands in the first word.

use crate::ioctl;

/// The argument of one ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The argument is a number, or there is none.
    Value,
    /// A structure of `len` bytes; `input`: the kernel reads it, `output`: the kernel writes it.
    Fixed {
        /// Bytes.
        len: usize,
        /// Read by the kernel.
        input: bool,
        /// Written by the kernel.
        output: bool,
    },
    /// A header of `header` bytes whose first 32-bit word counts entries of `entry` bytes.
    Counted {
        /// Bytes before the entries.
        header: usize,
        /// Bytes of an entry.
        entry: usize,
        /// Written by the kernel too.
        output: bool,
    },
}

/// Most entries that any counted argument may have (MSRs, CPUID leaves): KVM's own limits are lower.
pub const MAX_ENTRIES: usize = 4096;

/// Numbers (bits 0-7) of vCPU calls that the kernel may follow out of their argument: `KVM_SET_CPUID` of old,
/// `KVM_GET_ONE_REG`, `KVM_SET_ONE_REG`, `KVM_GET_REG_LIST`, `KVM_GET_NESTED_STATE`, `KVM_SET_NESTED_STATE`,
/// `KVM_XEN_VCPU_GET_ATTR`, `KVM_XEN_VCPU_SET_ATTR` (Linux, `Documentation/virt/kvm/api.rst`).
const POINTING: [u32; 8] = [0x8a, 0xab, 0xac, 0xb0, 0xbe, 0xbf, 0xca, 0xcb];

/// Shape of a vCPU ioctl, given the size of the extended state (`KVM_CAP_XSAVE2`, at least 4096).
///
/// `None`: a call that cannot be sent to another node (its argument holds pointers).
#[must_use]
pub fn of_vcpu_call(request: u32, xsave_len: usize) -> Option<Shape> {
    Some(match request {
        ioctl::GET_MSRS => Shape::Counted {
            header: 8,
            entry: 16,
            output: true,
        },
        ioctl::SET_MSRS => Shape::Counted {
            header: 8,
            entry: 16,
            output: false,
        },
        ioctl::SET_CPUID2 => Shape::Counted {
            header: 8,
            entry: 40,
            output: false,
        },
        ioctl::GET_CPUID2 => Shape::Counted {
            header: 8,
            entry: 40,
            output: true,
        },
        ioctl::GET_XSAVE2 => Shape::Fixed {
            len: xsave_len,
            input: false,
            output: true,
        },
        ioctl::SET_XSAVE => Shape::Fixed {
            len: xsave_len,
            input: true,
            output: false,
        },
        ioctl::RUN
        | ioctl::SET_SIGNAL_MASK
        | ioctl::SET_DEVICE_ATTR
        | ioctl::GET_DEVICE_ATTR
        | ioctl::HAS_DEVICE_ATTR => return None,
        // Addresses inside, arrays without end, or a size that the caller says: the worker's memory is not the peer's.
        _ if !ioctl::is_kvm(request) || POINTING.contains(&(request & 0xff)) => return None,
        _ => match (ioctl::direction(request), ioctl::size(request)) {
            (0, _) => Shape::Value,
            (direction, len) => Shape::Fixed {
                len,
                input: direction & 1 != 0,
                output: direction & 2 != 0,
            },
        },
    })
}

/// Why the payload of a vCPU call cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No call that can be sent: the caller may be told so.
    Call,
    /// More entries than any call has.
    Entries(u32),
    /// So many bytes, instead of so many.
    Length(usize, usize),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call => f.write_str("no call of a vCPU that can be sent"),
            Self::Entries(count) => write!(f, "{count} entries; at most {MAX_ENTRIES}"),
            Self::Length(found, expected) => write!(f, "{found} bytes instead of {expected}"),
        }
    }
}

impl std::error::Error for Refused {}

/// Largest argument, in bytes, given the size of the extended state.
#[must_use]
pub fn largest(xsave_len: usize) -> usize {
    (8 + MAX_ENTRIES * 40).max(xsave_len).max(1 << 14)
}

/// Checks what came with a vCPU call; its shape, and the bytes of its argument: at most [`largest`].
///
/// # Errors
/// See [`Refused`].
pub fn check_call(
    request: u32,
    xsave_len: usize,
    payload: &[u8],
) -> Result<(Shape, usize), Refused> {
    let shape = of_vcpu_call(request, xsave_len).ok_or(Refused::Call)?;
    let first = payload
        .first_chunk::<4>()
        .map_or(0, |w| u32::from_le_bytes(*w));
    let len = shape.len(first).ok_or(Refused::Entries(first))?;
    let expected = match shape {
        Shape::Value => 8,
        _ if shape.reads() => len,
        _ => 0,
    };
    if payload.len() != expected {
        return Err(Refused::Length(payload.len(), expected));
    }
    Ok((shape, len))
}

impl Shape {
    /// Bytes of the argument, given its first word (for counted ones); `None` if the count is absurd.
    #[must_use]
    pub fn len(&self, first_word: u32) -> Option<usize> {
        match *self {
            Shape::Value => Some(0),
            Shape::Fixed { len, .. } => Some(len),
            Shape::Counted { header, entry, .. } => {
                let count = first_word as usize;
                (count <= MAX_ENTRIES).then(|| header + count * entry)
            }
        }
    }

    /// The kernel writes into the argument.
    #[must_use]
    pub fn writes_back(&self) -> bool {
        match *self {
            Shape::Value => false,
            Shape::Fixed { output, .. } | Shape::Counted { output, .. } => output,
        }
    }

    /// The kernel reads the argument.
    #[must_use]
    pub fn reads(&self) -> bool {
        match *self {
            Shape::Value => false,
            Shape::Fixed { input, .. } => input,
            Shape::Counted { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_sizes_come_from_the_number() {
        let shape = of_vcpu_call(ioctl::GET_REGS, 4096).unwrap();
        assert_eq!(
            shape,
            Shape::Fixed {
                len: 0x90,
                input: false,
                output: true
            }
        );
        assert_eq!(of_vcpu_call(ioctl::NMI, 4096), Some(Shape::Value));
    }

    #[test]
    fn flexible_arrays_are_measured_and_bounded() {
        let shape = of_vcpu_call(ioctl::SET_MSRS, 4096).unwrap();
        assert_eq!(shape.len(3), Some(8 + 48));
        assert_eq!(shape.len(u32::MAX), None);
        assert!(!shape.writes_back());
        assert_eq!(
            of_vcpu_call(ioctl::GET_XSAVE2, 11008).unwrap().len(0),
            Some(11008)
        );
        assert_eq!(of_vcpu_call(ioctl::SET_SIGNAL_MASK, 4096), None);
    }

    #[test]
    fn calls_that_the_kernel_follows_elsewhere_are_not_sent() {
        // KVM_SET_ONE_REG: an identifier and an address in the caller's memory.
        let set_one_reg = 0x4010_aeac;
        assert_eq!(of_vcpu_call(set_one_reg, 4096), None);
        assert_eq!(check_call(set_one_reg, 4096, &[0; 16]), Err(Refused::Call));
        assert_eq!(check_call(ioctl::RUN, 4096, &[0; 8]), Err(Refused::Call));
        assert_eq!(check_call(0x5401, 4096, &[0; 8]), Err(Refused::Call));
    }

    #[test]
    fn payloads_are_as_long_as_their_call() {
        let msrs = [&2u32.to_le_bytes()[..], &[0; 4 + 32]].concat();
        assert_eq!(check_call(ioctl::SET_MSRS, 4096, &msrs).unwrap().1, 40);
        let bad = check_call(ioctl::SET_MSRS, 4096, &msrs[..39]);
        assert_eq!(bad, Err(Refused::Length(39, 40)));
        let many = check_call(ioctl::SET_MSRS, 4096, &u32::MAX.to_le_bytes());
        assert_eq!(many, Err(Refused::Entries(u32::MAX)));
        assert_eq!(check_call(ioctl::GET_REGS, 4096, &[]).unwrap().1, 0x90);
        assert!(check_call(ioctl::GET_REGS, 4096, &[0; 0x90]).is_err());
        assert!(check_call(ioctl::NMI, 4096, &[0; 8]).is_ok());
    }
}
