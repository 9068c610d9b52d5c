//! What looks leave behind: a look replaces what it judged, and nothing else.

use firstcome_notifier::levels::{Levels, fold};
use firstcome_notifier::queries::levels::LevelRow;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{
    Absence, AlertKind, DropReport, Finding, Judged, Kind, Kinds, Run, Trigger,
};
use firstcome_shared::subject::Subject;
use proptest::prelude::*;

use super::at;

const KINDS: [Kind; 3] = [Kind::Unissued, Kind::FailedClaim, Kind::SlotConflict];

/// What a look at one drop judges and finds: the judged kinds, the given-up ones, and for each kind
/// its slots.
#[derive(Debug, Clone)]
struct Look {
    drop: i64,
    judged: Vec<bool>,
    given_up: Vec<bool>,
    slots: Vec<Vec<i64>>,
    dry_run: bool,
}

fn kinds(which: &[bool]) -> Kinds {
    let kinds = KINDS.iter().zip(which).filter(|(_, is_in)| **is_in);
    Kinds::only(kinds.map(|(kind, _)| AlertKind::Left(*kind)))
}

impl Look {
    /// A look that finds a kind has judged it.
    fn run(&self) -> Run {
        let mut judged = self.judged.clone();
        let mut report = DropReport::begun(CouponId(self.drop), DropId(self.drop), 100);
        for (n, slots) in self.slots.iter().enumerate() {
            judged[n] |= !slots.is_empty();
            report.findings.extend(slots.iter().map(|slot| Finding {
                slot: Some(*slot),
                ..Finding::report(KINDS[n], "")
            }));
        }
        report.judged = Judged {
            kinds: kinds(&judged),
            given_up: kinds(&self.given_up),
            is_repeated: false,
        };
        Run {
            dry_run: self.dry_run,
            drops: vec![report],
            ..Run::begun("run", Trigger::Cron, at(0))
        }
    }
}

fn look() -> impl Strategy<Value = Look> {
    let flags = || prop::collection::vec(any::<bool>(), 3);
    let slots = prop::collection::vec(prop::collection::vec(1_i64..6, 0..3), 3);
    (1_i64..4, flags(), flags(), slots, prop::bool::weighted(0.1)).prop_map(
        |(drop, judged, given_up, slots, dry_run)| Look {
            drop,
            judged,
            given_up,
            slots,
            dry_run,
        },
    )
}

fn apply(levels: &mut Levels, run: &Run, second: i64) {
    *levels = fold(levels, run, Subject::Drop, at(second));
}

fn level(levels: &Levels, drop: i64, kind: Kind) -> Option<&LevelRow> {
    let word = kind.as_str();
    levels
        .values()
        .find(|level| level.drop_id == Some(DropId(drop)) && level.kind == word)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn look_replaces_what_it_judged_and_nothing_else(looks in prop::collection::vec(look(), 1..12)) {
        let mut levels = Levels::new();
        for (second, look) in looks.iter().enumerate() {
            let second = i64::try_from(second).unwrap();
            let before = levels.clone();
            let run = look.run();
            apply(&mut levels, &run, second);
            if look.dry_run {
                prop_assert_eq!(&levels, &before);
                continue;
            }
            for drop in 1..4 {
                for (n, kind) in KINDS.iter().enumerate() {
                    let was = level(&before, drop, *kind);
                    let is = level(&levels, drop, *kind);
                    if drop != look.drop {
                        prop_assert_eq!(was, is);
                        continue;
                    }
                    let found = &look.slots[n];
                    let judged = run.judged_about(Some(CouponId(drop)), Some(DropId(drop)));
                    let says = judged.says(AlertKind::Left(*kind));
                    match (found.is_empty(), says) {
                        (false, _) => {
                            let is = is.unwrap();
                            prop_assert!(!is.given_up && is.last_at == at(second));
                            let distinct: std::collections::BTreeSet<_> = found.iter().collect();
                            prop_assert!(is.number >= distinct.len() as u64);
                            let is_new = was.is_none_or(|was| was.given_up);
                            prop_assert_eq!(is.first_at == at(second), is_new);
                        }
                        (true, Absence::Gone) => prop_assert!(is.is_none()),
                        (true, Absence::GivenUp) => prop_assert_eq!(is.map(|it| it.given_up), was.map(|_| true)),
                        (true, Absence::Open) => prop_assert_eq!(was, is),
                    }
                }
            }
        }
    }

    #[test]
    fn looks_at_different_coupons_commute(
        before in prop::collection::vec(look(), 0..6), one in look(), other in look()
    ) {
        prop_assume!(one.drop != other.drop);
        let mut levels = Levels::new();
        for look in &before {
            apply(&mut levels, &look.run(), 0);
        }
        let mut swapped = levels.clone();
        apply(&mut levels, &one.run(), 1);
        apply(&mut levels, &other.run(), 1);
        apply(&mut swapped, &other.run(), 1);
        apply(&mut swapped, &one.run(), 1);
        prop_assert_eq!(levels, swapped);
    }
}

/// A pass writes what is wrong, and nothing if nothing is.
#[test]
fn clean_look_changes_nothing_and_the_same_look_only_its_time() {
    let clean = Look {
        drop: 1,
        judged: vec![true; 3],
        given_up: vec![false; 3],
        slots: vec![Vec::new(); 3],
        dry_run: false,
    };
    let mut levels = Levels::new();
    apply(&mut levels, &clean.run(), 0);
    assert_eq!(levels, Levels::new());
    let found = Look {
        slots: vec![vec![3], Vec::new(), Vec::new()],
        ..clean
    };
    apply(&mut levels, &found.run(), 0);
    let mut again = levels.clone();
    apply(&mut again, &found.run(), 30);
    for level in levels.values_mut() {
        level.last_at = at(30);
    }
    assert_eq!(again, levels);
}

/// Otherwise something that one look saw would last as long as its campaign rests.
#[test]
fn report_that_is_repeated_while_a_campaign_rests_renews_no_level() {
    let found = Look {
        drop: 1,
        judged: vec![true; 3],
        given_up: vec![false; 3],
        slots: vec![vec![3], Vec::new(), Vec::new()],
        dry_run: false,
    };
    let mut repeated = found.run();
    repeated.drops[0].judged = Judged {
        is_repeated: true,
        ..Judged::default()
    };
    let mut levels = Levels::new();
    apply(&mut levels, &found.run(), 0);
    let seen = levels.clone();
    apply(&mut levels, &repeated, 30);
    assert_eq!(levels, seen);
    // What the look found could not be stored then.
    let mut later = Levels::new();
    apply(&mut later, &repeated, 30);
    assert_eq!(level(&later, 1, KINDS[0]).unwrap().last_at, at(30));
}
