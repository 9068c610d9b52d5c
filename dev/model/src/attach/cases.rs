//! The explored systems, and for each rule a system that shows why it is needed.

use super::Column::{None as NoColumn, SameTransaction, TransactionBefore, Trigger};
use super::Commit::{AfterRow, BeforeRow};
use super::Event::{
    Cancel, CounterRises, Fail, GiveBack, LoseCounted, LoseHandled, LoseMessage, MemberLost, Purge,
    Refuse, Restart, Transfer,
};
use super::Omitted::{
    AllRowsSelected, CheckBefore, CheckInside, CounterAgrees, EndsAfterWait, NewOnly, NoStrangers,
    NoVanished, OneRowEach, OwedWithinQuantity, ProbeTheirRow, QueueWritten, StagesInOrder,
    StillPromised, WaitAfterPassed, WaitBetweenStages,
};
use super::{Commit, Event, Key, Omitted, Protocol, System};
use crate::World;

const fn system(commit: Commit) -> System {
    System {
        stock: 2,
        users: 3,
        commit,
        column: NoColumn,
        retries: false,
        key: Key::AllRows,
        compensates: true,
        count: true,
        issue_moves: false,
        resolves_all: false,
    }
}

const AFTER: System = system(AfterRow);
const BEFORE: System = system(BeforeRow);
const RETRIES: System = System {
    retries: true,
    ..AFTER
};
const RETRIES_BEFORE: System = System {
    retries: true,
    ..BEFORE
};
/// The file names no counter, so nothing hides behind it.
const USERS: System = System {
    count: false,
    ..AFTER
};
/// One more coupon, so that owed does not exceed the quantity first.
const USERS_OF_THREE: System = System { stock: 3, ..USERS };
const LIVE: System = System {
    key: Key::LiveRows,
    ..USERS
};
/// One more coupon, so that a row of theirs proves the key beside two repairs.
const THREE: System = System { stock: 3, ..AFTER };
const FOUR: System = System { users: 4, ..THREE };
const REQUEST: System = System {
    key: Key::Request,
    ..USERS
};
const SAME: System = System {
    column: SameTransaction,
    issue_moves: true,
    ..AFTER
};
/// `issue` forgets the column.
const FORGETS: System = System {
    issue_moves: false,
    column: TransactionBefore,
    stock: 3,
    ..BEFORE
};
const TRIGGER: System = System {
    column: Trigger,
    ..BEFORE
};
/// `issue` moves a column that a trigger moves, too.
const TWICE: System = System {
    issue_moves: true,
    ..TRIGGER
};
const RESOLVES_ALL: System = System {
    resolves_all: true,
    ..THREE
};

/// The systems and events in which the rules keep all promises.
const WHOLE: &[(System, &[Event])] = &[
    (AFTER, &[LoseMessage, GiveBack, Restart]),
    (BEFORE, &[LoseHandled, Refuse, CounterRises]),
    (USERS_OF_THREE, &[LoseMessage, Transfer, Restart]),
    (LIVE, &[LoseMessage, Cancel, Purge]),
    (THREE, &[LoseMessage, Purge, Restart]),
    (BEFORE, &[LoseHandled, LoseMessage, MemberLost]),
    (RETRIES, &[LoseHandled, Fail]),
    (RETRIES_BEFORE, &[LoseHandled, LoseMessage]),
    (REQUEST, &[LoseMessage, GiveBack]),
    (SAME, &[LoseMessage, LoseHandled]),
    (
        System {
            issue_moves: true,
            ..FORGETS
        },
        &[LoseMessage, LoseCounted],
    ),
    (FORGETS, &[LoseMessage]),
    (TRIGGER, &[LoseMessage, LoseHandled]),
    (TWICE, &[LoseMessage]),
    (RESOLVES_ALL, &[Fail, Fail]),
];

/// More such worlds, explored only before a release.
const LARGE: &[(System, &[Event])] = &[
    (FOUR, &[LoseMessage, Fail, Purge, Restart]),
    (FOUR, &[LoseMessage, Refuse, GiveBack, Restart]),
    (
        RETRIES_BEFORE,
        &[LoseMessage, LoseHandled, GiveBack, Restart],
    ),
    (
        System {
            stock: 3,
            users: 4,
            ..SAME
        },
        &[LoseMessage, LoseHandled, Fail],
    ),
];

/// For each omitted rule, a system in which the omission is caught.
const OMITTED: &[(Omitted, System, &[Event])] = &[
    (EndsAfterWait, AFTER, &[]),
    (WaitAfterPassed, BEFORE, &[]),
    (WaitBetweenStages, RETRIES_BEFORE, &[]),
    (StagesInOrder, RETRIES, &[]),
    (NewOnly, AFTER, &[Purge, Restart]),
    (NoStrangers, USERS_OF_THREE, &[Transfer]),
    (NoVanished, THREE, &[Purge]),
    (StillPromised, AFTER, &[LoseMessage, GiveBack]),
    (OwedWithinQuantity, AFTER, &[LoseMessage, CounterRises]),
    (CounterAgrees, AFTER, &[Refuse]),
    (AllRowsSelected, LIVE, &[Cancel]),
    (ProbeTheirRow, REQUEST, &[]),
    (QueueWritten, AFTER, &[]),
    (OneRowEach, RESOLVES_ALL, &[Fail, Fail]),
    (CheckBefore, FORGETS, &[LoseMessage]),
    (CheckInside, TWICE, &[LoseMessage]),
];

pub fn whole() -> Vec<World<Protocol>> {
    let small = WHOLE.iter().map(|world| (world, false));
    let all = small.chain(LARGE.iter().map(|world| (world, true)));
    all.map(|((system, events), is_large)| World {
        name: format!("{system:?}, {events:?}"),
        is_large,
        protocol: protocol(None, *system, events),
    })
    .collect()
}

/// Returns the worlds of the omitted rules, with or without the omission.
pub fn omitted(omits: bool) -> Vec<World<Protocol>> {
    OMITTED
        .iter()
        .map(|(rule, system, events)| {
            let omitted = omits.then_some(*rule);
            World::without(rule, protocol(omitted, *system, events))
        })
        .collect()
}

fn protocol(omitted: Option<Omitted>, system: System, events: &[Event]) -> Protocol {
    Protocol {
        system,
        events: events.to_vec(),
        omitted,
    }
}
