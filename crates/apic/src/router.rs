//! From a destination to vCPUs.

use crate::interrupt::{DeliveryMode, Destination, Interrupt};
use crate::targets::{Targets, MAX_VCPUS};
use crate::view::ApicView;

/// The views of all local APICs of the machine, on every node.
#[derive(Clone, Debug)]
pub struct Router {
    /// By vCPU number.
    views: Vec<Option<ApicView>>,
    /// By identifier, for identifiers below [`MAX_VCPUS`]; hardware-enabled APICs only.
    owners: Vec<Owner>,
}

/// Which vCPU has an identifier. Guests can give two APICs the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    One(u32),
    Several,
}

impl Router {
    /// Knows no APIC.
    pub fn new() -> Self {
        Self {
            views: Vec::new(),
            owners: vec![Owner::Nobody; MAX_VCPUS],
        }
    }

    /// Learns or replaces the view of a vCPU's APIC. `false`, without any change, if `vcpu`
    /// is not below [`MAX_VCPUS`].
    pub fn set(&mut self, vcpu: u32, view: ApicView) -> bool {
        let index = vcpu as usize;
        if index >= MAX_VCPUS {
            return false;
        }
        if index >= self.views.len() {
            self.views.resize(index + 1, None);
        }
        self.views[index] = Some(view);
        self.index_identifiers();
        true
    }

    /// The view of a vCPU's APIC, if known.
    pub fn view(&self, vcpu: u32) -> Option<&ApicView> {
        self.views.get(vcpu as usize)?.as_ref()
    }

    /// The vCPUs that `interrupt` is for; `source` is the vCPU that sent it, if one did.
    ///
    /// - Hardware-disabled APICs are never among them, except the source itself.
    /// - Software-disabled ones are: they still take INIT, start-up, NMI and SMI, and the
    ///   rest is for [`crate::LocalApic::accept`] to drop, which knows the newest state.
    /// - Lowest priority gives exactly one software-enabled vCPU of those that match, or
    ///   nobody if there is none. Which one depends on the vector and the candidates alone,
    ///   so all nodes agree.
    /// - The combinations of shorthand and mode that SDM table 11-3 calls invalid are
    ///   delivered as they say.
    pub fn resolve(&self, interrupt: &Interrupt, source: Option<u32>) -> Targets {
        let targets = match interrupt.destination {
            Destination::SelfOnly => source.map_or(Targets::none(), Targets::one),
            Destination::AllIncludingSelf => self.select(|_| true),
            Destination::AllExcludingSelf => {
                let mut targets = self.select(|_| true);
                if let Some(source) = source {
                    targets.remove(source);
                }
                targets
            }
            Destination::Physical(id) => self.physical(id),
            Destination::Logical(mda) => self.select(|view| view.matches_logical(mda)),
        };
        if interrupt.mode == DeliveryMode::LowestPriority {
            self.lowest_priority(&targets, interrupt.vector)
        } else {
            targets
        }
    }

    fn physical(&self, id: u32) -> Targets {
        // 0xff is broadcast for some APICs and an identifier for others: look at each.
        match self.owners.get(id as usize) {
            Some(Owner::One(vcpu)) if id != 0xff => Targets::one(*vcpu),
            Some(Owner::Nobody) if id != 0xff => Targets::none(),
            _ => self.select(|view| view.matches_physical(id)),
        }
    }

    fn select(&self, matches: impl Fn(&ApicView) -> bool) -> Targets {
        let mut targets = Targets::none();
        for (vcpu, view) in (0..).zip(&self.views) {
            if view.is_some_and(|view| view.hardware_enabled() && matches(&view)) {
                targets.insert(vcpu);
            }
        }
        targets
    }

    /// SDM 11.6.2.4 leaves the choice among equals to the machine. Task priorities are not
    /// replicated (they change at every interrupt), so vectors are spread instead.
    fn lowest_priority(&self, targets: &Targets, vector: u8) -> Targets {
        let enabled = |vcpu: &u32| self.view(*vcpu).is_some_and(|view| view.software_enabled);
        let count = targets.iter().filter(enabled).count();
        if count == 0 {
            return Targets::none();
        }
        // Guests step through vectors by 1 or by 16: both must reach every candidate.
        let spread = usize::from(vector) + usize::from(vector >> 4);
        targets
            .iter()
            .filter(enabled)
            .nth(spread % count)
            .map_or(Targets::none(), Targets::one)
    }

    fn index_identifiers(&mut self) {
        self.owners.fill(Owner::Nobody);
        for (vcpu, view) in (0..).zip(&self.views) {
            let Some(view) = view.filter(ApicView::hardware_enabled) else {
                continue;
            };
            if let Some(owner) = self.owners.get_mut(view.id as usize) {
                *owner = match owner {
                    Owner::Nobody => Owner::One(vcpu),
                    _ => Owner::Several,
                };
            }
        }
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::{Trigger, BROADCAST};

    fn view(id: u32) -> ApicView {
        ApicView {
            id,
            ldr: 1 << (24 + id % 8),
            dfr: 0xffff_ffff,
            base: 0xfee0_0800,
            software_enabled: true,
            x2apic: false,
        }
    }

    fn router(count: u32) -> Router {
        let mut router = Router::new();
        for vcpu in 0..count {
            assert!(router.set(vcpu, view(vcpu)));
        }
        router
    }

    fn resolve(router: &Router, destination: Destination, source: Option<u32>) -> Vec<u32> {
        let interrupt = Interrupt::fixed(destination, 0x40);
        router.resolve(&interrupt, source).iter().collect()
    }

    #[test]
    fn physical_sdm_11_6_2_1() {
        let router = router(4);
        assert_eq!(resolve(&router, Destination::Physical(2), None), [2]);
        assert_eq!(resolve(&router, Destination::Physical(9), None), []);
        assert_eq!(resolve(&router, Destination::Physical(5000), None), []);
        for broadcast in [0xff, BROADCAST] {
            let all = resolve(&router, Destination::Physical(broadcast), Some(1));
            assert_eq!(all, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn broadcast_is_not_for_the_holder_of_255_alone() {
        let mut router = router(2);
        router.set(1, view(0xff));
        assert_eq!(resolve(&router, Destination::Physical(0xff), None), [0, 1]);
    }

    #[test]
    fn physical_follows_the_identifier_not_the_vcpu() {
        let mut router = router(3);
        router.set(0, view(7));
        assert_eq!(resolve(&router, Destination::Physical(7), None), [0]);
        assert_eq!(resolve(&router, Destination::Physical(0), None), []);
        router.set(2, view(7));
        assert_eq!(resolve(&router, Destination::Physical(7), None), [0, 2]);
    }

    #[test]
    fn logical_sdm_11_6_2_2() {
        let router = router(4);
        assert_eq!(resolve(&router, Destination::Logical(0b1010), None), [1, 3]);
        assert_eq!(resolve(&router, Destination::Logical(0xff), None).len(), 4);
    }

    #[test]
    fn shorthands_sdm_11_6_1() {
        let router = router(3);
        assert_eq!(resolve(&router, Destination::SelfOnly, Some(1)), [1]);
        assert_eq!(resolve(&router, Destination::SelfOnly, None), []);
        assert_eq!(
            resolve(&router, Destination::AllIncludingSelf, Some(1)),
            [0, 1, 2]
        );
        assert_eq!(
            resolve(&router, Destination::AllExcludingSelf, Some(1)),
            [0, 2]
        );
    }

    #[test]
    fn hardware_disabled_hears_nothing_sdm_11_4_3() {
        let mut router = router(3);
        router.set(
            1,
            ApicView {
                base: 0xfee0_0000,
                ..view(1)
            },
        );
        assert_eq!(resolve(&router, Destination::Physical(1), None), []);
        assert_eq!(resolve(&router, Destination::Logical(0b111), None), [0, 2]);
        assert_eq!(
            resolve(&router, Destination::AllIncludingSelf, None),
            [0, 2]
        );
    }

    #[test]
    fn lowest_priority_takes_one_enabled_and_spreads() {
        let mut router = router(4);
        router.set(
            1,
            ApicView {
                software_enabled: false,
                ..view(1)
            },
        );
        for step in [1, 16] {
            let mut hit = Targets::none();
            for vector in (0x20..=0xef).step_by(step) {
                let interrupt = Interrupt {
                    destination: Destination::Logical(0b1111),
                    mode: DeliveryMode::LowestPriority,
                    vector,
                    trigger: Trigger::Edge,
                    assert: true,
                };
                let target = router.resolve(&interrupt, None).single().unwrap();
                hit.insert(target);
            }
            assert_eq!(hit.iter().collect::<Vec<_>>(), [0, 2, 3], "step {step}");
        }
    }

    #[test]
    fn many_vcpus() {
        let mut router = Router::new();
        for vcpu in 0..MAX_VCPUS as u32 {
            let extended = ApicView {
                ldr: vcpu >> 4 << 16 | 1 << (vcpu & 15),
                base: 0xfee0_0c00,
                x2apic: true,
                ..view(vcpu)
            };
            assert!(router.set(vcpu, extended));
        }
        assert!(!router.set(MAX_VCPUS as u32, view(0)));
        assert_eq!(resolve(&router, Destination::Physical(1023), None), [1023]);
        assert_eq!(resolve(&router, Destination::Physical(0xff), None), [255]);
        assert_eq!(
            resolve(&router, Destination::Logical(0x003f_8001), None),
            [1008, 1023]
        );
        assert_eq!(
            resolve(&router, Destination::AllExcludingSelf, Some(3)).len(),
            1023
        );
    }
}
