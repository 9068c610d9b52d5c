//! The explored systems, and for each rule a system that shows why it is needed.

use super::Column::{None as NoColumn, SameTransaction, TransactionBefore, Trigger};
use super::Commit::{AfterRow, BeforeRow};
use super::Fault::{CounterRises, Leak, LoseCounted, LoseHandled, LoseMessage};
use super::Omitted::{
    ColumnAtRest, ColumnIfEqual, EndsAfterWait, InsertMayMove, NotBelowZero, RelativeRepair,
    SameAtBothLooks, StagesInOrder, WaitAfterPassed, WaitBetweenStages,
};
use super::{Column, Commit, Fault, Omitted, Protocol, System};
use crate::World;

const fn system(commit: Commit, column: Column, retries: bool) -> System {
    System {
        commit,
        column,
        retries,
        gives_back: true,
    }
}

/// Losers run the counter below zero.
const TICKETS: System = System {
    gives_back: false,
    ..system(AfterRow, NoColumn, false)
};

/// The systems and faults in which the rules keep all promises.
const WHOLE: &[(System, &[Fault])] = &[
    (
        system(AfterRow, NoColumn, false),
        &[LoseMessage, LoseMessage],
    ),
    (system(AfterRow, NoColumn, false), &[Leak, CounterRises]),
    (
        system(AfterRow, NoColumn, true),
        &[LoseMessage, LoseHandled],
    ),
    (system(BeforeRow, NoColumn, false), &[LoseHandled, Leak]),
    (
        system(BeforeRow, NoColumn, true),
        &[LoseHandled, LoseMessage],
    ),
    (TICKETS, &[Leak, LoseMessage]),
    (
        system(AfterRow, SameTransaction, false),
        &[LoseMessage, LoseHandled],
    ),
    (system(BeforeRow, SameTransaction, true), &[LoseMessage]),
    (
        system(BeforeRow, TransactionBefore, false),
        &[LoseMessage, LoseCounted],
    ),
    (system(AfterRow, TransactionBefore, false), &[LoseMessage]),
    (
        system(BeforeRow, Trigger, false),
        &[LoseMessage, LoseHandled],
    ),
];

/// For each omitted rule, a system in which the omission is caught.
const OMITTED: &[(Omitted, System, &[Fault])] = &[
    (EndsAfterWait, system(AfterRow, NoColumn, false), &[]),
    (WaitAfterPassed, system(BeforeRow, NoColumn, false), &[]),
    (StagesInOrder, system(AfterRow, NoColumn, true), &[]),
    (
        RelativeRepair,
        system(AfterRow, NoColumn, false),
        &[CounterRises],
    ),
    (
        ColumnIfEqual,
        system(BeforeRow, TransactionBefore, false),
        &[LoseCounted],
    ),
    (
        InsertMayMove,
        system(AfterRow, Trigger, false),
        &[LoseMessage],
    ),
    (SameAtBothLooks, system(AfterRow, NoColumn, false), &[Leak]),
    (NotBelowZero, system(AfterRow, NoColumn, false), &[]),
    (
        ColumnAtRest,
        system(AfterRow, TransactionBefore, false),
        &[LoseMessage],
    ),
    (WaitBetweenStages, system(BeforeRow, NoColumn, true), &[]),
];

pub fn whole() -> Vec<World<Protocol>> {
    let worlds = WHOLE.iter().map(|(system, faults)| World {
        name: format!("{system:?}, {faults:?}"),
        is_large: false,
        protocol: protocol(None, *system, faults),
    });
    worlds.collect()
}

pub fn omitted() -> Vec<World<Protocol>> {
    OMITTED
        .iter()
        .map(|(rule, system, faults)| World::without(rule, protocol(Some(*rule), *system, faults)))
        .collect()
}

fn protocol(omitted: Option<Omitted>, system: System, faults: &[Fault]) -> Protocol {
    Protocol {
        system,
        faults: faults.to_vec(),
        omitted,
    }
}
