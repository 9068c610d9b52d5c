//! The explored worlds of losers from memory, and for each rule a world that shows why it is
//! needed.

use super::Omitted::{
    EndsAtOpening, EraCompared, GiveWaits, GivenCompared, HoldersFenced, LeftFromReply,
    OutlastedByGate, PromoteWaits,
};
use super::{Omitted, Protocol};
use crate::World;

/// A world with two returned coupons. The worlds below are variants of it.
const RETURNS: Protocol = Protocol {
    apis: 2,
    returns: 2,
    losses: 0,
    is_owed: false,
    opens_another: false,
    omitted: None,
};
const OWED: Protocol = Protocol {
    is_owed: true,
    ..RETURNS
};
const LOSSES: Protocol = Protocol {
    apis: 1,
    returns: 3,
    losses: 2,
    is_owed: true,
    ..RETURNS
};
const TWO_DROPS: Protocol = Protocol {
    opens_another: true,
    ..RETURNS
};

/// The worlds in which the whole protocol keeps its promises.
const WHOLE: &[(&str, Protocol)] = &[
    ("two APIs, returns, a broken promise", OWED),
    ("losses of Redis", LOSSES),
    ("two drops", TWO_DROPS),
];

/// For each omitted rule, a world in which the omission is caught.
const OMITTED: &[(Omitted, Protocol)] = &[
    (GiveWaits, RETURNS),
    (PromoteWaits, OWED),
    (GivenCompared, RETURNS),
    (HoldersFenced, RETURNS),
    (EraCompared, LOSSES),
    (LeftFromReply, RETURNS),
    (EndsAtOpening, TWO_DROPS),
    (OutlastedByGate, LOSSES),
];

pub fn whole() -> Vec<World<Protocol>> {
    let world = |(name, protocol): &(&str, Protocol)| World {
        name: (*name).to_owned(),
        is_large: false,
        protocol: protocol.clone(),
    };
    WHOLE.iter().map(world).collect()
}

pub fn omitted() -> Vec<World<Protocol>> {
    let worlds = OMITTED.iter().map(|(rule, protocol)| {
        let omitted = Some(*rule);
        let protocol = Protocol {
            omitted,
            ..protocol.clone()
        };
        World::without(rule, protocol)
    });
    worlds.collect()
}
