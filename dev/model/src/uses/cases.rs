//! The explored worlds of uses, and for each rule a world that shows why it is needed.

use super::Fault::{DeleteRow, InsertVoidRow, Restart, Return};
use super::Omitted::{
    OneInUse, ReturnLooksForUse, UndoRemembered, UseByClaim, UseLocksRow, UseOutlivesRow,
    VoidRowGoes,
};
use super::{Fault, Omitted, Protocol};
use crate::World;

/// The faults under which the whole protocol keeps its promises.
const WHOLE: &[&[Fault]] = &[
    &[Return],
    &[DeleteRow, Restart],
    &[Return, InsertVoidRow, Restart],
    &[Return, DeleteRow],
];

/// For each omitted rule, a world in which the omission is caught.
const OMITTED: &[(Omitted, &[Fault])] = &[
    (UndoRemembered, &[]),
    (UseLocksRow, &[Return]),
    (ReturnLooksForUse, &[Return]),
    (VoidRowGoes, &[Return, InsertVoidRow, Restart]),
    (UseByClaim, &[Return, InsertVoidRow, Restart]),
    (UseOutlivesRow, &[DeleteRow]),
    (OneInUse, &[]),
];

pub fn whole() -> Vec<World<Protocol>> {
    let worlds = WHOLE.iter().map(|faults| World {
        name: format!("{faults:?}"),
        is_large: false,
        protocol: protocol(None, faults),
    });
    worlds.collect()
}

pub fn omitted() -> Vec<World<Protocol>> {
    OMITTED
        .iter()
        .map(|(rule, faults)| World::without(rule, protocol(Some(*rule), faults)))
        .collect()
}

fn protocol(omitted: Option<Omitted>, faults: &[Fault]) -> Protocol {
    Protocol {
        faults: faults.to_vec(),
        omitted,
    }
}
