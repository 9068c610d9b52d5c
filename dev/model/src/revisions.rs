//! The settings of a coupon: operators, passes and rebuilds write its quantity to MySQL and Redis.
//! They are interleaved at every step, with concurrent claims and losses of Redis.

use stateright::{Model, Property};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Number of times that Redis returns with older data.
    pub gone_back: u8,
    /// Number of times that Redis is flushed.
    pub flushes: u8,
    /// Number of writers that die.
    pub deaths: u8,
    /// Number of times that MySQL has older data, because a lagging replica took over.
    pub mysql_gone_back: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Redis does not compare revisions.
    NotCompared,
    /// MySQL commits a change although a later revision was allocated.
    CommitNotCompared,
    /// A quantity is lowered in MySQL before Redis.
    LoweredLate,
    /// The revision is stored in `meta`, so a drop that is not loaded has none.
    SeenInMeta,
    /// After a loss, a coupon opens with the revision that the restored Redis has.
    OpenAtOldRevision,
    /// Settings that MySQL has lost are not recovered from Redis.
    NotRecovered,
}

/// The protocol of the settings.
#[derive(Debug, Clone)]
pub struct Revisions {
    pub faults: Faults,
    /// The quantities to which the operators change the coupon.
    pub changes: Vec<u8>,
    /// Number of concurrent passes.
    pub passes: usize,
    pub wrong: Option<Wrong>,
}

const QUANTITY: u8 = 2;
const MOST: u8 = 3;
/// Number of times that an operator attempts a change.
const ATTEMPTS: u8 = 2;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Redis {
    /// The highest revision seen. It is stored separately from `meta`.
    seen: u8,
    /// The value of `meta`. `None` if the drop is not loaded.
    quantity: Option<u8>,
    count: u8,
}

/// The settings of one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RevisionSettings {
    revision: u8,
    quantity: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Writer {
    /// An operator's change of the quantity.
    Change {
        to: u8,
        attempts: u8,
        stage: Change,
    },
    Pass(Pass),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Change {
    Take,
    Lower(RevisionSettings),
    Commit(RevisionSettings),
    Restore(RevisionSettings),
    Write(RevisionSettings),
    /// The change was committed but then superseded by a later revision.
    Follow,
    Done,
    /// The change was not acknowledged and is left to the reconciler.
    GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Pass {
    Idle,
    /// The write began in this era of Redis.
    Write(u8, RevisionSettings),
    Open(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    redis: Redis,
    copy: Option<Redis>,
    /// The current era of Redis.
    life: u8,
    /// Whether the coupon is open in this era.
    open: bool,
    mysql: RevisionSettings,
    mysql_copy: Option<RevisionSettings>,
    /// Number of promised slots.
    given: u8,
    writers: Vec<Writer>,
    faults: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Claim,
    Writer(usize),
    Dies(usize),
    Copy,
    GoBack,
    Flush,
    MysqlCopy,
    MysqlGoesBack,
}

impl Writer {
    /// Ends a pass with the connection of its lock. A change in progress is assumed to end with its
    /// connection too: if it continued after a failover, two settings could have the same revision,
    /// because another change used that revision on the new server.
    fn loses_connection(&mut self) {
        match self {
            Self::Pass(pass) => *pass = Pass::Idle,
            Self::Change {
                stage: Change::Take | Change::Done,
                ..
            } => {}
            Self::Change { stage, .. } => *stage = Change::GivenUp,
        }
    }
}

impl State {
    /// Returns MySQL's settings after recovery. A revision is in MySQL before any part of Redis has
    /// it.
    fn recovered(&self) -> RevisionSettings {
        let Redis { seen, quantity, .. } = self.redis;
        if seen <= self.mysql.revision {
            return self.mysql;
        }
        RevisionSettings {
            revision: seen,
            quantity: quantity.unwrap_or(self.mysql.quantity),
        }
    }

    fn lose(&mut self, redis: Redis) {
        self.redis = redis;
        self.open = false;
        self.life += 1;
    }
}

impl Revisions {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    fn recover(&self, state: &mut State) {
        if !self.is(Wrong::NotRecovered) {
            state.mysql = state.recovered();
        }
    }

    /// Recovers the settings that MySQL has lost before it allocates a revision.
    fn take_revision(&self, state: &mut State) -> RevisionSettings {
        self.recover(state);
        state.mysql.revision = state.mysql.revision.max(state.redis.seen) + 1;
        state.mysql
    }

    /// Models `settings.lua`. Returns whether the revision is current.
    fn write_meta(&self, redis: &mut Redis, to: RevisionSettings) -> bool {
        if to.revision < redis.seen && !self.is(Wrong::NotCompared) {
            return false;
        }
        if redis.quantity.is_some() || !self.is(Wrong::SeenInMeta) {
            redis.seen = to.revision;
        }
        redis.quantity = redis.quantity.map(|_| to.quantity);
        true
    }

    fn change(&self, state: &mut State, to: u8, stage: Change, attempts: u8) -> (u8, Change) {
        let again = if attempts < ATTEMPTS {
            Change::Take
        } else {
            Change::Done
        };
        let next = match stage {
            Change::Take => {
                let read = self.take_revision(state);
                let lowers = to < read.quantity && !self.is(Wrong::LoweredLate);
                return (
                    attempts + 1,
                    if lowers {
                        Change::Lower(read)
                    } else {
                        Change::Commit(read)
                    },
                );
            }
            Change::Lower(read) => {
                let redis = &mut state.redis;
                match redis.quantity {
                    _ if read.revision < redis.seen && !self.is(Wrong::NotCompared) => again,
                    Some(quantity) if to >= redis.count => {
                        redis.seen = read.revision;
                        redis.quantity = Some(quantity.min(to));
                        Change::Commit(read)
                    }
                    // The change is refused and nothing was changed.
                    _ => Change::Done,
                }
            }
            Change::Commit(read) => {
                if state.mysql.revision != read.revision && !self.is(Wrong::CommitNotCompared) {
                    if to < read.quantity {
                        Change::Restore(read)
                    } else {
                        again
                    }
                } else if to < state.given && !self.is(Wrong::LoweredLate) {
                    // There are rows beyond the quantity.
                    Change::Restore(read)
                } else {
                    state.mysql = RevisionSettings {
                        revision: state.mysql.revision + 1,
                        quantity: to,
                    };
                    Change::Write(state.mysql)
                }
            }
            Change::Restore(read) => {
                self.write_meta(&mut state.redis, read);
                again
            }
            Change::Write(made) if self.write_meta(&mut state.redis, made) => Change::Done,
            Change::Write(_) if attempts > ATTEMPTS => Change::GivenUp,
            Change::Write(_) => Change::Follow,
            Change::Follow => return (attempts + 1, Change::Write(self.take_revision(state))),
            ended => ended,
        };
        (attempts, next)
    }

    fn pass(&self, state: &mut State, pass: Pass) -> Pass {
        match pass {
            Pass::Idle => {
                self.recover(state);
                let matches = state.redis.quantity == Some(state.mysql.quantity);
                match (matches, state.open) {
                    (true, true) => Pass::Idle,
                    (true, false) if self.is(Wrong::OpenAtOldRevision) => Pass::Open(state.life),
                    _ => Pass::Write(state.life, self.take_revision(state)),
                }
            }
            Pass::Write(life, settings) => {
                let is_latest =
                    settings.revision >= state.redis.seen || self.is(Wrong::NotCompared);
                if state.redis.quantity.is_none() && is_latest {
                    state.redis.seen = settings.revision;
                    state.redis.quantity = Some(settings.quantity);
                    Pass::Open(life)
                } else if self.write_meta(&mut state.redis, settings) {
                    Pass::Open(life)
                } else {
                    Pass::Idle
                }
            }
            Pass::Open(life) => {
                if !state.open && life == state.life {
                    state.redis.count = state.given;
                    state.open = true;
                }
                Pass::Idle
            }
        }
    }

    fn writer(&self, state: &mut State, at: usize) {
        state.writers[at] = match state.writers[at] {
            Writer::Change {
                to,
                attempts,
                stage,
            } => {
                let (attempts, stage) = self.change(state, to, stage, attempts);
                Writer::Change {
                    to,
                    attempts,
                    stage,
                }
            }
            Writer::Pass(pass) => Writer::Pass(self.pass(state, pass)),
        };
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Claim => {
                state.redis.count += 1;
                state.given = state.given.max(state.redis.count);
            }
            Step::Writer(at) => self.writer(state, at),
            Step::Dies(at) => {
                state.faults.deaths -= 1;
                state.writers[at] = match state.writers[at] {
                    Writer::Change { to, attempts, .. } => Writer::Change {
                        to,
                        attempts,
                        stage: Change::GivenUp,
                    },
                    Writer::Pass(_) => Writer::Pass(Pass::Idle),
                };
            }
            Step::Copy => state.copy = Some(state.redis),
            Step::GoBack => {
                state.faults.gone_back -= 1;
                if let Some(copy) = state.copy.take() {
                    state.lose(copy);
                }
            }
            Step::Flush => {
                state.faults.flushes -= 1;
                state.lose(Redis::default());
            }
            Step::MysqlCopy => state.mysql_copy = Some(state.mysql),
            Step::MysqlGoesBack => {
                state.faults.mysql_gone_back -= 1;
                state.mysql = state.mysql_copy.take().unwrap_or(state.mysql);
                for writer in &mut state.writers {
                    writer.loses_connection();
                }
            }
        }
        state.writers.sort_unstable();
        if state.faults.gone_back == 0 {
            state.copy = None;
        }
    }

    /// Whether MySQL and Redis have the same settings and the coupon is open once faults stop.
    fn heals(&self, state: &State) -> bool {
        let mut state = state.clone();
        // Operators and passes alternate, because each must cope with pending steps of the other.
        for _ in 0..12 {
            for at in (0..state.writers.len()).rev() {
                self.writer(&mut state, at);
            }
        }
        state.open && state.redis.quantity == Some(state.mysql.quantity)
    }
}

/// If this failed, MySQL would reject the row of a promise beyond the quantity after recovery.
pub const WITHIN: &str = "no slot above MySQL's quantity is promised";
/// An acknowledged change applies to the next claim.
pub const ACKNOWLEDGED: &str = "when every change is acknowledged, Redis has MySQL's quantity";
/// A change whose writer died is completed.
pub const HEALS: &str = "left alone, Redis has MySQL's quantity";

impl Model for Revisions {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let change = |to: &u8| Writer::Change {
            to: *to,
            attempts: 0,
            stage: Change::Take,
        };
        let mut writers: Vec<Writer> = self.changes.iter().map(change).collect();
        writers.extend(vec![Writer::Pass(Pass::Idle); self.passes]);
        vec![State {
            redis: Redis {
                seen: 1,
                quantity: Some(QUANTITY),
                count: 0,
            },
            copy: None,
            life: 1,
            open: true,
            mysql: RevisionSettings {
                revision: 1,
                quantity: QUANTITY,
            },
            mysql_copy: None,
            given: 0,
            writers,
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let left = state
            .redis
            .quantity
            .is_some_and(|quantity| state.redis.count < quantity.min(MOST));
        steps.extend((state.open && left).then_some(Step::Claim));
        let ended = |stage| matches!(stage, Change::Done | Change::GivenUp);
        for (at, writer) in state.writers.iter().enumerate() {
            let (goes_on, is_under_way) = match writer {
                Writer::Change { stage, .. } => (!ended(*stage), !ended(*stage)),
                Writer::Pass(pass) => (state.mysql.revision < 12, *pass != Pass::Idle),
            };
            steps.extend((goes_on || is_under_way).then_some(Step::Writer(at)));
            steps.extend((is_under_way && state.faults.deaths > 0).then_some(Step::Dies(at)));
        }
        let Faults {
            gone_back,
            flushes,
            mysql_gone_back,
            ..
        } = state.faults;
        steps.extend((gone_back > 0 && state.copy.is_none()).then_some(Step::Copy));
        steps.extend((gone_back > 0 && state.copy.is_some()).then_some(Step::GoBack));
        steps.extend((flushes > 0).then_some(Step::Flush));
        steps
            .extend((mysql_gone_back > 0 && state.mysql_copy.is_none()).then_some(Step::MysqlCopy));
        steps.extend(state.mysql_copy.is_some().then_some(Step::MysqlGoesBack));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let acknowledged = |_: &Self, state: &State| {
            let at_rest = |writer: &Writer| {
                matches!(
                    writer,
                    Writer::Change {
                        stage: Change::Done,
                        ..
                    } | Writer::Pass(Pass::Idle)
                )
            };
            !state.open
                || !state.writers.iter().all(at_rest)
                || state.redis.quantity == Some(state.recovered().quantity)
        };
        vec![
            Property::always(WITHIN, |_, state: &State| {
                state.given <= state.recovered().quantity
            }),
            Property::always(ACKNOWLEDGED, acknowledged),
            Property::always(HEALS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("a change is made", |_, state: &State| {
                state.mysql.quantity != QUANTITY
            }),
        ]
    }
}

const NONE: Faults = Faults {
    gone_back: 0,
    flushes: 0,
    deaths: 0,
    mysql_gone_back: 0,
};

fn protocol(changes: &[u8], passes: usize, faults: Faults) -> Revisions {
    Revisions {
        faults,
        changes: changes.to_vec(),
        passes,
        wrong: None,
    }
}

/// Returns the correct protocol, under the faults that it must survive.
pub fn right() -> Vec<(&'static str, Revisions)> {
    let gone_back = Faults {
        gone_back: 1,
        ..NONE
    };
    let mysql_gone_back = Faults {
        mysql_gone_back: 1,
        ..NONE
    };
    vec![
        (
            "an operator raises, another lowers, one dies",
            protocol(&[3, 1], 1, Faults { deaths: 1, ..NONE }),
        ),
        (
            "two operators lower, Redis goes back in time",
            protocol(&[1, 2], 1, gone_back),
        ),
        (
            "an operator raises and another undoes it, Redis goes back in time",
            protocol(&[3, 2], 1, gone_back),
        ),
        (
            "an operator raises, another lowers, MySQL goes back in time",
            protocol(&[3, 1], 1, mysql_gone_back),
        ),
        (
            "two operators lower, MySQL goes back in time",
            protocol(&[1, 2], 1, mysql_gone_back),
        ),
        (
            "two daemons and an operator, Redis is emptied",
            protocol(&[3], 2, Faults { flushes: 1, ..NONE }),
        ),
    ]
}

/// Protocols that each lack one rule, with the faults that reveal it.
pub fn wrong() -> Vec<(Wrong, Revisions)> {
    let emptied = Faults { flushes: 1, ..NONE };
    let cases = [
        (Wrong::NotCompared, protocol(&[3, 2], 0, NONE)),
        (Wrong::CommitNotCompared, protocol(&[3, 1], 0, NONE)),
        (Wrong::LoweredLate, protocol(&[1], 0, NONE)),
        (Wrong::SeenInMeta, protocol(&[3], 1, emptied)),
        (
            Wrong::OpenAtOldRevision,
            protocol(
                &[3, 2],
                1,
                Faults {
                    gone_back: 1,
                    ..NONE
                },
            ),
        ),
        (
            Wrong::NotRecovered,
            protocol(
                &[3],
                1,
                Faults {
                    mysql_gone_back: 1,
                    ..NONE
                },
            ),
        ),
    ];
    cases
        .map(|(wrong, protocol)| {
            (
                wrong,
                Revisions {
                    wrong: Some(wrong),
                    ..protocol
                },
            )
        })
        .into()
}
