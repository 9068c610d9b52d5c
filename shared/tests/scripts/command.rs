//! Commands that a test applies to a drop.

use firstcome_shared::domain::OncePer;
use proptest::prelude::*;

/// User ids have one letter, so that a masked id still identifies the user.
pub(crate) type PersonLetter = char;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) quantity: u32,
    pub(crate) waiting_list: u32,
    pub(crate) once_per: OncePer,
}

impl Start {
    pub(crate) fn new(quantity: u32, once_per: OncePer, waiting_list: u32) -> Self {
        Self {
            quantity,
            waiting_list,
            once_per,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum ScriptCommand {
    /// One call with these users in order; a user may occur twice.
    Claim(Vec<PersonLetter>),
    /// Loads the drop with a revision. The next two commands have a revision too.
    Load(u64),
    WriteMeta(u64, u32, bool),
    Lower(u64, u32),
    /// A revocation with its id, and whether it has ended. It is not fenced.
    Revoke(PersonLetter, i64, bool),
    Repair(ScriptRepair),
    /// A repair in an era that has ended.
    Stale(ScriptRepair),
    Tamper(Tamper),
}

#[derive(Debug, Clone)]
pub(crate) enum ScriptRepair {
    /// Restores users, each with the slot that the caller read.
    PutBack(Vec<(PersonLetter, Option<i64>, u32, bool)>),
    Count,
    /// Moves a user, with the quantity for which the move was planned.
    Move(PersonLetter, Option<i64>, Option<u32>),
    Withdraw(PersonLetter, Option<i64>, bool),
    ToFront(Vec<(PersonLetter, i64)>),
    Promote(u32),
}

/// Manual changes, and losses of data in Redis.
#[derive(Debug, Clone)]
pub(crate) enum Tamper {
    DropMeta,
    DropCount,
    DropUsers,
    DropFree,
    DropWaiting,
    SetCount(i64),
    AddUser(PersonLetter, i64),
    RemoveUser(PersonLetter),
    AddFree(i64),
    ClaimedElsewhere(PersonLetter),
    /// Deletes everything including the gate, and begins a new era.
    Empty,
    LoseClaimant(PersonLetter),
    LoseRevocation(PersonLetter),
    DropSizes,
}

fn person() -> impl Strategy<Value = PersonLetter> {
    prop::char::range('a', 'h')
}

fn slot() -> impl Strategy<Value = i64> {
    1..=7_i64
}

fn repair() -> impl Strategy<Value = ScriptRepair> {
    let seen = || prop::option::weighted(0.5, slot());
    let holding = (person(), seen(), 1..=7_u32, any::<bool>());
    prop_oneof![
        2 => prop::collection::vec(holding, 1..4).prop_map(ScriptRepair::PutBack),
        3 => Just(ScriptRepair::Count),
        2 => (person(), prop::option::weighted(0.7, slot()), prop::option::weighted(0.3, 1..=7_u32))
            .prop_map(|(who, from, quantity)| ScriptRepair::Move(who, from, quantity)),
        2 => (person(), prop::option::weighted(0.8, slot()), any::<bool>()).prop_map(|(who, from, front)| ScriptRepair::Withdraw(who, from, front)),
        1 => prop::collection::vec((person(), slot()), 1..4).prop_map(ScriptRepair::ToFront),
        3 => (1..4_u32).prop_map(ScriptRepair::Promote),
    ]
}

fn tamper() -> impl Strategy<Value = Tamper> {
    prop_oneof![
        Just(Tamper::DropMeta),
        Just(Tamper::DropCount),
        Just(Tamper::DropUsers),
        Just(Tamper::DropFree),
        Just(Tamper::DropWaiting),
        (0..=7_i64).prop_map(Tamper::SetCount),
        (person(), slot()).prop_map(|(who, slot)| Tamper::AddUser(who, slot)),
        person().prop_map(Tamper::RemoveUser),
        slot().prop_map(Tamper::AddFree),
        person().prop_map(Tamper::ClaimedElsewhere),
        person().prop_map(Tamper::LoseClaimant),
        person().prop_map(Tamper::LoseRevocation),
        Just(Tamper::DropSizes),
        Just(Tamper::Empty),
    ]
}

/// Generates a drop, and about thirty commands.
pub(crate) fn commands() -> impl Strategy<Value = (Start, Vec<ScriptCommand>)> {
    let once_per = prop_oneof![Just(OncePer::Drop), Just(OncePer::Coupon)];
    let start = (1..=5_u32, once_per, 0..=3_u32)
        .prop_map(|(q, once_per, waiting)| Start::new(q, once_per, waiting));
    let revision = || 1..=6_u64;
    let command = prop_oneof![
        7 => person().prop_map(|who| ScriptCommand::Claim(vec![who])),
        7 => prop::collection::vec(person(), 2..9).prop_map(ScriptCommand::Claim),
        1 => revision().prop_map(ScriptCommand::Load),
        1 => (revision(), 1..=7_u32, prop::bool::weighted(0.2)).prop_map(|(r, q, paused)| ScriptCommand::WriteMeta(r, q, paused)),
        1 => (revision(), 1..=7_u32).prop_map(|(r, q)| ScriptCommand::Lower(r, q)),
        2 => (person(), 1..=4_i64, prop::bool::weighted(0.4)).prop_map(|(who, id, ended)| ScriptCommand::Revoke(who, id, ended)),
        8 => repair().prop_map(ScriptCommand::Repair),
        1 => repair().prop_map(ScriptCommand::Stale),
        2 => tamper().prop_map(ScriptCommand::Tamper),
    ];
    (start, prop::collection::vec(command, 1..60))
}
