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
        ioctl::SET_SIGNAL_MASK
        | ioctl::SET_DEVICE_ATTR
        | ioctl::GET_DEVICE_ATTR
        | ioctl::HAS_DEVICE_ATTR => return None,
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
}
