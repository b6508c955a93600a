//! CPUID: what is taken out of the answer to QEMU, and whether another node covers what the guest was given.
//!
//! Source of the flag positions: Intel SDM volume 2A (CPUID), AMD APM volume 3 appendix E.

use kvm_bindings::kvm_cpuid_entry2;

/// KVM's own feature leaf.
const KVM_FEATURES: u32 = 0x4000_0001;
/// KVM feature bits that stay: only "no delay on port access" (bit 1) has nothing to do with clocks or APICs.
const KVM_FEATURES_KEPT: u32 = 1 << 1;
const TSC_DEADLINE: u32 = 1 << 24;
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;

/// Takes out what a VM over several nodes, with local APICs in user space, cannot offer.
pub fn filter(entries: &mut [kvm_cpuid_entry2]) {
    for entry in entries {
        match entry.function {
            1 => entry.ecx &= !(TSC_DEADLINE | VMX),
            0x8000_0001 => entry.ecx &= !SVM,
            KVM_FEATURES => {
                entry.eax &= KVM_FEATURES_KEPT;
                entry.edx = 0;
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

struct Word {
    leaf: u32,
    subleaf: u32,
    register: Register,
    names: &'static [(u8, &'static str)],
}

/// Feature words that decide whether code compiled for one node runs on the other.
const WORDS: &[Word] = &[
    Word {
        leaf: 1,
        subleaf: 0,
        register: Register::Ecx,
        names: &[
            (0, "sse3"),
            (1, "pclmulqdq"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (19, "sse4.1"),
            (20, "sse4.2"),
            (22, "movbe"),
            (23, "popcnt"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
        ],
    },
    Word {
        leaf: 1,
        subleaf: 0,
        register: Register::Edx,
        names: &[
            (0, "fpu"),
            (4, "tsc"),
            (6, "pae"),
            (8, "cx8"),
            (11, "sep"),
            (15, "cmov"),
            (16, "pat"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
        ],
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Ebx,
        names: &[
            (0, "fsgsbase"),
            (3, "bmi1"),
            (5, "avx2"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (28, "avx512cd"),
            (29, "sha"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Ecx,
        names: &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (3, "pku"),
            (6, "avx512vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512vnni"),
            (12, "avx512bitalg"),
            (14, "avx512-vpopcntdq"),
            (16, "la57"),
            (22, "rdpid"),
        ],
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Edx,
        names: &[
            (4, "fsrm"),
            (22, "amx-bf16"),
            (23, "avx512-fp16"),
            (24, "amx-tile"),
            (25, "amx-int8"),
        ],
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Ecx,
        names: &[
            (0, "lahf-lm"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
        ],
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Edx,
        names: &[
            (11, "syscall"),
            (20, "nx"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm"),
        ],
    },
];

fn word(entries: &[kvm_cpuid_entry2], leaf: u32, subleaf: u32, register: Register) -> u32 {
    entries
        .iter()
        .find(|e| e.function == leaf && e.index == subleaf)
        .map_or(0, |e| match register {
            Register::Ebx => e.ebx,
            Register::Ecx => e.ecx,
            Register::Edx => e.edx,
        })
}

/// Names of the features that the guest was given and this node cannot run, in the order of the CPUID words.
#[must_use]
pub fn missing(given: &[kvm_cpuid_entry2], supported: &[kvm_cpuid_entry2]) -> Vec<&'static str> {
    let mut out = Vec::new();
    for w in WORDS {
        let lacking = word(given, w.leaf, w.subleaf, w.register)
            & !word(supported, w.leaf, w.subleaf, w.register);
        out.extend(
            w.names
                .iter()
                .filter(|(bit, _)| lacking & (1 << bit) != 0)
                .map(|(_, name)| *name),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, ebx: u32, ecx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            ebx,
            ecx,
            ..Default::default()
        }
    }

    #[test]
    fn missing_features_are_named() {
        let given = [entry(1, 0, 1 << 28), entry(7, (1 << 5) | (1 << 3), 0)];
        let supported = [entry(1, 0, 1 << 28), entry(7, 1 << 3, 0)];
        assert_eq!(missing(&given, &supported), ["avx2"]);
        assert!(missing(&given, &given).is_empty());
    }

    #[test]
    fn what_needs_an_in_kernel_apic_is_taken_out() {
        let mut entries = [
            entry(1, 0, TSC_DEADLINE | VMX | 1),
            kvm_cpuid_entry2 {
                function: KVM_FEATURES,
                eax: u32::MAX,
                edx: 1,
                ..Default::default()
            },
        ];
        filter(&mut entries);
        assert_eq!(entries[0].ecx, 1);
        assert_eq!((entries[1].eax, entries[1].edx), (KVM_FEATURES_KEPT, 0));
    }
}
