//! Draws one schedule per seed: the crowd, its coupons, and the time of each fault.

use std::collections::BTreeMap;
use std::fmt;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::expect::Expect;
use crate::fault::{
    DropKey, Fault, FaultyStore, ForeignBatch, Garbage, LostTable, ProcessRole, WireFault,
};

/// Number of processes of each kind in a drawn schedule.
pub(crate) const EACH: usize = 2;

/// Settings that make processes give up early, so that a short schedule covers these cases.
pub const IMPATIENT: [(&str, &str); 5] = [
    ("STORE_TIMEOUT_MS", "1000"),
    ("PUBLISH_DEADLINE_MS", "500"),
    ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "500"),
    ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "1500"),
    ("KAFKA_PROPERTIES", "session.timeout.ms=2000"),
];

/// The events of a run, in milliseconds since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSchedule {
    /// The seed from which the schedule was drawn.
    pub seed: u64,
    /// Number of coupons, each with one open drop.
    pub coupons: u32,
    /// Number of slots in each drop.
    pub quantity: u32,
    /// Number of places on the waiting list.
    pub waiting_list: u32,
    pub once_per: String,
    /// Number of users who claim each coupon.
    pub people: u32,
    /// Whether user IDs are plain numbers, as from an auto-increment column. Otherwise they are
    /// `u-1`, `u-2`, ….
    #[serde(default)]
    pub numeric_ids: bool,
    /// The period in which users arrive.
    pub crowd_ms: u64,
    /// Percentage of users who claim again as soon as they get an answer.
    pub repeat_percent: u32,
    /// Percentage of winners who return their slot or are revoked by an operator.
    #[serde(default)]
    pub revoke_percent: u32,
    /// Number of users who are on the allow list of the first coupon from the start. 0 means that
    /// it has no allow list, like the other coupons.
    #[serde(default)]
    pub listed: u32,
    /// Whether an operator keeps adding users to that list and removing others.
    #[serde(default)]
    pub relisted: bool,
    /// Number of processes of each kind. There are two daemons, unless a fault targets the daemon.
    pub processes: usize,
    /// Number of operators who keep changing the coupons.
    #[serde(default)]
    pub operators: u32,
    /// Number of users who keep looking up their claims.
    #[serde(default)]
    pub pollers: u32,
    /// Additional settings of the processes in this schedule.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// The faults, in order of time.
    pub faults: Vec<Timed>,
    /// Expectations besides an exact result.
    #[serde(default)]
    pub expect: Vec<Expect>,
}

/// A fault, its start time, and the coupon that it affects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// Index of the coupon, for faults of one coupon. (They are numbered from 0.)
    #[serde(default)]
    pub coupon: usize,
    #[serde(flatten)]
    pub fault: Fault,
}

impl FaultSchedule {
    /// Draws the schedule for a seed. A third of the schedules have one fault, the others two to
    /// six. Half of all schedules have operators.
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let coupons = rng.random_range(1..=3);
        let quantity = rng.random_range(30..=200) / coupons;
        let people = quantity * rng.random_range(13..=25) / 10;
        let crowd_ms = rng.random_range(4_000..=8_000);
        let number = if rng.random_bool(0.33) {
            1
        } else {
            rng.random_range(2..=6)
        };
        // Later faults would have little effect, because everything is sold. Some faults take a
        // while to begin.
        let latest = crowd_ms * u64::from(quantity) / u64::from(people) * 2 / 3;
        let mut faults: Vec<Timed> = (0..number)
            .map(|_| Timed {
                at_ms: rng.random_range(200..latest),
                coupon: rng.random_range(0..coupons as usize),
                fault: fault(&mut rng),
            })
            .collect();
        // If Redis may lose an admission, a fault that also loses its row or message would delete
        // every copy.
        if faults.iter().any(|hit| hit.fault.forgets_admissions()) {
            faults.retain(|hit| !hit.fault.forgets_rows());
        }
        faults.sort_by_key(|timed| timed.at_ms);
        let (listed, relisted) = allow_list(&mut rng, people);
        // No store says whether a change that MySQL has forgotten was made.
        let goes_back = |hit: &Timed| matches!(hit.fault, Fault::OldDatabase { .. });
        let relisted = relisted && !faults.iter().any(goes_back);
        Self {
            seed,
            coupons,
            quantity,
            waiting_list: if rng.random_bool(0.3) {
                quantity / 4
            } else {
                0
            },
            once_per: if rng.random_bool(0.5) {
                "coupon"
            } else {
                "drop"
            }
            .into(),
            people,
            numeric_ids: seed.is_multiple_of(2),
            crowd_ms,
            repeat_percent: rng.random_range(0..=30),
            // Low enough that more users claim than there are slots and revocations.
            revoke_percent: if rng.random_bool(0.7) {
                rng.random_range(2..=15)
            } else {
                0
            },
            listed,
            relisted,
            processes: EACH,
            operators: if rng.random_bool(0.5) { 2 } else { 0 },
            pollers: *[0, 4, 30].choose(&mut rng).unwrap_or(&0),
            settings: BTreeMap::new(),
            faults,
            expect: Vec::new(),
        }
    }

    /// Creates a short schedule of these faults, with one process of each kind.
    pub fn of(faults: Vec<Timed>, expect: Vec<Expect>) -> Self {
        Self {
            seed: 0,
            coupons: 1,
            quantity: 80,
            waiting_list: 0,
            once_per: "coupon".into(),
            people: 100,
            numeric_ids: false,
            crowd_ms: 4_000,
            repeat_percent: 20,
            revoke_percent: 0,
            listed: 0,
            relisted: false,
            processes: 1,
            operators: 0,
            pollers: 0,
            settings: IMPATIENT
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            faults,
            expect,
        }
    }

    /// Returns the highest quantity that an operator sets. It is below the number of users who
    /// claim.
    pub fn most(&self) -> u32 {
        self.quantity + (self.people - self.quantity) / 2
    }

    /// Whether Redis's clock is set ahead. A revocation during that time is then later than all
    /// claims of the next hours.
    pub(crate) fn sets_redis_ahead(&self) -> bool {
        self.faults
            .iter()
            .any(|hit| matches!(hit.fault, Fault::RedisClock { seconds: 1.., .. }))
    }

    /// Returns the user ID of a user.
    pub fn user_id(&self, number: u32) -> String {
        if self.numeric_ids {
            (number + 1).to_string()
        } else {
            format!("u-{number}")
        }
    }

    /// Returns the allow list at the start. Users arrive in random order.
    pub fn listed_people(&self) -> Vec<String> {
        (0..self.listed)
            .map(|number| self.user_id(number))
            .collect()
    }

    /// Returns the latest end of the last fault, in milliseconds since the start, if no fault waits
    /// for another.
    pub fn ends_ms(&self) -> u64 {
        self.crowd_ms + 20_000 * self.faults.len() as u64
    }
}

/// Draws the size of the allow list and whether it changes, in a quarter of the seeds. Some lists
/// are too short for the quantity.
fn allow_list(rng: &mut StdRng, people: u32) -> (u32, bool) {
    if !rng.random_bool(0.25) {
        return (0, false);
    }
    let percent = *[40, 67, 90].choose(rng).unwrap_or(&67);
    (people * percent / 100, rng.random_bool(0.6))
}

#[allow(clippy::too_many_lines, reason = "one table of weights")]
fn fault(rng: &mut StdRng) -> Fault {
    let role = |rng: &mut StdRng| *ProcessRole::ALL.choose(rng).unwrap_or(&ProcessRole::Api);
    let store = |rng: &mut StdRng| *FaultyStore::ALL.choose(rng).unwrap_or(&FaultyStore::Redis);
    let number = rng.random_range(0..EACH);
    let ms = rng.random_range(200..=3_000);
    match rng.random_range(0..54) {
        0..=2 => Fault::Kill {
            role: role(rng),
            number,
            ms,
        },
        3..=4 => {
            // A consumer frozen for longer than its session loses its partitions, and then
            // continues with a batch that it has already read.
            let long = rng.random_bool(0.3);
            Fault::Freeze {
                role: role(rng),
                number,
                ms: if long { ms + 6_000 } else { ms },
            }
        }
        5..=8 => {
            let role = role(rng);
            let point = (*points(role).choose(rng).unwrap_or(&"claim_admitted")).to_owned();
            // The process does not always die the first time that it reaches the point. A consumer
            // reaches it only once the group has noticed that its predecessor is dead.
            let (nth, patience) = if role == ProcessRole::Api {
                (rng.random_range(1..=3), 2_000)
            } else {
                (1, 9_000)
            };
            Fault::Crash {
                role,
                number,
                point: format!("{point}:{nth}"),
                ms: ms + patience,
            }
        }
        9 => {
            let step = *[-7_200, -90, -10, 10, 90, 7_200].choose(rng).unwrap_or(&90);
            Fault::Clock {
                role: role(rng),
                number,
                seconds: step,
                ms,
            }
        }
        10..=11 => Fault::KillServer {
            store: store(rng),
            ms,
        },
        12..=13 => Fault::FreezeServer {
            store: store(rng),
            ms: if rng.random_bool(0.5) { ms } else { ms + 2_000 },
        },
        14..=16 => {
            let all = [
                WireFault::Delay,
                WireFault::Cut,
                WireFault::BlackHole,
                WireFault::DropReplies,
                WireFault::HalfClose,
            ];
            let wire = *all.choose(rng).unwrap_or(&WireFault::Cut);
            Fault::Wire {
                store: store(rng),
                wire,
                ms,
            }
        }
        17 => Fault::TruncatedAof {
            percent: rng.random_range(5..=100),
        },
        18 => Fault::Flush,
        19 => Fault::OldCopy {
            age_ms: rng.random_range(200..=2_500),
        },
        20 => Fault::StaleReplica {
            lag_ms: rng.random_range(300..=2_500),
        },
        21 => [Fault::RedisDiskFull { ms }, Fault::RedisMemory { ms }]
            .choose(rng)
            .cloned()
            .unwrap_or(Fault::Flush),
        22 => Fault::MysqlReadOnly { ms },
        23 => [Fault::MysqlLocks { ms }, Fault::MysqlDeadlocks { ms }]
            .choose(rng)
            .cloned()
            .unwrap_or(Fault::Flush),
        24 => Fault::MysqlDiskFull { ms },
        // Longer than any timeout of the processes, including a consumer's session.
        25..=27 => Fault::Silent {
            store: store(rng),
            process: rng.random_bool(0.5),
            ms: ms + 6_000,
        },
        28 => Fault::Demotion {
            lag_ms: rng.random_range(300..=2_500),
        },
        29 => {
            // A step of two hours leaves the windows, which end in half an hour.
            let step = *[-7_200, -7_200, -90, 90, 7_200, 7_200]
                .choose(rng)
                .unwrap_or(&90);
            Fault::RedisClock {
                seconds: step,
                ms: ms + 1_000,
            }
        }
        30..=31 => {
            let ms = if rng.random_bool(0.5) { ms } else { ms + 5_000 };
            if rng.random_bool(0.5) {
                Fault::MysqlTableHangs { ms }
            } else {
                Fault::MysqlWritesHang { ms }
            }
        }
        32..=33 => Fault::WrongType {
            key: *DropKey::ALL.choose(rng).unwrap_or(&DropKey::Users),
            ms: ms + 2_000,
        },
        34 => Fault::Garbage {
            garbage: *[Garbage::Messages, Garbage::DeadLetters]
                .choose(rng)
                .unwrap_or(&Garbage::Messages),
            ms,
        },
        35..=36 => {
            let all = [
                ForeignBatch::Mirrored,
                ForeignBatch::Forged,
                ForeignBatch::Oversized,
                ForeignBatch::Garbled,
            ];
            Fault::Batch {
                batch: *all.choose(rng).unwrap_or(&ForeignBatch::Forged),
                ms,
            }
        }
        37 => Fault::MorePartitions {
            partitions: rng.random_range(4..=9),
        },
        38 => Fault::MailsRefused { ms: ms + 2_000 },
        39 => Fault::Hogs {
            role: role(rng),
            number,
            ms: ms + 2_000,
        },
        40 => Fault::ColdStart {
            store: store(rng),
            ms: ms + 1_000,
        },
        41..=43 => Fault::KeyLost {
            key: *DropKey::ALL.choose(rng).unwrap_or(&DropKey::Users),
        },
        44 => Fault::DropKeysLost,
        45 => Fault::RestoredKeys {
            age_ms: rng.random_range(200..=2_500),
        },
        46 => Fault::OldRows {
            age_ms: rng.random_range(200..=2_500),
        },
        47..=48 => Fault::OldDatabase {
            age_ms: rng.random_range(200..=2_500),
        },
        49..=50 => Fault::TableLost {
            table: *LostTable::ALL.choose(rng).unwrap_or(&LostTable::Drops),
        },
        51 => Fault::PositionsMoved {
            by: *[-20, -3, 3, 1_000].choose(rng).unwrap_or(&3),
        },
        52 => Fault::TopicRecreated,
        _ => Fault::BlindConfirm,
    }
}

/// Lists the crash points (`shared/src/crash.rs`) that a schedule can reach in this kind of
/// process.
fn points(role: ProcessRole) -> &'static [&'static str] {
    match role {
        ProcessRole::Api => &[
            "claim_asked",
            "claim_admitted",
            "claim_sent",
            "claim_published",
            "revocation_written",
            "revocation_released",
        ],
        ProcessRole::Consumer => &["rows_begun", "rows_inserted", "rows_committed"],
        ProcessRole::Reconciler => &[
            "run_begun",
            "era_begun",
            "repair_begun",
            "drop_loaded",
            "people_rebuilt",
            "person_promoted",
            "gate_due",
            "gate_opened",
            "run_done",
            "run_recorded",
            "mail_due",
            "mail_sent",
        ],
    }
}

impl fmt::Display for FaultSchedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            coupons,
            quantity,
            people,
            crowd_ms,
            once_per,
            waiting_list,
            listed,
            operators,
            pollers,
            ..
        } = self;
        write!(
            out,
            "seed {seed}: {coupons} × {people} users for {quantity} in {crowd_ms} ms, one each per {once_per}"
        )?;
        if *waiting_list > 0 {
            write!(out, ", {waiting_list} may wait")?;
        }
        if self.revoke_percent > 0 {
            write!(
                out,
                ", {} % give it back or are revoked",
                self.revoke_percent
            )?;
        }
        if *listed > 0 {
            write!(
                out,
                ", {listed} on an allow list{}",
                if self.relisted { " that changes" } else { "" }
            )?;
        }
        if *operators > 0 {
            write!(out, ", {operators} operators")?;
        }
        if *pollers > 0 {
            write!(out, ", {pollers} poll")?;
        }
        for timed in &self.faults {
            write!(out, "\n  {:>5} ms  {}", timed.at_ms, timed.fault)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_are_deterministic_and_schedules_survive_a_json_round_trip() {
        for seed in 0..200 {
            let schedule = FaultSchedule::draw(seed);
            assert_eq!(schedule, FaultSchedule::draw(seed));
            let text = serde_json::to_string(&schedule).unwrap();
            assert_eq!(schedule, serde_json::from_str(&text).unwrap());
            assert!(
                schedule.people > schedule.quantity && !schedule.faults.is_empty(),
                "{schedule}"
            );
        }
        assert_ne!(FaultSchedule::draw(1).faults, FaultSchedule::draw(2).faults);
    }

    #[test]
    fn five_hundred_seeds_draw_every_kind_of_fault() {
        let drawn: BTreeSet<String> = (1..=500)
            .flat_map(|seed| FaultSchedule::draw(seed).faults)
            .map(|timed| timed.fault.name())
            .collect();
        assert_eq!(drawn.len(), KINDS, "{drawn:#?}");
    }

    #[test]
    fn one_in_four_seeds_draws_an_allow_list() {
        let drawn: Vec<FaultSchedule> = (1..=500)
            .map(FaultSchedule::draw)
            .filter(|schedule| schedule.listed > 0)
            .collect();
        assert!((85..=165).contains(&drawn.len()), "{}", drawn.len());
        for changes in [true, false] {
            let listed = || drawn.iter().filter(|schedule| schedule.relisted == changes);
            assert!(listed().any(|schedule| schedule.listed >= schedule.most()));
            assert!(listed().any(|schedule| schedule.listed < schedule.quantity));
        }
        assert!(
            drawn
                .iter()
                .all(|schedule| schedule.listed < schedule.people)
        );
    }

    /// 5 faults for each of 3 processes, 3, 5 and 2 for each of 3 servers, 8 of Redis, 6 of MySQL,
    /// 3 of garbage, 4 batches, more partitions and refused mails, lost keys, all keys and 4
    /// tables, older keys, rows and databases, moved positions, a recreated topic and blind
    /// confirmations.
    const KINDS: usize = 5 * 3 + 10 * 3 + 8 + 6 + 3 + 4 + 2 + 6 + 3 + 3;
}
