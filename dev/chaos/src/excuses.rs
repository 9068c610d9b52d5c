//! The deviations from an exact result that DESIGN allows, each with the faults after which it is
//! allowed. The judge accepts nothing else.

use std::collections::{BTreeSet, HashSet};

use parking_lot::Mutex;

use firstcome_testkit::histories::{Rule, Violation};

use crate::fault::{Fault, ForeignBatch};
use crate::schedule::FaultSchedule;

/// A deviation that DESIGN allows.
pub(crate) struct Excuse {
    /// The rule of DESIGN.
    pub(crate) reason: &'static str,
    /// The rule applies if each of these has occurred.
    after: &'static [fn(&Fault) -> bool],
    covers: Covers,
}

/// What an excuse covers.
enum Covers {
    /// A promise without its row, if `broken_promises` lists it.
    ListedPromise,
    /// A second claim of a user who already has a row, if its dead letter names the user.
    SecondClaim,
    /// A look-up that does not show a promised slot.
    Denial,
    /// A user on an allow list without a slot, although slots are left.
    NoSlot,
    /// A finding of the last pass.
    Finding(fn(&LeftFinding, &Owed) -> bool),
    /// An open dead letter.
    OpenLetter(fn(&OpenLetter, &Owed) -> bool),
    /// A violation in the history.
    Violation(fn(&Violation, &Owed) -> bool),
}

/// Drops and users in `broken_promises`.
pub(crate) type Owed = HashSet<(i64, String)>;

/// A finding of the last pass.
#[derive(Debug, Clone)]
pub(crate) struct LeftFinding {
    pub(crate) kind: String,
    pub(crate) drop: Option<i64>,
    pub(crate) user: Option<String>,
}

/// A dead letter that is not resolved at the end.
#[derive(Debug, Clone)]
pub(crate) struct OpenLetter {
    pub(crate) drop: Option<i64>,
    pub(crate) user: Option<String>,
}

const EXCUSES: [Excuse; 11] = [
    Excuse {
        reason: "an older state restored into a running store may break promises, which are then listed by name",
        after: &[restores_older_state],
        covers: Covers::ListedPromise,
    },
    Excuse {
        reason: "an older state restored into a running Redis is believed for up to a second",
        after: &[restores_older_keys],
        covers: Covers::Denial,
    },
    Excuse {
        reason: "a user whom a restored Redis has forgotten and who claims again keeps the slot of the row",
        after: &[restores_older_keys],
        covers: Covers::SecondClaim,
    },
    Excuse {
        reason: "a promise that cannot be kept is reported by name as long as it is open",
        after: &[],
        covers: Covers::Finding(|finding, owed| {
            finding.kind != "redis_lost" && is_owed(owed, finding.drop, finding.user.as_deref())
        }),
    },
    Excuse {
        reason: "the dead letter of a promise that cannot be kept stays with its user's name",
        after: &[],
        covers: Covers::OpenLetter(|letter, owed| {
            is_owed(owed, letter.drop, letter.user.as_deref())
        }),
    },
    Excuse {
        reason: "a return that an older MySQL has forgotten stands again, also of a user who claimed again",
        after: &[|fault| matches!(fault, Fault::OldDatabase { .. })],
        // A user who claimed again moves back to the slot of the revived row, and the later slot
        // goes to another user. Whoever ends without a row is still `Lost`.
        covers: Covers::Violation(|violation, _| {
            matches!(
                violation.rule,
                Rule::RevokedHeld
                    | Rule::RevokedPromised
                    | Rule::OtherSlot
                    | Rule::Contradiction
                    | Rule::PromisedTwice
            )
        }),
    },
    Excuse {
        reason: "a return that an older MySQL has forgotten stands again; the slot's next user is listed, if need be under an earlier slot of theirs",
        after: &[|fault| matches!(fault, Fault::OldDatabase { .. })],
        covers: Covers::Violation(|violation, owed| {
            let drop = i64::try_from(violation.drop).ok();
            matches!(violation.rule, Rule::Vanished | Rule::Lost | Rule::Denied)
                && is_owed(owed, drop, Some(&violation.person))
        }),
    },
    Excuse {
        reason: "a user who returned a slot has none, although an older MySQL has forgotten claim and return",
        after: &[|fault| matches!(fault, Fault::OldDatabase { .. })],
        covers: Covers::NoSlot,
    },
    Excuse {
        reason: "claims behind an unreadable batch are lost if Redis has lost them, too; their offsets are listed",
        after: &[is_batch_unreadable, is_redis_lost],
        covers: Covers::Violation(|violation, _| {
            matches!(
                violation.rule,
                Rule::Lost
                    | Rule::PromisedTwice
                    | Rule::Denied
                    | Rule::OtherSlot
                    | Rule::Contradiction
            )
        }),
    },
    Excuse {
        reason: "a user whose claim was behind an unreadable batch and is lost in Redis, too, has no slot",
        after: &[is_batch_unreadable, is_redis_lost],
        covers: Covers::Denial,
    },
    Excuse {
        reason: "an older allow list restored into a running Redis is believed until the coupon is closed or looked at",
        after: &[restores_older_keys],
        covers: Covers::Violation(|violation, _| {
            matches!(
                violation.rule,
                Rule::TurnedAway | Rule::GivenUnlisted | Rule::HeldUnlisted
            )
        }),
    },
];

fn is_batch_unreadable(fault: &Fault) -> bool {
    let batch = ForeignBatch::Garbled;
    matches!(fault, Fault::Batch { batch: it, .. } if *it == batch)
}

fn is_redis_lost(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::TruncatedAof { .. }
            | Fault::Flush
            | Fault::OldCopy { .. }
            | Fault::StaleReplica { .. }
            | Fault::Demotion { .. }
            | Fault::DropKeysLost
            | Fault::KeyLost { .. }
            | Fault::RestoredKeys { .. }
            | Fault::WrongType { .. }
    )
}

fn is_owed(owed: &Owed, drop: Option<i64>, user: Option<&str>) -> bool {
    drop.zip(user)
        .is_some_and(|(drop, user)| owed.contains(&(drop, user.to_owned())))
}

fn restores_older_keys(fault: &Fault) -> bool {
    matches!(fault, Fault::RestoredKeys { .. })
}

fn restores_older_state(fault: &Fault) -> bool {
    restores_older_keys(fault) || matches!(fault, Fault::OldDatabase { .. })
}

/// The excuses that apply to one schedule.
pub(crate) struct Excuses {
    all: Vec<&'static Excuse>,
    /// The rules of those that were needed.
    used: Mutex<BTreeSet<&'static str>>,
}

impl Excuses {
    pub(crate) fn of(schedule: &FaultSchedule) -> Self {
        let has = |after: &fn(&Fault) -> bool| schedule.faults.iter().any(|it| after(&it.fault));
        let applies = |excuse: &&Excuse| excuse.after.iter().all(has);
        Self {
            all: EXCUSES.iter().filter(applies).collect(),
            used: Mutex::default(),
        }
    }

    /// Returns the rules of the excuses that were needed.
    pub(crate) fn used(&self) -> Vec<&'static str> {
        self.used.lock().iter().copied().collect()
    }

    fn any(&self, covers: impl Fn(&Covers) -> bool) -> bool {
        let found = self.all.iter().find(|excuse| covers(&excuse.covers));
        if let Some(excuse) = found {
            self.used.lock().insert(excuse.reason);
        }
        found.is_some()
    }

    /// Whether listed promises may be broken.
    pub(crate) fn listed_promise(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::ListedPromise))
    }

    pub(crate) fn second_claim(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::SecondClaim))
    }

    pub(crate) fn denial(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::Denial))
    }

    pub(crate) fn no_slot(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::NoSlot))
    }

    pub(crate) fn finding(&self, finding: &LeftFinding, owed: &Owed) -> bool {
        self.any(|covers| matches!(covers, Covers::Finding(fits) if fits(finding, owed)))
    }

    pub(crate) fn open_letter(&self, letter: &OpenLetter, owed: &Owed) -> bool {
        self.any(|covers| matches!(covers, Covers::OpenLetter(fits) if fits(letter, owed)))
    }

    pub(crate) fn violation(&self, violation: &Violation, owed: &Owed) -> bool {
        self.any(|covers| matches!(covers, Covers::Violation(fits) if fits(violation, owed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Timed;

    fn after(faults: &[Fault]) -> Excuses {
        let timed = |fault: &Fault| Timed {
            at_ms: 0,
            coupon: 0,
            fault: fault.clone(),
        };
        Excuses::of(&FaultSchedule::of(
            faults.iter().map(timed).collect(),
            vec![],
        ))
    }

    fn restored() -> Fault {
        Fault::RestoredKeys { age_ms: 1 }
    }

    fn old_database() -> Fault {
        Fault::OldDatabase { age_ms: 1 }
    }

    fn finding(kind: &str, drop: Option<i64>, user: Option<&str>) -> LeftFinding {
        LeftFinding {
            kind: kind.into(),
            drop,
            user: user.map(str::to_owned),
        }
    }

    #[test]
    fn promises_may_be_broken_only_after_an_older_state_was_restored() {
        assert!(after(&[restored()]).listed_promise());
        assert!(after(&[Fault::Flush, old_database()]).listed_promise());
        assert!(!after(&[Fault::Flush, Fault::OldCopy { age_ms: 1 }]).listed_promise());
    }

    #[test]
    fn look_ups_may_deny_a_slot_only_after_keys_were_restored_into_a_running_redis() {
        assert!(after(&[restored()]).denial());
        assert!(!after(&[old_database(), Fault::Flush]).denial());
    }

    #[test]
    fn listed_users_may_lack_a_slot_only_after_mysql_went_back() {
        assert!(after(&[old_database()]).no_slot());
        assert!(!after(&[restored(), Fault::Flush]).no_slot());
    }

    #[test]
    fn second_claims_are_excused_only_after_keys_were_restored_into_a_running_redis() {
        assert!(after(&[restored()]).second_claim());
        assert!(!after(&[old_database(), Fault::Flush]).second_claim());
    }

    #[test]
    fn a_last_pass_may_report_only_owed_users() {
        let owed = Owed::from([(7, "u-1".to_owned())]);
        let excuses = after(&[]);
        assert!(excuses.finding(&finding("broken_promise", Some(7), Some("u-1")), &owed));
        for other in [
            finding("broken_promise", Some(8), Some("u-1")),
            finding("broken_promise", Some(7), Some("u-2")),
            finding("failed_claim", Some(7), None),
            finding("redis_lost", None, None),
        ] {
            assert!(!excuses.finding(&other, &owed), "{other:?}");
        }
    }

    #[test]
    fn an_open_dead_letter_must_be_of_an_owed_user() {
        let owed = Owed::from([(7, "u-1".to_owned())]);
        let letter = |drop, user: Option<&str>| OpenLetter {
            drop,
            user: user.map(str::to_owned),
        };
        let excuses = after(&[]);
        assert!(excuses.open_letter(&letter(Some(7), Some("u-1")), &owed));
        for other in [
            letter(Some(7), Some("u-2")),
            letter(Some(7), None),
            letter(None, None),
        ] {
            assert!(!excuses.open_letter(&other, &owed), "{other:?}");
        }
    }

    #[test]
    fn a_row_may_vanish_only_if_mysql_went_back_and_its_user_is_listed() {
        let vanished = Violation::new(Rule::Vanished, 7, 1, "u-1");
        let owed = Owed::from([(7, "u-1".to_owned())]);
        assert!(after(&[old_database()]).violation(&vanished, &owed));
        assert!(!after(&[old_database()]).violation(&vanished, &Owed::new()));
        assert!(!after(&[restored()]).violation(&vanished, &owed));
        let lost = Violation::new(Rule::Lost, 7, 2, "u-1");
        assert!(after(&[old_database()]).violation(&lost, &owed));
        assert!(!after(&[Fault::Flush]).violation(&lost, &owed));
    }

    #[test]
    fn a_revoked_user_may_hold_a_slot_only_after_mysql_went_back() {
        let held = Violation::new(Rule::RevokedHeld, 1, 1, "u-1");
        assert!(after(&[old_database()]).violation(&held, &Owed::new()));
        assert!(!after(&[restored(), Fault::Flush]).violation(&held, &Owed::new()));
        let lost = Violation::new(Rule::Lost, 1, 1, "u-1");
        assert!(!after(&[old_database()]).violation(&lost, &Owed::new()));
    }

    #[test]
    fn a_slot_may_be_promised_twice_only_after_mysql_went_back() {
        let twice = Violation::new(Rule::PromisedTwice, 1, 40, "u-2");
        assert!(after(&[old_database()]).violation(&twice, &Owed::new()));
        assert!(!after(&[restored(), Fault::Flush]).violation(&twice, &Owed::new()));
    }

    #[test]
    fn claims_behind_an_unreadable_batch_may_be_lost_only_if_redis_lost_them_too() {
        let lost = Violation::new(Rule::Lost, 1, 40, "u-1");
        let batch = |batch| Fault::Batch { batch, ms: 1 };
        let garbled = batch(ForeignBatch::Garbled);
        let may_lose = |faults: &[Fault]| after(faults).violation(&lost, &Owed::new());
        assert!(may_lose(&[garbled.clone(), Fault::Flush]));
        assert!(after(&[garbled.clone(), Fault::Flush]).denial());
        assert!(!may_lose(std::slice::from_ref(&garbled)));
        assert!(!may_lose(&[Fault::Flush]));
        assert!(!may_lose(&[batch(ForeignBatch::Mirrored), Fault::Flush]));
    }

    #[test]
    fn an_older_allow_list_is_believed_only_after_keys_were_restored_into_a_running_redis() {
        let turned_away = Violation::new(Rule::TurnedAway, 1, 0, "u-1");
        let may = |fault| after(&[fault]).violation(&turned_away, &Owed::new());
        assert!(may(restored()));
        assert!(!may(old_database()) && !may(Fault::Flush));
    }

    #[test]
    fn excuses_that_were_needed_are_named() {
        let excuses = after(&[restored()]);
        assert_eq!(excuses.used(), [""; 0]);
        assert!(excuses.denial());
        assert_eq!(excuses.used(), [EXCUSES[1].reason]);
    }
}
