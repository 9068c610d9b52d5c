//! What may happen to a drop.

use firstcome_shared::domain::OncePer;
use proptest::prelude::*;

/// People have one letter, so that a masked id still tells who it is.
pub(crate) type Person = char;

#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) quantity: u32,
    pub(crate) waiting_list: u32,
    pub(crate) once_per: OncePer,
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// In one call, in this order; somebody may be in it twice.
    Claim(Vec<Person>),
    /// As of a revision, like the two below.
    Load(u64),
    WriteMeta(u64, u32, bool),
    Lower(u64, u32),
    /// With its number; ended or not. Not fenced.
    Revoke(Person, i64, bool),
    Repair(Repair),
    /// The same with a generation that Redis no longer has.
    Stale(Repair),
    Tamper(Tamper),
}

#[derive(Debug, Clone)]
pub(crate) enum Repair {
    PutBack(Vec<(Person, u32, bool)>),
    Count,
    /// With the quantity that it was planned for.
    Move(Person, Option<i64>, Option<u32>),
    Withdraw(Person, i64, bool),
    ToFront(Vec<(Person, i64)>),
    Promote(u32),
}

/// What a hand may do, or a Redis that went back in time may look like.
#[derive(Debug, Clone)]
pub(crate) enum Tamper {
    DropMeta,
    DropCount,
    DropUsers,
    DropFree,
    DropWaiting,
    SetCount(i64),
    AddUser(Person, i64),
    RemoveUser(Person),
    AddFree(i64),
    ClaimedElsewhere(Person),
    /// Everything goes, the generation too, and a new one is made.
    Empty,
}

fn person() -> impl Strategy<Value = Person> {
    prop::char::range('a', 'h')
}

fn slot() -> impl Strategy<Value = i64> {
    1..=7_i64
}

fn repair() -> impl Strategy<Value = Repair> {
    let holding = (person(), 1..=7_u32, any::<bool>());
    prop_oneof![
        2 => prop::collection::vec(holding, 1..4).prop_map(Repair::PutBack),
        3 => Just(Repair::Count),
        2 => (person(), prop::option::weighted(0.7, slot()), prop::option::weighted(0.3, 1..=7_u32))
            .prop_map(|(who, from, quantity)| Repair::Move(who, from, quantity)),
        2 => (person(), slot(), any::<bool>()).prop_map(|(who, from, front)| Repair::Withdraw(who, from, front)),
        1 => prop::collection::vec((person(), slot()), 1..4).prop_map(Repair::ToFront),
        3 => (1..4_u32).prop_map(Repair::Promote),
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
        Just(Tamper::Empty),
    ]
}

/// A drop, and about thirty commands.
pub(crate) fn commands() -> impl Strategy<Value = (Start, Vec<Command>)> {
    let once_per = prop_oneof![Just(OncePer::Drop), Just(OncePer::Coupon)];
    let start = (1..=5_u32, 0..=3_u32, once_per).prop_map(|(quantity, waiting_list, once_per)| Start {
        quantity,
        waiting_list,
        once_per,
    });
    let revision = || 1..=6_u64;
    let command = prop_oneof![
        7 => person().prop_map(|who| Command::Claim(vec![who])),
        7 => prop::collection::vec(person(), 2..9).prop_map(Command::Claim),
        1 => revision().prop_map(Command::Load),
        1 => (revision(), 1..=7_u32, prop::bool::weighted(0.2)).prop_map(|(r, q, paused)| Command::WriteMeta(r, q, paused)),
        1 => (revision(), 1..=7_u32).prop_map(|(r, q)| Command::Lower(r, q)),
        2 => (person(), 1..=4_i64, prop::bool::weighted(0.4)).prop_map(|(who, id, ended)| Command::Revoke(who, id, ended)),
        8 => repair().prop_map(Command::Repair),
        1 => repair().prop_map(Command::Stale),
        2 => tamper().prop_map(Command::Tamper),
    ];
    (start, prop::collection::vec(command, 1..60))
}
