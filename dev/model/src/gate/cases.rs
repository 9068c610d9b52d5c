//! The explored worlds of the gate, and for each rule a world that shows why it is needed.

use super::Drops::{FirstIsStuck, MadeAhead, OfNewCoupon, OfOneCoupon, OfTwoCoupons};
use super::Fault::{
    Damage, Death, Failover, Flush, LockLost, Promote, PromoteOlder, Repeat, Restart, RestartOlder,
};
use super::Omitted::{
    AllDrops, Bulkhead, EraAboveGate, EraCompared, EraOfItsOwn, EveryClosedIsUrgent,
    HigherEraAdopted, Identity, LoadedAtOpenGate, LongestDeadline, NewChecked, OpenCompared, Role,
    ShutApart, Wait, WaitFromEra,
};
use super::{Drops, Fault, Omitted, Protocol};
use crate::World;

/// The worlds in which the whole protocol keeps its promises: the number of reconcilers, the drops,
/// and the faults.
const WHOLE: &[(usize, Drops, &[Fault])] = &[
    (2, OfOneCoupon, &[LockLost, Flush, Restart]),
    (2, OfOneCoupon, &[LockLost, Flush, Failover]),
    (2, OfOneCoupon, &[LockLost, Flush, Damage, Repeat]),
    (1, OfTwoCoupons, &[Flush, RestartOlder]),
    (1, OfTwoCoupons, &[Promote, PromoteOlder]),
    (1, OfNewCoupon, &[Flush, Restart]),
    (2, OfNewCoupon, &[LockLost, Flush]),
    (2, MadeAhead, &[LockLost, Flush, Failover]),
    (1, FirstIsStuck, &[Flush, Death]),
];

/// More such worlds, explored only before a release.
const LARGE: &[(usize, Drops, &[Fault])] = &[
    (2, OfTwoCoupons, &[LockLost, Promote, PromoteOlder]),
    (2, OfTwoCoupons, &[LockLost, Flush, RestartOlder]),
    (2, OfNewCoupon, &[LockLost, Flush, Restart]),
];

/// For each omitted rule, a world in which the omission is caught.
const OMITTED: &[(Omitted, usize, Drops, &[Fault])] = &[
    (Wait, 1, OfTwoCoupons, &[Flush]),
    (WaitFromEra, 1, OfTwoCoupons, &[Damage]),
    (LongestDeadline, 1, OfTwoCoupons, &[Flush]),
    (Identity, 1, OfTwoCoupons, &[PromoteOlder]),
    (Role, 1, OfTwoCoupons, &[Promote]),
    (EraCompared, 2, OfTwoCoupons, &[LockLost, Flush]),
    (OpenCompared, 2, OfTwoCoupons, &[LockLost, Flush]),
    (EraOfItsOwn, 2, OfTwoCoupons, &[LockLost, Flush, Flush]),
    (EraAboveGate, 2, OfOneCoupon, &[LockLost, Flush, Failover]),
    (HigherEraAdopted, 1, OfTwoCoupons, &[Flush, Failover]),
    (
        ShutApart,
        2,
        OfTwoCoupons,
        &[LockLost, LockLost, Flush, Damage, Repeat],
    ),
    (AllDrops, 1, OfOneCoupon, &[Flush]),
    (NewChecked, 1, OfNewCoupon, &[Flush]),
    (LoadedAtOpenGate, 1, MadeAhead, &[]),
    (EveryClosedIsUrgent, 1, OfNewCoupon, &[Flush]),
    (Bulkhead, 1, FirstIsStuck, &[Flush]),
];

pub fn whole() -> Vec<World<Protocol>> {
    let sizes = [(false, WHOLE), (true, LARGE)];
    let all = sizes.into_iter().flat_map(|(is_large, worlds)| {
        let world = move |(reconcilers, drops, faults): &(usize, Drops, &[Fault])| World {
            name: format!("{drops:?}, {reconcilers} reconciling, {faults:?}"),
            is_large,
            protocol: protocol(None, *reconcilers, *drops, faults),
        };
        worlds.iter().map(world)
    });
    all.collect()
}

/// Returns the worlds of the omitted rules, with or without the omission.
pub fn omitted(omits: bool) -> Vec<World<Protocol>> {
    OMITTED
        .iter()
        .map(|(rule, reconcilers, drops, faults)| {
            let omitted = omits.then_some(*rule);
            World::without(rule, protocol(omitted, *reconcilers, *drops, faults))
        })
        .collect()
}

fn protocol(
    omitted: Option<Omitted>,
    reconcilers: usize,
    drops: Drops,
    faults: &[Fault],
) -> Protocol {
    Protocol {
        faults: faults.to_vec(),
        reconcilers,
        drops,
        omitted,
    }
}
