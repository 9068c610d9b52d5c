//! The explored worlds, and for each rule a world that shows why it is needed.

use super::Fault::{
    Crash, Failover, FailoverToOlder, Flush, GoBack, Hang, InsertLetter, InsertVoidRow, LockLost,
    LoseLimits, Pause, Raise, RecreateTopic, Restart, Return,
};
use super::Omitted::{
    Adoption, Barrier, BarrierAgain, BarrierUnpaced, BeginAgain, CacheByTime, FallbackFenced,
    LetterByRedis, NoGap, OfPrimary, OwedAtHead, OwedFirst, PositionInLog, PositionLast,
    PositionReset, PutChecksRevoked, PutFenced, RefusalQuoted, ReturnAdoption, ReturnInProgress,
    RevisionKept, RevisionWithUsers, RowsAgain, RowsFenced, RowsFirst, StoredBeforeTold,
    TimesCompared, VoidRowMoved, Wait,
};
use super::{Fault, Omitted, Protocol};
use crate::World;

/// The faults under which the whole protocol keeps its promises, and the number of reconcilers.
const WHOLE: &[(usize, &[Fault])] = &[
    (1, &[Crash, Hang, Restart]),
    (1, &[Crash, Flush]),
    (1, &[Crash, GoBack]),
    (1, &[Hang, Hang, Flush]),
    (1, &[Hang, FailoverToOlder, Restart]),
    (1, &[Flush, FailoverToOlder]),
    (1, &[Flush, Failover]),
    (1, &[Return, Crash]),
    (1, &[Return, GoBack]),
    (1, &[Return, FailoverToOlder]),
    (1, &[Crash, RecreateTopic, Flush]),
    (1, &[RecreateTopic, Return]),
    (1, &[LoseLimits, Flush]),
    (1, &[LoseLimits, Restart]),
    (1, &[InsertLetter, Return]),
    (1, &[InsertLetter, Flush]),
    (1, &[InsertVoidRow, Return]),
    (1, &[Raise, FailoverToOlder]),
    (1, &[Pause, Flush]),
    (1, &[Pause, GoBack]),
    (2, &[LockLost, Flush]),
    (2, &[LockLost, GoBack]),
    (2, &[Return]),
    (2, &[Crash]),
];

/// More such worlds, explored only before a release.
const LARGE: &[(usize, &[Fault])] = &[
    (2, &[Crash, Hang, Restart]),
    (2, &[Crash, Flush]),
    (2, &[Crash, LockLost, GoBack]),
    (2, &[Return, LockLost, Flush]),
    (2, &[Return, FailoverToOlder]),
    (2, &[Raise, FailoverToOlder]),
    (2, &[Pause, Flush]),
    (1, &[Return, FailoverToOlder, Crash]),
    (1, &[Return, InsertLetter, Flush]),
];

/// For each omitted rule, a world in which the omission is caught.
const OMITTED: &[(Omitted, usize, &[Fault])] = &[
    // Two stores lose data, which may leave a promise to Redis alone, and break it.
    (OwedFirst, 1, &[Return, FailoverToOlder, Flush]),
    (LetterByRedis, 1, &[Return, InsertLetter]),
    (PositionLast, 1, &[Crash]),
    (NoGap, 1, &[FailoverToOlder, Flush]),
    (BeginAgain, 1, &[FailoverToOlder]),
    (PositionInLog, 1, &[Crash, RecreateTopic, Flush]),
    (PositionReset, 1, &[RecreateTopic, Restart]),
    (Barrier, 1, &[Flush]),
    (BarrierAgain, 1, &[Flush, FailoverToOlder]),
    (BarrierUnpaced, 1, &[Restart]),
    (Wait, 1, &[Flush]),
    (Adoption, 1, &[Raise, FailoverToOlder]),
    (ReturnAdoption, 1, &[Return, FailoverToOlder]),
    (ReturnInProgress, 1, &[Return, FailoverToOlder]),
    (RevisionWithUsers, 1, &[Raise, FailoverToOlder]),
    (RevisionKept, 1, &[Pause, Flush]),
    (PutChecksRevoked, 1, &[Return, Flush]),
    (TimesCompared, 1, &[Return, GoBack]),
    (RefusalQuoted, 1, &[LoseLimits]),
    (OfPrimary, 1, &[Flush, Failover]),
    (CacheByTime, 1, &[Return, Crash]),
    (StoredBeforeTold, 1, &[]),
    (RowsAgain, 1, &[Return]),
    (FallbackFenced, 1, &[Hang, Flush]),
    (RowsFenced, 2, &[Crash, Flush]),
    (PutFenced, 2, &[LockLost, GoBack]),
    (VoidRowMoved, 1, &[Return, InsertVoidRow]),
    (OwedAtHead, 1, &[InsertLetter, Flush]),
    (RowsFirst, 1, &[Hang, FailoverToOlder, Restart]),
];

pub fn whole() -> Vec<World<Protocol>> {
    let sizes = [(false, WHOLE), (true, LARGE)];
    let all = sizes.into_iter().flat_map(|(is_large, worlds)| {
        let world = move |(reconcilers, faults): &(usize, &[Fault])| World {
            name: format!("{reconcilers} reconciling, {faults:?}"),
            is_large,
            protocol: protocol(None, *reconcilers, faults),
        };
        worlds.iter().map(world)
    });
    all.collect()
}

/// Returns the worlds of the omitted rules, with or without the omission.
pub fn omitted(omits: bool) -> Vec<World<Protocol>> {
    OMITTED
        .iter()
        .map(|(rule, reconcilers, faults)| {
            let omitted = omits.then_some(*rule);
            World::without(rule, protocol(omitted, *reconcilers, faults))
        })
        .collect()
}

fn protocol(omitted: Option<Omitted>, reconcilers: usize, faults: &[Fault]) -> Protocol {
    Protocol {
        faults: faults.to_vec(),
        reconcilers,
        omitted,
    }
}
