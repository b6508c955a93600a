//! Invariants over random histories, against straightforward oracles.

use lev_apic::{
    ApicView, DeliveryMode, Destination, Effects, Interrupt, LocalApic, Router, Trigger, BROADCAST,
    MIN_PERIOD_NS,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The priority rules of SDM 11.8 on plain sets.
#[derive(Default)]
struct Oracle {
    requested: BTreeSet<u8>,
    in_service: BTreeSet<u8>,
    level: BTreeSet<u8>,
    task: u8,
    enabled: bool,
}

impl Oracle {
    /// SDM 11.8.3.1: each half of the PPR on its own, as the manual has it.
    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.last().map_or(0, |vector| vector / 16);
        let class = in_service.max(self.task / 16);
        let sub_class = if self.task / 16 >= in_service {
            self.task % 16
        } else {
            0
        };
        class * 16 + sub_class
    }

    fn next(&self) -> Option<u8> {
        let highest = *self.requested.last()?;
        (self.enabled && highest / 16 > self.processor_priority() / 16).then_some(highest)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u8, bool),
    Acknowledge,
    AcknowledgeAndUndo,
    EndOfInterrupt,
    SetTaskPriority(u8),
    SetCr8(u8),
    Enable(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Step::Accept(vector, level)),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::AcknowledgeAndUndo),
        3 => Just(Step::EndOfInterrupt),
        1 => (0..0x90u8).prop_map(Step::SetTaskPriority),
        1 => (0..9u8).prop_map(Step::SetCr8),
        1 => prop::bool::weighted(0.8).prop_map(Step::Enable),
    ]
}

fn message(vector: u8, level: bool) -> Interrupt {
    let mut interrupt = Interrupt::fixed(Destination::Physical(0), vector);
    if level {
        interrupt.trigger = Trigger::Level;
    }
    interrupt
}

fn apply(apic: &mut LocalApic, oracle: &mut Oracle, step: Step) {
    match step {
        Step::Accept(vector, level) => {
            apic.accept(&message(vector, level));
            if oracle.enabled && vector >= 16 {
                oracle.requested.insert(vector);
                oracle.level.remove(&vector);
                if level {
                    oracle.level.insert(vector);
                }
            }
        }
        Step::Acknowledge => {
            let vector = oracle.next();
            assert_eq!(apic.acknowledge(), vector);
            if let Some(vector) = vector {
                let class = oracle.in_service.last().map(|highest| highest / 16);
                assert!(class < Some(vector / 16), "classes in service only grow");
                oracle.requested.remove(&vector);
                oracle.in_service.insert(vector);
            }
        }
        Step::AcknowledgeAndUndo => {
            let before = apic.clone();
            if let Some(vector) = apic.acknowledge() {
                apic.unacknowledge(vector);
            }
            assert_eq!(*apic, before);
        }
        Step::EndOfInterrupt => {
            let eoi = apic.write(0xb0, 0, 0).eoi;
            let vector = oracle.in_service.pop_last();
            assert_eq!(eoi.map(|eoi| eoi.vector), vector);
            if let Some(eoi) = eoi {
                assert_eq!(eoi.level, oracle.level.contains(&eoi.vector));
            }
        }
        Step::SetTaskPriority(value) => {
            apic.write(0x80, u32::from(value), 0);
            oracle.task = value;
        }
        Step::SetCr8(value) => {
            apic.set_cr8(value);
            oracle.task = value * 16;
        }
        Step::Enable(enabled) => {
            apic.write(0xf0, if enabled { 0x1ff } else { 0xff }, 0);
            oracle.enabled = enabled;
        }
    }
}

fn vectors(apic: &mut LocalApic, first: u32) -> BTreeSet<u8> {
    (0..=255)
        .filter(|vector| apic.read(first + (vector >> 5) * 16, 0) & 1 << (vector & 31) != 0)
        .map(|vector| vector as u8)
        .collect()
}

/// An arbitrary access to the register page at an arbitrary step in time.
fn access() -> impl Strategy<Value = (u32, u32, u64)> {
    let registers: Vec<u32> = (0..0x400).step_by(16).collect();
    (
        prop::sample::select(registers),
        any::<u32>(),
        0..2_000_000_u64,
    )
}

fn view(x2apic: bool) -> impl Strategy<Value = ApicView> {
    let dfr = prop::sample::select(vec![0x0fff_ffff, u32::MAX]);
    (0..40u32, any::<u8>(), dfr, 0..8u8, any::<bool>()).prop_map(
        move |(id, logical, dfr, enabled, software_enabled)| ApicView {
            id,
            ldr: if x2apic {
                id >> 4 << 16 | 1 << (id & 15)
            } else {
                u32::from(logical) << 24
            },
            dfr,
            base: match (enabled, x2apic) {
                (0, _) => 0xfee0_0000,
                (_, true) => 0xfee0_0c00,
                (_, false) => 0xfee0_0800,
            },
            software_enabled,
            x2apic: x2apic && enabled != 0,
        },
    )
}

fn views() -> impl Strategy<Value = Vec<ApicView>> {
    any::<bool>().prop_flat_map(|x2apic| prop::collection::vec(view(x2apic), 1..40))
}

fn destination() -> impl Strategy<Value = Destination> {
    let id = || prop_oneof![4 => 0..256u32, 1 => Just(BROADCAST), 1 => 0..0x4_0000u32, 1 => any::<u32>()];
    prop_oneof![
        4 => id().prop_map(Destination::Physical),
        4 => id().prop_map(Destination::Logical),
        1 => Just(Destination::SelfOnly),
        1 => Just(Destination::AllIncludingSelf),
        1 => Just(Destination::AllExcludingSelf),
    ]
}

fn interrupt() -> impl Strategy<Value = Interrupt> {
    let modes = (0..8)
        .filter_map(DeliveryMode::from_bits)
        .collect::<Vec<_>>();
    let mode = prop::sample::select(modes);
    (
        destination(),
        mode,
        any::<u8>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(destination, mode, vector, level, assert)| Interrupt {
            destination,
            mode,
            vector,
            trigger: if level { Trigger::Level } else { Trigger::Edge },
            assert,
        })
}

/// Who hears `destination`, by the manual's words, one APIC at a time (SDM 11.6.2).
fn hears(view: &ApicView, vcpu: u32, destination: Destination, source: u32) -> bool {
    if destination == Destination::SelfOnly {
        return vcpu == source;
    }
    if view.base & 0x800 == 0 {
        return false;
    }
    match destination {
        Destination::SelfOnly | Destination::AllIncludingSelf => true,
        Destination::AllExcludingSelf => vcpu != source,
        Destination::Physical(BROADCAST) | Destination::Logical(BROADCAST) => true,
        Destination::Physical(id) => id == view.id || !view.x2apic && id == 255,
        Destination::Logical(id) if view.x2apic => {
            let (cluster, member) = (view.id / 16, view.id % 16);
            id >> 16 == cluster && id >> member & 1 == 1
        }
        Destination::Logical(id @ 0..=255) => {
            let logical = view.ldr >> 24;
            let flat = view.dfr == u32::MAX;
            let bits = if flat { 0..8 } else { 0..4 };
            let same_cluster = flat || id / 16 == logical / 16;
            id == 255
                || same_cluster
                    && bits
                        .into_iter()
                        .any(|bit| id >> bit & logical >> bit & 1 == 1)
        }
        Destination::Logical(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn priorities_follow_the_oracle(steps in prop::collection::vec(step(), 0..120)) {
        let mut apic = LocalApic::new(0, false);
        let mut oracle = Oracle::default();
        apply(&mut apic, &mut oracle, Step::Enable(true));
        for step in steps {
            apply(&mut apic, &mut oracle, step);
            prop_assert_eq!(apic.processor_priority(), oracle.processor_priority());
            prop_assert_eq!(apic.next_interrupt(), oracle.next());
            prop_assert_eq!(vectors(&mut apic, 0x100), oracle.in_service.clone());
            prop_assert_eq!(vectors(&mut apic, 0x180), oracle.level.clone());
            prop_assert_eq!(vectors(&mut apic, 0x200), oracle.requested.clone());
        }
    }

    #[test]
    fn service_leaves_no_trace(steps in prop::collection::vec(step(), 0..60), vector in 16..=255u8) {
        let mut apic = LocalApic::new(0, false);
        let mut oracle = Oracle::default();
        apply(&mut apic, &mut oracle, Step::Enable(true));
        steps.into_iter().for_each(|step| apply(&mut apic, &mut oracle, step));
        // Edge-triggered, and not there before: the TMR bit may differ for a stale vector.
        prop_assume!(!oracle.requested.contains(&vector) && !oracle.level.contains(&vector));
        let before = apic.clone();
        apic.accept(&message(vector, false));
        if apic.next_interrupt() == Some(vector) {
            apic.acknowledge();
            let eoi = apic.write(0xb0, 0, 0).eoi;
            prop_assert_eq!(eoi.map(|eoi| eoi.vector), Some(vector));
            prop_assert_eq!(apic, before);
        }
    }

    #[test]
    fn any_history_keeps_the_registers_legal(
        bootstrap: bool,
        accesses in prop::collection::vec(access(), 0..80),
        interrupts in prop::collection::vec(interrupt(), 80),
    ) {
        let mut apic = LocalApic::new(1, bootstrap);
        let mut now = 0;
        for ((offset, value, pause), interrupt) in accesses.into_iter().zip(interrupts) {
            now += pause;
            let before = apic.clone();
            let effects = apic.write(offset, value, now);
            prop_assert_eq!(effects.view_changed, before.view() != apic.view());
            prop_assert_eq!(effects.timer_changed, before.timer_deadline() != apic.timer_deadline());
            prop_assert_eq!(effects.self_pending, apic.next_interrupt().is_some());
            prop_assert!(apic.timer_deadline().is_none_or(|deadline| deadline > now));
            prop_assert!(apic.read(0x390, now) <= apic.read(0x380, now));
            prop_assert_eq!(apic.read(0x300, now) & 0xfff3_3000, 0);
            apic.accept(&interrupt);
            apic.acknowledge();
            for first in [0x100, 0x200] {
                prop_assert_eq!(apic.read(first, now) & 0xffff, 0, "illegal vectors");
            }
            if !apic.view().software_enabled && apic.read(0xf0, now) != 0xff {
                let open = (0x320..=0x370).step_by(16).find(|lvt| apic.read(*lvt, now) & 1 << 16 == 0);
                prop_assert!(open.is_none() || bootstrap && open == Some(0x350));
            }
        }
    }

    #[test]
    fn msrs_take_anything(writes in prop::collection::vec((0x7f0..0x910u32, any::<u64>(), 0..64u32), 0..100)) {
        let mut apic = LocalApic::new(1, false);
        apic.offer_x2apic(true);
        apic.set_base(0xfee0_0c00);
        for (now, (msr, value, shift)) in (0..).zip(writes) {
            let before = apic.clone();
            let effects = apic.write_msr(msr, value >> shift, now);
            prop_assert!(effects.is_some() || apic == before);
            apic.read_msr(msr, now);
        }
    }

    #[test]
    fn resolution_follows_the_oracle(views in views(), interrupt in interrupt(), source in 0..40u32) {
        let mut router = Router::new();
        for (vcpu, view) in (0..).zip(&views) {
            router.set(vcpu, *view);
        }
        let source = source % views.len() as u32;
        let heard = (0..).zip(&views).filter(|(vcpu, view)| {
            hears(view, *vcpu, interrupt.destination, source)
        });
        let targets = router.resolve(&interrupt, Some(source));
        if interrupt.mode == DeliveryMode::LowestPriority {
            let able: Vec<u32> = heard
                .filter(|(_, view)| view.software_enabled)
                .map(|(vcpu, _)| vcpu)
                .collect();
            prop_assert_eq!(targets.len(), usize::from(!able.is_empty()));
            prop_assert!(targets.iter().all(|vcpu| able.contains(&vcpu)));
            prop_assert_eq!(targets, router.clone().resolve(&interrupt, Some(source)));
        } else {
            let heard: Vec<u32> = heard.map(|(vcpu, _)| vcpu).collect();
            prop_assert_eq!(targets.iter().collect::<Vec<_>>(), heard);
        }
    }

    #[test]
    fn interrupts_survive_the_wire(interrupt in interrupt()) {
        prop_assert_eq!(Interrupt::decode(&interrupt.encode()), Some(interrupt));
    }

    #[test]
    fn views_survive_the_wire(x in view(false), y in view(true)) {
        prop_assert_eq!(ApicView::decode(&x.encode()), Some(x));
        prop_assert_eq!(ApicView::decode(&y.encode()), Some(y));
    }

    #[test]
    fn decoding_is_exact(bytes in prop::collection::vec(prop_oneof![0..10u8, any::<u8>()], 0..24)) {
        if let Some(interrupt) = Interrupt::decode(&bytes) {
            prop_assert_eq!(interrupt.encode().to_vec(), bytes.clone());
        }
        if let Some(view) = ApicView::decode(&bytes) {
            prop_assert_eq!(view.encode().to_vec(), bytes);
        }
    }

    #[test]
    fn any_msi_is_decoded_or_refused(address: u64, data: u32) {
        Interrupt::from_msi(address, data);
        let msi = Interrupt::from_msi(0xfee0_0000 | address & 0xf_ffff, data);
        prop_assert_eq!(msi.is_none(), matches!(data >> 8 & 7, 3 | 6));
    }

    #[test]
    fn a_saved_apic_comes_back(
        accesses in prop::collection::vec(access(), 0..60),
        vectors in prop::collection::vec((any::<u8>(), any::<bool>()), 60),
        pause in 0..5_000_000_u64,
    ) {
        let mut apic = LocalApic::new(3, false);
        apic.write(0xf0, 0x1ff, 0);
        let mut now = 0;
        for ((offset, value, pause), (vector, level)) in accesses.into_iter().zip(vectors) {
            now += pause;
            apic.write(offset, value, now);
            apic.accept(&message(vector, level));
            apic.acknowledge();
        }
        now += pause;
        apic.timer_poll(now);
        let page = apic.save(now);
        let mut copy = LocalApic::new(3, false);
        copy.load(&page, now);
        let (initial, periodic) = (apic.read(0x380, now), apic.read(0x320, now) & 1 << 17 != 0);
        // An expired one-shot timer that became periodic stands still, but runs once loaded, as
        // in KVM: nothing in the page tells it from a timer whose count was not saved.
        let revived = apic.timer_deadline().is_none() && periodic && initial != 0;
        let mut saved = copy.save(now);
        if revived {
            prop_assert_eq!(copy.read(0x390, now), initial);
            saved[0x390..0x394].fill(0);
        }
        prop_assert!(saved == page);
        prop_assert_eq!(copy.next_interrupt(), apic.next_interrupt());
        if !revived {
            prop_assert_eq!(copy.view(), apic.view());
        }
        match (apic.timer_deadline(), copy.timer_deadline()) {
            (None, deadline) if revived => prop_assert!(deadline.is_some()),
            // A one-shot timer that has expired expires once more: see `LocalApic::load`.
            (None, deadline) => prop_assert!(deadline.is_none_or(|at| at == now)),
            (Some(at), Some(deadline)) => {
                let coalesced = at > now + 128 * u64::from(initial);
                prop_assert!(coalesced || at <= deadline || periodic);
                prop_assert!(deadline < at + 128, "not a tick late");
            }
            (Some(_), None) => prop_assert!(false, "timer lost"),
        }
    }

    #[test]
    fn any_page_loads(seed in prop::collection::vec(any::<u8>(), 1024), base: u64, now: u64) {
        let page: [u8; 1024] = seed.try_into().unwrap();
        let mut apic = LocalApic::new(3, false);
        apic.offer_x2apic(true);
        apic.set_base(base);
        apic.load(&page, now);
        let saved = apic.save(now);
        let mut copy = apic.clone();
        copy.reset_init();
        copy.load(&saved, now);
        prop_assert!(copy.save(now) == saved);
        apic.timer_poll(u64::MAX);
        while apic.acknowledge().is_some() {}
    }

    #[test]
    fn one_shot_expires_once_and_never_early(
        initial in 1..=u32::MAX, divide in 0..16u32, start in 0..u64::MAX / 2, early in 1..1000u64, late: u32,
    ) {
        let divisor = [2, 4, 8, 16, 32, 64, 128, 1][(divide & 3 | divide >> 1 & 4) as usize];
        let mut apic = LocalApic::new(0, false);
        apic.write(0xf0, 0x1ff, 0);
        apic.write(0x320, 0x40, 0);
        apic.write(0x3e0, divide, 0);
        apic.write(0x380, initial, start);
        let due = start + u64::from(initial) * divisor;
        prop_assert_eq!(apic.timer_deadline(), Some(due));
        prop_assert_eq!(apic.read(0x390, start), initial);
        prop_assert!(!apic.timer_poll((due - early).max(start)));
        prop_assert!(!apic.timer_poll(due - 1));
        prop_assert!(apic.read(0x390, due - 1) == 1);
        prop_assert!(apic.timer_poll(due + u64::from(late)));
        prop_assert_eq!(apic.read(0x390, due), 0);
        prop_assert!(!apic.timer_poll(u64::MAX));
        prop_assert_eq!(apic.timer_deadline(), None);
    }

    #[test]
    fn periodic_keeps_its_phase(
        initial in prop_oneof![1..5000u32, 100_000..10_000_000u32],
        start in 0..u64::MAX / 4,
        pauses in prop::collection::vec(prop_oneof![0..50_000_u64, 0..100_000_000u64], 1..50),
    ) {
        let mut apic = LocalApic::new(0, false);
        apic.write(0xf0, 0x1ff, 0);
        apic.write(0x3e0, 0b1011, 0);
        apic.write(0x320, 1 << 17 | 0x40, 0);
        apic.write(0x380, initial, start);
        let period = u64::from(initial);
        let (mut now, mut last) = (start, None);
        for pause in pauses {
            now += pause;
            let deadline = apic.timer_deadline().unwrap();
            let fired = apic.timer_poll(now);
            prop_assert_eq!(fired, now >= deadline);
            let next = apic.timer_deadline().unwrap();
            prop_assert!(next > now);
            prop_assert_eq!((next - start) % period, 0, "phase");
            let count = period - (now - start) % period;
            prop_assert_eq!(u64::from(apic.read(0x390, now)), count);
            if fired {
                prop_assert!(last.is_none_or(|last| deadline >= last + MIN_PERIOD_NS.min(period)));
                prop_assert!(next - deadline >= MIN_PERIOD_NS.max(period));
                prop_assert!(next - now <= MIN_PERIOD_NS + period, "none is left out");
                last = Some(deadline);
                prop_assert_eq!(apic.acknowledge(), Some(0x40));
                let done = apic.write(0xb0, 0, now);
                prop_assert!(!done.self_pending && done.eoi.is_some());
            }
        }
    }
}

#[test]
fn effects_default_is_nothing_to_do() {
    let nothing = Effects::default();
    assert!(nothing.ipi.is_none() && nothing.eoi.is_none());
    assert!(!nothing.timer_changed && !nothing.view_changed && !nothing.self_pending);
}
