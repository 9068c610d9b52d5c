//! The violations that a history can contain.

/// A violation by the system. Its text names the user, the slot and the drop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Violation {
    #[error(
        "lost: {person} was promised slot {slot} of drop {drop}; there is no row, and it is not listed as broken"
    )]
    Lost {
        drop: u64,
        slot: i64,
        person: String,
    },
    #[error("other slot: {person} was promised slot {slot} of drop {drop} and has slot {row}")]
    OtherSlot {
        drop: u64,
        slot: i64,
        person: String,
        row: i64,
    },
    #[error("promised twice: slot {slot} of drop {drop} was promised to {one} and to {other}")]
    PromisedTwice {
        drop: u64,
        slot: i64,
        one: String,
        other: String,
    },
    #[error("contradiction: {person} was promised both slot {one} and slot {other} of drop {drop}")]
    Contradiction {
        drop: u64,
        person: String,
        one: i64,
        other: i64,
    },
    #[error(
        "contradiction: {person} was promised a slot in drop {one} and in drop {other}, but the coupon allows one per user"
    )]
    TwoDrops {
        person: String,
        one: u64,
        other: u64,
    },
    #[error(
        "asked for by nobody: slot {slot} of drop {drop} has a row for {person} (line {line}), who never claimed"
    )]
    NeverAsked {
        drop: u64,
        slot: i64,
        person: String,
        line: usize,
    },
    #[error(
        "never admitted: slot {slot} of drop {drop} has a row for {person} (line {line}), whose every claim was refused"
    )]
    NeverAdmitted {
        drop: u64,
        slot: i64,
        person: String,
        line: usize,
    },
    #[error(
        "slot doubled: slot {slot} of drop {drop} has two rows (line {line}): {one} and {other}"
    )]
    SlotDoubled {
        drop: u64,
        slot: i64,
        line: usize,
        one: String,
        other: String,
    },
    #[error(
        "person doubled: {person} has two rows, slot {one} of drop {one_drop} and slot {other} of drop {other_drop}"
    )]
    PersonDoubled {
        person: String,
        one_drop: u64,
        one: i64,
        other_drop: u64,
        other: i64,
    },
    #[error(
        "no such slot: drop {drop} has a row for slot {slot} (line {line}), the quantity is {quantity}"
    )]
    NoSuchSlot {
        drop: u64,
        slot: i64,
        line: usize,
        quantity: u64,
    },
    #[error("too many: drop {drop} has {rows} rows (line {line}), the quantity is {quantity}")]
    TooMany {
        drop: u64,
        rows: u64,
        line: usize,
        quantity: u64,
    },
    #[error(
        "too few: drop {drop} has {rows} rows at the end, the quantity is {quantity} and {asked} users claimed"
    )]
    TooFew {
        drop: u64,
        rows: u64,
        quantity: u64,
        asked: u64,
    },
    #[error(
        "vanished: {person}'s row for slot {slot} of drop {drop} was read in line {line} and is missing at the end"
    )]
    Vanished {
        drop: u64,
        slot: i64,
        person: String,
        line: usize,
    },
    #[error(
        "revoked and held: {person}'s claim of drop {drop} was revoked (line {line}), but they have slot {slot} at the end"
    )]
    RevokedHeld {
        drop: u64,
        slot: i64,
        person: String,
        line: usize,
    },
    #[error(
        "revoked and promised: {person}'s claim of drop {drop} was revoked (line {line}), but they were promised slot {slot} afterwards"
    )]
    RevokedPromised {
        drop: u64,
        slot: i64,
        person: String,
        line: usize,
    },
    #[error(
        "turned away: line {line} refuses {person} as not on the list of coupon {coupon}, but they were on it all the time"
    )]
    TurnedAway {
        coupon: u64,
        person: String,
        line: usize,
    },
    #[error("denied: {person} was promised slot {slot} of drop {drop}, but line {line} denies it")]
    Denied {
        drop: u64,
        slot: i64,
        person: String,
        line: usize,
    },
    #[error(
        "not on the list: {person} was given a slot of coupon {coupon}, or a place to wait for one, in line {line}"
    )]
    GivenUnlisted {
        coupon: u64,
        person: String,
        line: usize,
    },
    #[error(
        "not on the list: {person} has slot {slot} of drop {drop} (line {line}), but was never on the list when they claimed"
    )]
    HeldUnlisted {
        drop: u64,
        slot: i64,
        person: String,
        line: usize,
    },
    #[error("vanished: drop {drop} had {rows} rows in line {line} and has fewer at the end")]
    RowsVanished { drop: u64, rows: u64, line: usize },
}
