//! Commands that a test applies to a drop.

use firstcome_shared::domain::OncePer;
use proptest::prelude::*;

/// A user id of one letter, so that a string of letters names several users.
pub(crate) type UserLetter = char;

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
    Claim(Vec<UserLetter>),
    /// The same, and the caller asks for a lease.
    Lease(Vec<UserLetter>),
    /// This number of milliseconds passes.
    Wait(i64),
    /// Redis's clock is set back by this number of milliseconds.
    SetBack(i64),
    /// Loads the drop with a revision. The next two commands have a revision too.
    Load(u64),
    WriteSettings(u64, u32, bool),
    Lower(u64, u32),
    /// A revocation with its id, and whether it has ended. It is not fenced.
    Revoke(UserLetter, i64, bool),
    /// Begins the next era, which closes the coupon.
    Close,
    Fenced(FencedCommand),
    /// The same in an era of another coupon.
    Stale(FencedCommand),
    /// The same in the era before the last [`ScriptCommand::Close`].
    Late(FencedCommand),
    Tamper(Tamper),
}

#[derive(Debug, Clone)]
pub(crate) enum FencedCommand {
    /// Begins to rebuild the drop from these rows.
    Begin(Vec<Row>),
    /// Writes one page of [`PAGE_SLOTS`] slots from the rows of the last `Begin` of this era.
    Page(u32),
    ClearClaimants,
    /// Makes the users of rows of another drop claimants.
    Claimants(Vec<Row>),
    /// Puts users at the head of the waiting list, each with the slot that was promised.
    Owed(Vec<(UserLetter, u32)>),
    /// Writes the settings of a rebuilt drop, with a revision.
    Settings(u64),
    Open,
    Promote(u32),
}

pub(crate) const PAGE_SLOTS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) slot: u32,
    pub(crate) person: UserLetter,
    pub(crate) time: RowTime,
}

/// When the user of a row was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowTime {
    Unknown,
    /// Before the end of every revocation.
    Before,
    /// After the end of every revocation.
    After,
}

/// The keys that may be lost, in the order of `ScriptWorld::data_keys`.
pub(crate) const KEYS: [&str; 8] = [
    "meta",
    "count",
    "users",
    "free",
    "waiting",
    "times",
    "claimants",
    "revoked",
];

/// Losses of whole keys, and a claim in another drop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tamper {
    /// One of [`KEYS`].
    Lose(&'static str),
    /// The user gets a slot of another drop.
    ClaimedElsewhere(UserLetter),
    /// Deletes everything including the gate, and begins and opens a new era.
    Empty,
}

fn person() -> impl Strategy<Value = UserLetter> {
    prop::char::range('a', 'h')
}

/// Rows with one slot per user, and one user per slot.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let time = prop_oneof![
        Just(RowTime::Unknown),
        Just(RowTime::Before),
        Just(RowTime::After)
    ];
    let row =
        (1..=7_u32, person(), time).prop_map(|(slot, person, time)| Row { slot, person, time });
    prop::collection::vec(row, 0..6).prop_map(|mut rows| {
        let mut seen = Vec::new();
        rows.retain(|row| {
            let is_new = !seen
                .iter()
                .any(|other: &Row| other.slot == row.slot || other.person == row.person);
            seen.push(*row);
            is_new
        });
        rows
    })
}

fn fenced() -> impl Strategy<Value = FencedCommand> {
    prop_oneof![
        2 => rows().prop_map(FencedCommand::Begin),
        6 => (0..3_u32).prop_map(FencedCommand::Page),
        1 => Just(FencedCommand::ClearClaimants),
        2 => rows().prop_filter("no row", |rows| !rows.is_empty()).prop_map(FencedCommand::Claimants),
        2 => prop::collection::vec((person(), 1..=7_u32), 1..4).prop_map(FencedCommand::Owed),
        3 => (1..=6_u64).prop_map(FencedCommand::Settings),
        6 => Just(FencedCommand::Open),
        3 => (1..4_u32).prop_map(FencedCommand::Promote),
    ]
}

fn tamper() -> impl Strategy<Value = Tamper> {
    prop_oneof![
        8 => prop::sample::select(&KEYS[..]).prop_map(Tamper::Lose),
        1 => person().prop_map(Tamper::ClaimedElsewhere),
        1 => Just(Tamper::Empty),
    ]
}

fn command() -> impl Strategy<Value = ScriptCommand> {
    let revision = || 1..=6_u64;
    prop_oneof![
        7 => person().prop_map(|who| ScriptCommand::Claim(vec![who])),
        7 => prop::collection::vec(person(), 2..9).prop_map(ScriptCommand::Claim),
        7 => prop::collection::vec(person(), 1..9).prop_map(ScriptCommand::Lease),
        4 => (0..=300_i64).prop_map(ScriptCommand::Wait),
        1 => prop::sample::select(&[30, 150, 7_200_000][..]).prop_map(ScriptCommand::SetBack),
        1 => revision().prop_map(ScriptCommand::Load),
        1 => (revision(), 1..=7_u32, prop::bool::weighted(0.2))
            .prop_map(|(r, q, paused)| ScriptCommand::WriteSettings(r, q, paused)),
        1 => (revision(), 1..=7_u32).prop_map(|(r, q)| ScriptCommand::Lower(r, q)),
        3 => (person(), 1..=4_i64, prop::bool::weighted(0.4))
            .prop_map(|(who, id, ended)| ScriptCommand::Revoke(who, id, ended)),
        1 => Just(ScriptCommand::Close),
        4 => fenced().prop_map(ScriptCommand::Fenced),
        1 => fenced().prop_map(ScriptCommand::Stale),
        1 => fenced().prop_map(ScriptCommand::Late),
        1 => tamper().prop_map(ScriptCommand::Tamper),
    ]
}

/// A rebuild: closes the coupon, writes all pages in any order with other commands in between, and
/// opens it.
fn rebuild() -> impl Strategy<Value = Vec<ScriptCommand>> {
    let pages = Just((0..3_u32).collect::<Vec<_>>()).prop_shuffle();
    let between = prop::collection::vec(prop::option::weighted(0.4, command()), 4);
    (rows(), pages, between).prop_map(|(rows, pages, between)| {
        let mut between = between.into_iter();
        let mut all = vec![ScriptCommand::Close];
        let steps = [FencedCommand::Begin(rows)]
            .into_iter()
            .chain(pages.into_iter().map(FencedCommand::Page));
        for step in steps {
            all.push(ScriptCommand::Fenced(step));
            all.extend(between.next().flatten());
        }
        all.push(ScriptCommand::Fenced(FencedCommand::Settings(6)));
        all.push(ScriptCommand::Fenced(FencedCommand::Open));
        all
    })
}

/// Users ask for a lease, one of them returns the slot, and sometimes users with a broken promise
/// join the waiting list. Then waiting users are promoted, and others claim. Meanwhile the clock
/// may advance or be set back.
fn return_during_a_lease() -> impl Strategy<Value = Vec<ScriptCommand>> {
    let people = || prop::collection::vec(person(), 5..9);
    let time = || {
        let back = prop::sample::select(&[30, 150, 7_200_000][..]).prop_map(ScriptCommand::SetBack);
        prop_oneof![
            Just(None),
            (0..=300_i64).prop_map(ScriptCommand::Wait).prop_map(Some),
            back.prop_map(Some)
        ]
    };
    let owed = prop::collection::vec((person(), 1..=7_u32), 1..3).prop_map(FencedCommand::Owed);
    let owed = prop::option::of(owed.prop_map(ScriptCommand::Fenced));
    let all = (
        people(),
        people(),
        person(),
        1..=4_i64,
        [time(), time()],
        owed,
    );
    all.prop_map(|(some, others, who, id, [first, then], owed)| {
        let mut all = vec![
            ScriptCommand::Claim(some.clone()),
            ScriptCommand::Lease(some),
        ];
        all.extend(first);
        all.push(ScriptCommand::Revoke(who, id, false));
        all.extend(owed);
        all.extend(then);
        all.push(ScriptCommand::Fenced(FencedCommand::Promote(3)));
        all.push(ScriptCommand::Claim(others));
        all
    })
}

/// Generates a drop, and some dozens of commands.
pub(crate) fn commands() -> impl Strategy<Value = (Start, Vec<ScriptCommand>)> {
    let once_per = prop_oneof![Just(OncePer::Drop), Just(OncePer::Coupon)];
    // Only a drop without a waiting list can be leased.
    let places = prop_oneof![Just(0), 0..=3_u32];
    let start = (1..=5_u32, once_per, places)
        .prop_map(|(q, once_per, waiting)| Start::new(q, once_per, waiting));
    let some = prop_oneof![
        12 => command().prop_map(|one| vec![one]),
        1 => rebuild(),
        2 => return_during_a_lease(),
    ];
    let commands = prop::collection::vec(some, 1..50).prop_map(|all| all.concat());
    (start, commands)
}
