//! The deviations from an exact result that docs/RELIABILITY.md does not exclude, each with the
//! faults after which it is allowed. The judge accepts nothing else.

use std::collections::BTreeSet;
use std::fmt::Debug;

use firstcome_oracle::{Rule, Violation};
use parking_lot::Mutex;

use crate::facts::{Facts, LeftFinding, OpenLetter, Owed, is_owed};
use crate::fault::{Fault, Garbage};
use crate::schedule::FaultSchedule;

/// An allowed deviation.
pub(crate) struct Excuse {
    pub(crate) reason: &'static str,
    /// The excuse applies if, for each of these, a fault that fits it took effect.
    after: &'static [fn(&Fault) -> bool],
    covers: Covers,
}

/// What an excuse covers.
enum Covers {
    /// A promise without its row, if `broken_promises` lists it.
    ListedPromise,
    /// A second claim of a user who already has a row, if its dead letter names the user.
    SecondClaim,
    /// A user on an allow list without a slot, although slots are left.
    NoSlot,
    /// A finding of the last pass.
    Finding(fn(&LeftFinding, &Owed) -> bool),
    /// An open dead letter.
    OpenLetter(fn(&OpenLetter, &Owed) -> bool),
    /// Answers to shops that the stored uses contradict.
    ForgottenUse,
    /// A violation in the history.
    Violation(fn(&Violation, &Facts) -> bool),
}

const EXCUSES: [Excuse; 14] = [
    Excuse {
        reason: "an older state restored into a running Redis may break promises, which are then listed by name",
        after: &[restores_older_keys],
        covers: Covers::ListedPromise,
    },
    Excuse {
        reason: "a return that neither store knows any more may break promises, which are then listed by name",
        after: &[is_database_older, is_redis_lost],
        covers: Covers::ListedPromise,
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
        reason: "a return that neither store knows any more stands again, also of a user who claimed again",
        after: &[is_database_older, is_redis_lost],
        // A user who claimed again moves back to the slot of the revived row, and the later slot
        // goes to another user. A user who ends without a row is still `Lost`.
        covers: Covers::Violation(|violation, facts| {
            let is_kind = matches!(
                violation.rule,
                Rule::RevokedHeld
                    | Rule::RevokedPromised
                    | Rule::RevokedShown
                    | Rule::OtherSlot
                    | Rule::Contradiction
                    | Rule::PromisedTwice
            );
            is_kind && (facts.is_returned(violation) || facts.owes(violation))
        }),
    },
    Excuse {
        reason: "a return that neither store knows any more stands again; the slot's next user is listed, if need be under an earlier slot of theirs",
        after: &[is_database_older, is_redis_lost],
        covers: Covers::Violation(|violation, facts| {
            matches!(violation.rule, Rule::Vanished | Rule::Lost | Rule::Denied)
                && facts.owes(violation)
        }),
    },
    Excuse {
        reason: "a user who returned a slot has none, although neither store knows claim and return any more",
        after: &[is_database_older, is_redis_lost],
        covers: Covers::NoSlot,
    },
    Excuse {
        reason: "an older MySQL has forgotten a change of a quantity",
        after: &[is_database_older],
        covers: Covers::Violation(|violation, _| violation.rule == Rule::ForgottenQuantity),
    },
    Excuse {
        reason: "an older MySQL has forgotten uses; the shops repeat them",
        after: &[is_database_older],
        covers: Covers::ForgottenUse,
    },
    Excuse {
        reason: "claims behind an unreadable batch are lost if Redis has lost them, too; their offsets are listed, unless the broker has cut them off",
        after: &[is_batch_unreadable, is_redis_lost],
        covers: Covers::Violation(|violation, facts| {
            let is_kind = matches!(
                violation.rule,
                Rule::Lost
                    | Rule::PromisedTwice
                    | Rule::Denied
                    | Rule::OtherSlot
                    | Rule::Contradiction
                    | Rule::AcceptedTwice
            );
            is_kind && facts.unreadable
        }),
    },
    Excuse {
        reason: "a user whose claim was behind an unreadable batch and is lost in Redis, too, believes to have a slot",
        after: &[is_batch_unreadable, is_redis_lost],
        covers: Covers::NoSlot,
    },
    Excuse {
        reason: "an older state restored into a running Redis is believed for up to a second when a holder asks again, and an older allow list until the coupon is closed or looked at",
        after: &[restores_older_keys],
        covers: Covers::Violation(|violation, facts| {
            let is_answer = matches!(
                violation.rule,
                Rule::Denied | Rule::TurnedAway | Rule::AcceptedTwice | Rule::RevokedShown
            );
            let is_slot = matches!(violation.rule, Rule::GivenUnlisted | Rule::HeldUnlisted);
            is_answer && facts.is_answered_by_older_keys(violation)
                || is_slot && facts.is_given_by_older_keys(violation)
        }),
    },
    Excuse {
        reason: "after Redis's clock has jumped ahead, a holder may hear sold_out for 0.2 s",
        after: &[|fault| matches!(fault, Fault::RedisClock { .. })],
        covers: Covers::Violation(|violation, facts| {
            violation.rule == Rule::Denied && facts.may_be_of_an_old_lease(violation)
        }),
    },
];

fn is_batch_unreadable(fault: &Fault) -> bool {
    let batch = Garbage::Garbled;
    matches!(fault, Fault::Garbage { garbage, .. } if *garbage == batch)
}

/// Whether Redis may lose admissions. The loss of a single key counts, too, unless the key is in
/// `gives_no_slot`: it closes the coupon, which is then rebuilt from rows and messages.
fn is_redis_lost(fault: &Fault) -> bool {
    let gives_no_slot = ["waiting", "allowed", "allow_list"];
    fault.is_redis_lost()
        || matches!(fault, Fault::KeyLost { key } if !gives_no_slot.contains(&key.as_str()))
}

fn restores_older_keys(fault: &Fault) -> bool {
    matches!(fault, Fault::RestoredKeys { .. })
}

fn is_database_older(fault: &Fault) -> bool {
    matches!(fault, Fault::OldDatabase { .. })
}

/// The excuses that apply to one schedule: while its faults are active, all that they may need, and
/// afterwards those of faults that took effect.
pub(crate) struct Excuses {
    all: Mutex<Vec<&'static Excuse>>,
    /// The reasons of the excuses that were needed.
    used: Mutex<BTreeSet<&'static str>>,
}

impl Excuses {
    pub(crate) fn of(schedule: &FaultSchedule) -> Self {
        let applies = |excuse: &&Excuse| excuse.after.iter().all(|after| schedule.has(after));
        Self {
            all: Mutex::new(EXCUSES.iter().filter(applies).collect()),
            used: Mutex::default(),
        }
    }

    /// Leaves out the excuses that need a fault other than these, which took effect.
    pub(crate) fn keep_after(&self, took: &[&Fault]) {
        let has = |fits: &fn(&Fault) -> bool| took.iter().any(|fault| fits(fault));
        let mut all = self.all.lock();
        all.retain(|excuse| excuse.after.iter().all(has));
    }

    /// Returns the reasons of the excuses that were needed.
    pub(crate) fn used(&self) -> Vec<&'static str> {
        self.used.lock().iter().copied().collect()
    }

    fn any(&self, covers: impl Fn(&Covers) -> bool) -> bool {
        let all = self.all.lock();
        let found = all.iter().find(|excuse| covers(&excuse.covers));
        if let Some(excuse) = found {
            self.used.lock().insert(excuse.reason);
        }
        found.is_some()
    }

    /// Whether promises may be broken if they are listed.
    pub(crate) fn listed_promise(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::ListedPromise))
    }

    /// Returns the promises that the system lists as broken, or a failure if none may be listed, not
    /// even for a while: no fault that a seed draws destroys every copy of a promise.
    pub(crate) fn listed_promises<T: Debug>(&self, listed: Vec<T>) -> Result<Vec<T>, String> {
        if listed.is_empty() || self.listed_promise() {
            Ok(listed)
        } else {
            Err(format!("promises are listed as broken: {listed:?}"))
        }
    }

    pub(crate) fn second_claim(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::SecondClaim))
    }

    pub(crate) fn no_slot(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::NoSlot))
    }

    /// Whether a user may believe that they hold a slot that is lost. This alone does not count as
    /// a needed excuse, because another claim of the user may get a slot.
    pub(crate) fn may_lose_slots(&self) -> bool {
        let loses = |excuse: &&Excuse| matches!(excuse.covers, Covers::NoSlot);
        self.all.lock().iter().any(loses)
    }

    pub(crate) fn forgotten_use(&self) -> bool {
        self.any(|covers| matches!(covers, Covers::ForgottenUse))
    }

    /// Whether uses may be lost. This alone does not count as a needed excuse: only answers that
    /// contradict each other need one.
    pub(crate) fn may_forget_uses(&self) -> bool {
        let forgets = |excuse: &&Excuse| matches!(excuse.covers, Covers::ForgottenUse);
        self.all.lock().iter().any(forgets)
    }

    /// Whether a run that is not clean has findings, and each of them is excused.
    pub(crate) fn findings(&self, found: &[LeftFinding], owed: &Owed) -> bool {
        !found.is_empty() && found.iter().all(|finding| self.finding(finding, owed))
    }

    fn finding(&self, finding: &LeftFinding, owed: &Owed) -> bool {
        self.any(|covers| matches!(covers, Covers::Finding(fits) if fits(finding, owed)))
    }

    pub(crate) fn open_letter(&self, letter: &OpenLetter, owed: &Owed) -> bool {
        self.any(|covers| matches!(covers, Covers::OpenLetter(fits) if fits(letter, owed)))
    }

    pub(crate) fn violation(&self, violation: &Violation, facts: &Facts) -> bool {
        self.any(|covers| matches!(covers, Covers::Violation(fits) if fits(violation, facts)))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;
    use crate::facts::{OlderKeys, TimedRequest};
    use crate::schedule::Timed;

    fn after(faults: &[Fault]) -> Excuses {
        let timed = |fault: &Fault| Timed {
            at_ms: 0,
            coupon: 0,
            fault: fault.clone(),
        };
        let faults = faults.iter().map(timed).collect();
        Excuses::of(&FaultSchedule::of(faults, vec![]))
    }

    const RESTORED: Fault = Fault::RestoredKeys { age_ms: 1 };
    const OLD: Fault = Fault::OldDatabase { age_ms: 1 };
    const GARBLED: Fault = Fault::Garbage {
        garbage: Garbage::Garbled,
        ms: 1,
    };
    const FORGED: Fault = Fault::Garbage {
        garbage: Garbage::Forged,
        ms: 1,
    };

    /// Asks the excuses whether one of them applies. The user `u-1` is owed a slot of drop 7, and
    /// slot 2 of drop 1 was returned.
    type Ask = fn(&Excuses, &Facts) -> bool;

    /// A question, faults after which the answer is yes, and others after which it is no.
    type Row<'a> = (
        &'a dyn Fn(&Excuses, &Facts) -> bool,
        &'a [Fault],
        &'a [&'a [Fault]],
    );

    fn violates(rule: Rule, drop: u64, slot: i64) -> impl Fn(&Excuses, &Facts) -> bool {
        move |excuses, facts| {
            let violation = Violation::new(rule, drop, slot, "u-1").at(2);
            excuses.violation(&violation, facts)
        }
    }

    /// A claim of coupon 1 by `u-1`, with the lines of its request and of its answer.
    fn claim(line: usize, during_ms: RangeInclusive<u64>) -> TimedRequest {
        TimedRequest {
            is_claim: true,
            coupon: 1,
            person: "u-1".to_owned(),
            line,
            answered_line: Some(line + 1),
            is_sold_out: true,
            during_ms,
        }
    }

    #[test]
    fn excuses_apply_only_after_their_faults_and_with_their_facts() {
        let facts = Facts {
            owed: [(7, "u-1".to_owned())].into(),
            unreadable: true,
            returned: [(1, 2)].into(),
            requests: vec![claim(1, 1..=2)],
            older_keys: vec![OlderKeys {
                coupon: 1,
                during_ms: 2..=3,
            }],
            ..Facts::default()
        };
        let both: &[Fault] = &[GARBLED, Fault::Flush];
        let no_store: &[Fault] = &[OLD, Fault::Flush];
        let one_store: [&[Fault]; 3] = [&[OLD], &[Fault::Flush], &[RESTORED]];
        let not_both: [&[Fault]; 3] = [&[GARBLED], &[Fault::Flush], &[FORGED, Fault::Flush]];
        let listed: Ask = |excuses, _| excuses.listed_promise();
        let second: Ask = |excuses, _| excuses.second_claim();
        let no_slot: Ask = |excuses, _| excuses.no_slot();
        let forgotten: Ask = |excuses, _| excuses.forgotten_use();
        let [vanished, lost] = [Rule::Vanished, Rule::Lost].map(|rule| violates(rule, 7, 1));
        let [held, shown, twice, turned, denied, lost_elsewhere] = [
            Rule::RevokedHeld,
            Rule::RevokedShown,
            Rule::PromisedTwice,
            Rule::TurnedAway,
            Rule::Denied,
            Rule::Lost,
        ]
        .map(|rule| violates(rule, 1, 2));
        let none: &[Fault] = &[Fault::Flush, Fault::OldCopy { age_ms: 1 }];
        let changed = violates(Rule::ForgottenQuantity, 1, 0);
        #[rustfmt::skip]
        let table: [Row<'_>; 16] = [
            (&changed, &[OLD], &[none, &[RESTORED]]),
            (&listed, &[RESTORED], &[none]),
            (&listed, no_store, &[&[OLD], &[Fault::Flush]]),
            (&denied, both, &not_both),
            (&second, &[RESTORED], &[none, &[OLD]]),
            (&no_slot, no_store, &one_store),
            (&no_slot, both, &not_both),
            (&forgotten, &[OLD], &[none, &[RESTORED]]),
            (&vanished, no_store, &one_store),
            (&lost, no_store, &one_store),
            (&held, no_store, &one_store),
            (&shown, no_store, &[&[OLD], &[Fault::Flush]]),
            (&twice, no_store, &one_store),
            (&lost_elsewhere, both, &not_both),
            (&turned, &[RESTORED], &[none, &[OLD]]),
            (&denied, &[RESTORED], &[none, &[OLD]]),
        ];
        for (at, (ask, faults, others)) in table.into_iter().enumerate() {
            assert!(ask(&after(faults), &facts), "{at}: {faults:?}");
            for other in others {
                assert!(!ask(&after(other), &facts), "{at}: {other:?}");
            }
        }
        assert!(!lost_elsewhere(&after(no_store), &facts), "not listed");
        let elsewhere = violates(Rule::PromisedTwice, 1, 3);
        assert!(!elsewhere(&after(no_store), &facts), "not returned");
        assert!(
            !lost_elsewhere(&after(both), &Facts::default()),
            "no letter"
        );
    }

    #[test]
    fn older_keys_excuse_only_claims_of_their_coupon_while_they_are_believed() {
        let of_another_coupon = TimedRequest {
            coupon: 2,
            ..claim(7, 150..=300)
        };
        let look_up = TimedRequest {
            is_claim: false,
            person: "u-2".to_owned(),
            ..claim(3, 150..=300)
        };
        let facts = Facts {
            coupons: [(1, 1), (2, 2)].into(),
            requests: vec![
                claim(1, 10..=99),
                claim(3, 150..=300),
                claim(5, 201..=300),
                of_another_coupon,
                look_up,
            ],
            older_keys: vec![OlderKeys {
                coupon: 1,
                during_ms: 100..=200,
            }],
            ..Facts::default()
        };
        let excuses = after(&[RESTORED]);
        let is_excused = |rule, drop, line, person| {
            excuses.violation(&Violation::new(rule, drop, 1, person).at(line), &facts)
        };
        for rule in [Rule::Denied, Rule::TurnedAway, Rule::RevokedShown] {
            let answers = [2, 4, 6, 8].map(|line| is_excused(rule, 1, line, "u-1"));
            assert_eq!(answers, [false, true, false, false], "{rule:?}");
        }
        for rule in [Rule::GivenUnlisted, Rule::HeldUnlisted] {
            let seen = [2, 4, 9].map(|line| is_excused(rule, 1, line, "u-1"));
            assert_eq!(seen, [false, true, true], "{rule:?}");
            assert!(!is_excused(rule, 2, 9, "u-1"), "{rule:?}: another coupon");
            assert!(
                !is_excused(rule, 1, 9, "u-2"),
                "{rule:?}: another user, who only looked"
            );
        }
    }

    #[test]
    fn a_holder_may_get_sold_out_only_within_a_lease_after_a_step_of_the_clock() {
        let facts = Facts {
            clock_steps_ms: vec![1_000, 3_000],
            requests: vec![
                claim(1, 900..=999),
                claim(2, 900..=1_000),
                claim(3, 1_200..=1_900),
                claim(4, 1_201..=1_202),
                claim(5, 3_100..=3_101),
            ],
            ..Facts::default()
        };
        let excuses = after(&[Fault::RedisClock {
            shift_ms: 30,
            ms: 2_000,
        }]);
        let is_excused = [2, 3, 4, 5, 6, 7].map(|line| {
            let denied = Violation::new(Rule::Denied, 1, 2, "u-1").at(line);
            excuses.violation(&denied, &facts)
        });
        assert_eq!(is_excused, [false, true, true, false, true, false]);
    }

    #[test]
    fn one_fault_lists_promises_only_if_an_older_state_was_restored_into_a_running_redis() {
        for (fault, expected) in [(Fault::Flush, false), (RESTORED, true), (OLD, false)] {
            let excuses = after(std::slice::from_ref(&fault));
            assert_eq!(
                excuses.listed_promises(vec!["u-1"]).is_ok(),
                expected,
                "{fault}"
            );
            assert!(excuses.listed_promises::<&str>(vec![]).is_ok(), "{fault}");
        }
    }

    #[test]
    fn faults_without_effect_excuse_nothing() {
        let faults = [OLD, Fault::Flush, RESTORED];
        for (took, listed, second, no_slot) in [
            (&[][..], false, false, false),
            (&[&OLD, &Fault::Flush], true, false, true),
            (&[&OLD], false, false, false),
            (&[&RESTORED], true, true, false),
        ] {
            let excuses = after(&faults);
            assert!(excuses.may_lose_slots(), "before the faults");
            excuses.keep_after(took);
            let applies = [
                excuses.listed_promise(),
                excuses.second_claim(),
                excuses.may_lose_slots(),
            ];
            assert_eq!(applies, [listed, second, no_slot], "{took:?}");
        }
    }

    #[test]
    fn dead_letters_and_findings_of_owed_users_are_excused_except_redis_lost() {
        let owed = Owed::from([(7, "u-1".to_owned())]);
        let excuses = after(&[]);
        assert!(!excuses.findings(&[], &owed), "a run without findings");
        for (kind, drop, user, is_excused) in [
            ("broken_promise", Some(7), Some("u-1"), true),
            ("redis_lost", Some(7), Some("u-1"), false),
            ("broken_promise", Some(8), Some("u-1"), false),
            ("broken_promise", Some(7), Some("u-2"), false),
            ("failed_claim", Some(7), None, false),
        ] {
            let user = user.map(str::to_owned);
            let letter = OpenLetter {
                drop,
                user: user.clone(),
            };
            let finding = LeftFinding {
                kind: kind.into(),
                drop,
                user,
            };
            let excused = excuses.findings(std::slice::from_ref(&finding), &owed);
            assert_eq!(excused, is_excused, "{finding:?}");
            if kind != "redis_lost" {
                assert_eq!(
                    excuses.open_letter(&letter, &owed),
                    is_excused,
                    "{letter:?}"
                );
            }
        }
    }
}
